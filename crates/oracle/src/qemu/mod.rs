//! Comparison with QEMU, for what the Sail model's translation leaves out: loads, stores and atomics, address
//! translation and PMP on them, floating point, and some bit manipulation.
//!
//! A batch of random cases is a table in guest memory (`layout`). A small program (`harness`) loads each
//! case's registers, executes its instruction in its mode, and stores what came out, back into the table. The
//! same memory is given to QEMU and to the hart; afterwards the two memories must be equal.

mod batch;
mod case;
mod excuse;
mod guest;
mod harness;
mod layout;

pub use batch::{Batch, compare};
