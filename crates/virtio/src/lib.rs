//! Virtqueues, the virtio-mmio transport and the front ends of Rvisor's devices (Virtio 1.3).
//!
//! Key types: [`Transport`] puts a [`FrontEnd`] on the board's bus as a [`Device`](rvisor_waist::Device);
//! [`Queue`](queue::Queue) takes chains of buffers out of guest memory and gives them back; [`blk`], [`console`],
//! [`net`], [`p9`] and [`rng`] hold the front ends, each driven by a back end of [`rvisor_waist`].
//!
//! The crate trusts nothing that a guest writes: see [`queue`] for what it checks.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod balloon;
pub mod blk;
pub mod console;
mod empty;
pub mod features;
mod front_end;
pub mod net;
pub mod p9;
pub mod queue;
#[cfg(test)]
mod rings;
pub mod rng;
pub mod saved;
mod segments;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

pub use empty::EmptySlot;
pub use front_end::{FrontEnd, Queues};
pub use segments::Segments;
pub use transport::Transport;
