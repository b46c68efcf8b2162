//! The gdb stub: a machine under gdb, through the remote serial protocol (GDB manual, appendix "Remote Serial
//! Protocol"; crate `gdbstub`).
//!
//! Key types: [`GdbListener`] (where gdb connects), [`GdbSession`] (the stub at work, on a [`Link`]).

mod listener;
mod monitor;
mod registers;
mod session;
mod target;

pub use listener::{GdbAddress, GdbListener, Listening};
pub use session::{GdbSession, Link};
