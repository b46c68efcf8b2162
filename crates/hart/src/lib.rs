//! One hart: architectural state, CSR rules, privilege and traps, page-table walk, PMP, and the interpreter.
#![no_std]
#![forbid(unsafe_code)]

mod exit;

pub use exit::{AccessKind, DeviceAccess, Environment, Exit, Target};
