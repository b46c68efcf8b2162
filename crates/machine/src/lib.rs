//! The virtual machine: board, address dispatch, device tree, SBI, boot protocols, and the loop that every
//! home runs for each hart.
//!
//! Key types: [`Vm`] (what the threads of a machine share), [`VirtualHart`] (a hart at work), [`Engine`] (what
//! makes it advance), [`HartSignals`](signals::HartSignals) (what others tell it).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod board;
pub mod boot;
pub mod bundle;
mod checksum;
mod debug;
pub mod device_tree;
mod engine;
mod exits;
mod extensions;
pub mod fit;
mod host_interface;
pub mod memory_map;
pub mod persist;
mod power;
pub mod save_area;
mod sbi;
pub mod signals;
pub mod slots;
pub mod story;
#[cfg(test)]
mod testing;
mod virtual_hart;
mod vm;

pub use debug::{DebugControl, DebugStop};
pub use engine::{Engine, Interpreter};
pub use exits::ExitCounts;
pub use extensions::{EXTENSIONS, Extensions};
pub use host_interface::HostInterface;
pub use rvisor_devices::finisher::PowerRequest;
pub use rvisor_hart::TranslationMode;
pub use virtual_hart::{Progress, VirtualHart};
pub use vm::{Backends, HartEnvironment, MAX_HARTS, SlotBuilder, Vm, VmConfig};
