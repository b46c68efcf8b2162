//! One hart: architectural state, CSR rules, privilege and traps, page-table walk, PMP, and the interpreter.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod csr;
mod debug;
mod exit;
pub mod float;
mod interpreter;
mod interrupt;
mod mmu;
mod observe;
mod persist;
mod pmp;
mod state;
#[cfg(test)]
mod testing;
mod tlb;
mod trap;

pub use csr::{CacheBlock, CsrOperation, Csrs, SSTATUS_WRITABLE};
pub use debug::{DebugHit, DebugPoints, Walk, WalkStep, WatchKind, Watchpoint, walk_tables};
pub use exit::{AccessKind, DeviceAccess, Environment, Exit, Target};
pub use mmu::{Access, Translation, TranslationContext, TranslationMode};
pub use observe::{HartEvent, Observer};
pub use state::{Config, Hart, Reservation};
pub use tlb::{GuestFence, Span};
pub use trap::{Cause, IllegalInstruction, Trap};
