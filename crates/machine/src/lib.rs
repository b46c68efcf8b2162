//! The virtual machine: board, address dispatch, device tree, SBI and boot protocols.
#![no_std]
#![forbid(unsafe_code)]
