//! The virtual machine: board, address dispatch, device tree, SBI and boot protocols.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot;
pub mod device_tree;
pub mod memory_map;
