//! The back end for x86-64.

pub mod assembler;
mod atomic;
mod control;
mod float;
mod integer;
pub mod lower;
mod memory;
mod moves;
pub mod placement;
pub mod registers;
pub mod system;
pub mod thunks;
