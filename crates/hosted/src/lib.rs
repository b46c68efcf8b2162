//! The type-2 home: runs a machine as an ordinary process of a Linux host.
//!
//! Key types: [`HostMemory`] (RAM as host memory), [`HostClock`], [`disk::Disk`] (disks on files),
//! [`HostEntropy`].
//!
//! # Safety
//! Unsafe code stands in `memory` only: guest memory is reached through atomics and raw copies, never through
//! references.

mod clock;
pub mod disk;
mod entropy;
mod memory;
pub mod net;

pub use clock::HostClock;
pub use entropy::HostEntropy;
pub use memory::HostMemory;
