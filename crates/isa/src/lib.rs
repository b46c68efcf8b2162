//! The RISC-V instruction set from one table: decode, encode, disassemble; CSR numbers and fields.
#![no_std]
#![forbid(unsafe_code)]
