//! The type-2 home: runs a machine as an ordinary process of a Linux host.
//!
//! Key types: [`HostMemory`] (RAM as host memory), [`HostClock`], [`disk::Disk`] (disks on files),
//! [`share::Shares`] (directories), [`HostEntropy`], [`Stream`] (a serial line or console port), and [`runner::run`], which drives a machine's
//! harts on threads.
//!
//! # Safety
//! Unsafe code stands in `memory`, where guest memory is reached through atomics and raw copies, never through
//! references; and in `net::tap`, for the call that attaches to a device.

pub mod changes;
mod clock;
pub mod counters;
pub mod debugger;
pub mod disk;
mod entropy;
pub mod gdb;
mod lockstep;
pub mod machine;
mod memory;
mod memory_copy;
pub mod net;
mod pause;
mod pool;
pub mod runner;
pub mod sandbox;
pub mod share;
mod stolen_time;
pub mod stream;
pub mod terminal;
pub mod throttle;
pub mod trace;
mod wake;

pub use rvisor_translator as translator;

pub use clock::HostClock;
pub use entropy::{HostEntropy, random_mac};
pub use memory::HostMemory;
pub use memory_copy::MemoryCopy;
pub use stream::Stream;
pub use wake::Wake;
