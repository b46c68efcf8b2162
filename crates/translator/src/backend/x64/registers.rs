//! Which host register holds what while translated code runs.
//!
//! `rsp` points at the [`Frame`], `rbp` at the TLB of the current space, `ebx` counts the instructions left.
//! `rax`, `rcx` and `rdx` are free in every instruction's code. The rest are guest registers, the ones that
//! compilers use most.

use super::assembler::*;
use crate::ir::{HOSTS, Holding};
use crate::runtime::frame::Frame;

/// Guest integer registers that live in host registers: sp, s0, s1, a0 to a6.
pub const PINNED: [(u8, Reg); HOSTS] =
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

/// The guest registers of [`PINNED`].
pub const HELD_AT_HOME: Holding = {
    let mut held = [0; HOSTS];
    let mut host = 0;
    while host < HOSTS {
        held[host] = PINNED[host].0;
        host += 1;
    }
    held
};

/// No host register.
const NONE: u8 = 0xff;

const HOME: [u8; 32] = {
    let mut homes = [NONE; 32];
    let mut host = 0;
    while host < HOSTS {
        homes[PINNED[host].0 as usize] = host as u8;
        host += 1;
    }
    homes
};

/// The number in [`PINNED`] of a guest register that stands there.
pub fn home_of(guest: u8) -> Option<usize> {
    Some(usize::from(HOME[usize::from(guest)])).filter(|&host| host < HOSTS)
}

/// Which host register holds which guest register. Everywhere but inside of traces: as [`PINNED`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assignment {
    held: Holding,
    /// By guest register.
    hosts: [u8; 32],
    /// Host registers whose value the frame doesn't have, a bit for each.
    changed: u16,
}

impl Assignment {
    /// As [`PINNED`] says. The frame has none of the values.
    pub const HOME: Self = Self { held: HELD_AT_HOME, hosts: HOME, changed: u16::MAX };

    /// Where the value of a guest register is.
    #[inline]
    pub fn place(&self, guest: u8) -> Place {
        match self.hosts[usize::from(guest)] {
            _ if guest == 0 => Place::Zero,
            NONE => Place::Slot(slot(guest)),
            host => Place::Host(PINNED[usize::from(host)].1),
        }
    }

    /// What is held.
    pub fn held(&self) -> &Holding {
        &self.held
    }

    /// Whether the frame doesn't have what a host register holds.
    pub fn is_changed(&self, host: usize) -> bool {
        self.held[host] != 0 && self.changed & 1 << host != 0
    }

    /// A guest register has been written, wherever it is.
    pub fn note_written(&mut self, guest: u8) {
        let host = self.hosts[usize::from(guest)];
        if host != NONE {
            self.changed |= 1 << host;
        }
    }

    /// A host register holds a guest register, or nothing (0), from now on. The frame has the value.
    pub fn hold(&mut self, host: usize, guest: u8) {
        let before = std::mem::replace(&mut self.held[host], guest);
        if self.hosts[usize::from(before)] == host as u8 {
            self.hosts[usize::from(before)] = NONE;
        }
        self.changed &= !(1 << host);
        if guest != 0 {
            self.hosts[usize::from(guest)] = host as u8;
        }
    }

    /// The same, but that the frame may have none of the values.
    pub fn all_changed(self) -> Self {
        Self { changed: u16::MAX, ..self }
    }
}

/// Where the frame has a guest register.
pub const fn slot(guest: u8) -> Mem {
    Mem::new(RSP, Frame::x_offset(guest))
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
