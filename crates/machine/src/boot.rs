//! Boot protocols: what a kernel, firmware or bare program expects of the machine it wakes up in.
//!
//! [`Program`] is a boot protocol with its files; [`image`], [`initrd`] and [`elf`] read them, [`layout`] decides where
//! everything goes. Reading the files from a disk and choosing a protocol is the caller's business.

pub mod elf;
pub mod image;
pub mod initrd;
pub mod layout;
mod program;

pub use program::{BootError, Placed, Program};

#[cfg(test)]
mod test_utils;
