//! Which host register holds what while translated code runs.
//!
//! `rsp` points at the [`Frame`], `rbp` at the TLB of the current space, `ebx` counts the instructions left.
//! `rax`, `rcx` and `rdx` are free in every instruction's code. The rest are guest registers, the ones that
//! compilers use most.

use super::assembler::*;
use crate::runtime::frame::Frame;

/// Guest integer registers that live in host registers: sp, s0, s1, a0 to a6.
pub const PINNED: [(u8, Reg); 10] =
    [(10, RDI), (11, RSI), (12, R8), (13, R9), (14, R10), (15, R11), (16, R12), (2, R14), (8, R15), (9, R13)];

/// Guest floating-point registers that live in host registers: fa0 to fa7, ft0 to ft2, fs0. `xmm0` to `xmm3`
/// are free.
pub const PINNED_FLOAT: [(u8, Xmm); 12] = [
    (10, Xmm(4)),
    (11, Xmm(5)),
    (12, Xmm(6)),
    (13, Xmm(7)),
    (14, Xmm(8)),
    (15, Xmm(9)),
    (16, Xmm(10)),
    (17, Xmm(11)),
    (0, Xmm(12)),
    (1, Xmm(13)),
    (2, Xmm(14)),
    (8, Xmm(15)),
];

/// Host register of each guest register; 0xff where it has none.
const HOME: [u8; 32] = homes(&PINNED);

const fn homes(pinned: &[(u8, Reg); 10]) -> [u8; 32] {
    let mut homes = [0xff; 32];
    let mut i = 0;
    while i < pinned.len() {
        homes[pinned[i].0 as usize] = pinned[i].1.0;
        i += 1;
    }
    homes
}

const FLOAT_HOME: [u8; 32] = {
    let mut homes = [0xff; 32];
    let mut i = 0;
    while i < PINNED_FLOAT.len() {
        homes[PINNED_FLOAT[i].0 as usize] = PINNED_FLOAT[i].1.0;
        i += 1;
    }
    homes
};

/// Where the value of a guest integer register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// `x0`.
    Zero,
    Host(Reg),
    Slot(Mem),
}

pub const fn place(register: u8) -> Place {
    match HOME[register as usize] {
        _ if register == 0 => Place::Zero,
        0xff => Place::Slot(Mem::new(RSP, Frame::x_offset(register))),
        home => Place::Host(Reg(home)),
    }
}

/// Where the value of a guest floating-point register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FloatPlace {
    Host(Xmm),
    Slot(Mem),
}

pub const fn float_place(register: u8) -> FloatPlace {
    match FLOAT_HOME[register as usize] {
        0xff => FloatPlace::Slot(Mem::new(RSP, Frame::f_offset(register))),
        home => FloatPlace::Host(Xmm(home)),
    }
}
