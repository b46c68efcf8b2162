//! The type-2 home: runs a machine as an ordinary process of a Linux host.
//!
//! Key types: [`HostMemory`] (RAM as host memory), [`HostClock`].
//!
//! # Safety
//! Unsafe code stands in `memory` only: guest memory is reached through atomics and raw copies, never through
//! references.

mod clock;
mod memory;

pub use clock::HostClock;
pub use memory::HostMemory;
