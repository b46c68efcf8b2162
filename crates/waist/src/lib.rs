//! Where engines, devices and homes meet: address newtypes and a few small traits.
//!
//! Key types: [`GuestVirtual`] and [`GuestPhysical`] (addresses that carry their space in the type),
//! [`GuestMemory`] (a VM's RAM), [`Device`] (a front end on the board), [`InterruptLine`], [`Clock`], and the
//! back-end traits [`BlockBackend`], [`NetBackend`], [`ConsoleBackend`], [`EntropyBackend`] and [`FileShareBackend`]
//! that a home implements; [`StateWriter`] and [`StateReader`] (the state of a machine's parts, for one that goes on
//! elsewhere).
//!
//! This crate is not for behaviour: nothing here knows an instruction, a register or a host.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod backend;
mod code_pages;
mod device;
mod memory;
mod share;
mod state;

pub use address::{GuestPhysical, GuestVirtual, PAGE_SIZE};
pub use backend::{
    BlockBackend, BlockCompletion, BlockError, BlockOperation, BlockRequest, ConsoleBackend, EntropyBackend,
    NetBackend, SECTOR_SIZE, Segment,
};
pub use code_pages::CodePages;
pub use device::{Clock, Device, InterruptLine, TIMEBASE_FREQUENCY, Width};
pub use memory::{AtomicWidth, GuestMemory, OutOfRange, Word};
pub use share::{
    FileShareBackend, LockKind, SetTime, ShareAttributes, ShareCall, ShareChange, ShareCompletion,
    ShareEntry, ShareError, ShareFile, ShareLock, ShareReply, ShareRequest, ShareSpace, ShareTime,
};
pub use state::{StateError, StateReader, StateWriter};
