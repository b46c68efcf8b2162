//! The C99 integer types that the Berkeley SoftFloat bindings name, as the x86-64 Linux ABI defines them.
//!
//! It replaces the crate of the same name, which needs CMake to find out. Only tests depend on it.
#![no_std]
#![allow(non_camel_case_types)]

pub type uint_fast8_t = u8;
pub type int_fast32_t = i64;
pub type uint_fast32_t = u64;
pub type int_fast64_t = i64;
pub type uint_fast64_t = u64;
