//! Rvisor's default engine: dynamic binary translation of RISC-V to x86-64, whole system.
//!
//! Key types: [`Translator`] (the engine of one hart), [`Shared`] (what the harts of a VM share),
//! [`DirectMemory`] (what it needs from a home's guest memory).
//!
//! Guest code goes from the front end (`frontend`) as superblocks (`ir`) to the back end (`backend`), and
//! runs in `runtime`. What runs often is translated once more, in larger pieces that went through `passes`.
//!
//! # Safety
//! This crate writes and runs machine code. What makes that sound: code is written for one address and
//! executed only there; every guest access goes through a translation that the hart's rules made and that lies
//! inside RAM; helpers get the frame of the thread that called them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::io;
use std::sync::Arc;

mod backend;
mod frontend;
mod ir;
mod passes;
mod runtime;

pub use runtime::run::{DirectMemory, Translator};
pub use runtime::shared::Shared;
pub use runtime::store::check as check_store;
pub use runtime::store::file::Refusal;
pub use runtime::{Optimize, Options};

/// Bytes of host code that a VM's cache holds unless the options say otherwise.
const CODE_MEMORY: usize = 128 << 20;

/// Fewest bytes of host code that a VM's cache holds.
pub const LEAST_CODE_MEMORY: usize = 1 << 20;

/// What `harts` harts of a VM with memory of type `M` share.
///
/// # Errors
/// If the host has no memory for the code cache.
pub fn share<M: DirectMemory + 'static>(harts: usize, options: Options) -> io::Result<Arc<Shared>> {
    let size = options.code_memory.unwrap_or(CODE_MEMORY).max(LEAST_CODE_MEMORY);
    Ok(Arc::new(Shared::new(harts, size, &runtime::helpers::helpers::<M>(), options)?))
}
