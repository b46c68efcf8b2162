//! The type-1 home: Rvisor as the only code in S-mode on RISC-V hardware, and its engines: `vs` for hardware with the
//! H extension, `deprivileged` for hardware without.
//!
//! Key types: [`Deprivileged`](engine::Deprivileged) and [`Vs`](engine::Vs) (the engines),
//! [`Shadow`](shadow::Shadow) and [`Stage`](shadow::Stage) (the page tables that the hardware sees while a guest
//! runs), [`Queue`](queue::Queue) (who runs when), [`Guest`](guest::Guest),
//! and [`Processor`](processor::Processor) (what all of them need of a physical hart).
//!
//! The machine that guests see is `rvisor-machine`'s, as in the hosted home. Unsafe code and assembly stand in
//! [`arch`] only; everything else builds and is tested on the development host, too.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod address;
pub mod arch;
pub mod backend;
pub mod clock;
pub mod copies;
#[cfg(target_os = "none")]
pub mod driver;
pub mod engine;
pub mod guest;
#[cfg(target_os = "none")]
mod hardware;
#[cfg(target_os = "none")]
mod home;
pub mod monitor;
pub mod options;
pub mod platform;
pub mod processor;
pub mod pte;
pub mod queue;
pub mod regions;
pub mod sequence;
#[cfg(target_os = "none")]
mod setup;
pub mod shadow;
pub mod stuck;
pub mod terminal;
#[cfg(test)]
mod testing;
pub mod virtualization;
