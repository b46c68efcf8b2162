//! Rvisor's image store: pulls, verifies and builds guest images.
//!
//! Key types: [`Store`] (the images on this host), [`Image`] (one of them, ready to run), [`Recipe`] (what goes
//! into one), and the functions [`pull`] and [`build`]. What needs a virtual machine to be run goes through
//! [`Builder`], what takes long tells it to [`Progress`](progress::Progress).
//!
//! This crate is not for running images, and it depends on none of the crates that do.
#![forbid(unsafe_code)]

pub mod archive;
mod build;
pub mod cpio;
pub mod deb;
mod disk;
mod elf;
mod error;
pub mod fetch;
mod initramfs;
mod kernel;
mod payload;
pub mod progress;
pub mod recipe;
mod store;

pub use build::{BuildDisk, BuildVm, Builder, Options, build, pull};
pub use error::{Error, Result};
pub use initramfs::overlay as run_overlay;
pub use recipe::Recipe;
pub use store::{Blob, Draft, Image, Manifest, Name, NewImage, Store, lock_new};

/// The digest by which a file is kept in the store.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// Bytes as lowercase hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
