//! Disks on host files: back ends for virtio-blk.
//!
//! Key types: [`DiskOptions`] opens a disk (raw or qcow2) as an [`Image`] that is locked against other
//! processes; [`Disk`] serves an image as a [`rvisor_waist::BlockBackend`] from I/O threads of its own, so
//! that no hart ever waits for the host's storage; [`create_overlay`] makes a copy-on-write disk over a base
//! that stays untouched; [`Tracked`] knows what is written to one while somebody copies it.
//!
//! [`info`], [`check`], [`resize`] and [`convert`] are for disks that no machine uses.
//!
//! Not for what the guest sees: that is virtio-blk's front end.

mod create;
mod error;
mod image;
mod lock;
mod options;
mod qcow2;
mod raw;
mod tools;
mod tracked;
mod transfer;
mod worker;

#[cfg(test)]
mod test_memory;

pub use create::create_empty;
pub use error::DiskError;
pub use image::Image;
pub use options::{DiskOptions, Format};
pub use qcow2::{create_overlay, create_overlay_beside, set_backing};
pub use tools::{DiskInfo, Findings, backing_files, check, convert, info, resize};
pub use tracked::{BLOCK, Extent, Tracked};
pub use worker::Disk;
