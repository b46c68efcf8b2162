//! One hart: architectural state, CSR rules, privilege and traps, page-table walk, PMP, and the interpreter.
#![no_std]
#![forbid(unsafe_code)]

mod csr;
mod exit;
pub mod float;
mod interrupt;
mod mmu;
mod pmp;
mod state;
mod tlb;
mod trap;

pub use csr::{CsrOperation, Csrs};
pub use exit::{AccessKind, DeviceAccess, Environment, Exit, Target};
pub use mmu::{Access, Translation, TranslationContext};
pub use state::{Config, Hart, Reservation, TranslationMode};
pub use trap::{Cause, Exception, IllegalInstruction, Interrupt, Privilege, Trap};
