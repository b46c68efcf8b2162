use alloc::vec::Vec;

use rvisor_isa::csr::mstatus;
use rvisor_isa::{Extension, Instruction, Op};

use super::execute;
use crate::IllegalInstruction;
use crate::float::{Flags, Half, Single, nan_box};
use crate::interpreter::registers::Registers;
use crate::state::Hart;
use crate::testing::hart;

/// A hart with floating point on and unused, and what it computes with.
struct Machine {
    hart: Hart,
    x: Registers,
}

impl Machine {
    fn new() -> Self {
        let mut hart = hart();
        hart.csr.mstatus = hart.csr.mstatus & !mstatus::FS | mstatus::FS_CLEAN;
        Self { hart, x: Registers::new() }
    }

    /// Executes `op rd=1, rs1=2, rs2=3, rs3=4` with the operands in the `f` registers and the first one in
    /// `x` too.
    fn run(&mut self, op: Op, mode: u8, operands: [u64; 3]) -> Result<(), IllegalInstruction> {
        self.hart.f[2..5].copy_from_slice(&operands);
        self.x.write(2, operands[0]);
        execute(&mut self.hart, &mut self.x, &instruction(op, mode))
    }

    fn is_dirty(&self) -> bool {
        self.hart.csr.mstatus & mstatus::FS == mstatus::FS
    }
}

fn instruction(op: Op, mode: u8) -> Instruction {
    Instruction { rd: 1, rs1: 2, rs2: 3, rs3: 4, aux: mode, ..Instruction::new(op, 4) }
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

fn s(value: f32) -> u64 {
    nan_box::<Single>(value.to_bits().into())
}

fn h(bits: u16) -> u64 {
    nan_box::<Half>(bits.into())
}

const RNE: u8 = 0;
const RTZ: u8 = 1;
const RDN: u8 = 2;
const RUP: u8 = 3;
const RMM: u8 = 4;
const NAN_D: u64 = 0x7ff8 << 48;
const NAN_S: u64 = 0xffff_ffff_7fc0_0000;
const NAN_H: u64 = 0xffff_ffff_ffff_7e00;

#[test]
fn results_go_to_f_boxed_and_with_flags() {
    const NX: u8 = Flags::NX;
    const UF: u8 = Flags::UF;
    const OF: u8 = Flags::OF;
    const DZ: u8 = Flags::DZ;
    const NV: u8 = Flags::NV;
    let (third, sixth) = (1.0 / 3.0, 1.0 / 6.0);
    let cases: &[(Op, u8, [u64; 3], u64, u8)] = &[
        (Op::FaddD, RNE, [d(1.5), d(2.25), 0], d(3.75), 0),
        (Op::FaddD, RNE, [d(1.0), d(1e-30), 0], d(1.0), NX),
        (Op::FaddD, RUP, [d(1.0), d(1e-30), 0], d(1.0 + f64::EPSILON), NX),
        (Op::FaddS, RNE, [s(1.5), s(-1.5), 0], s(0.0), 0),
        (Op::FaddS, RDN, [s(1.5), s(-1.5), 0], s(-0.0), 0),
        (Op::FaddH, RNE, [h(0x3c00), h(0x3c00), 0], h(0x4000), 0),
        (Op::FaddD, RNE, [d(f64::INFINITY), d(f64::NEG_INFINITY), 0], NAN_D, NV),
        (Op::FaddS, RNE, [d(1.0), s(1.0), 0], NAN_S, 0),
        (Op::FsubD, RNE, [d(1.0), d(0.75), 0], d(0.25), 0),
        (Op::FmulD, RNE, [d(1e308), d(10.0), 0], d(f64::INFINITY), OF | NX),
        (Op::FmulD, RTZ, [d(1e308), d(10.0), 0], d(f64::MAX), OF | NX),
        (Op::FmulD, RNE, [d(5e-324), d(0.5), 0], d(0.0), UF | NX),
        (Op::FmulD, RUP, [d(5e-324), d(0.5), 0], d(5e-324), UF | NX),
        (Op::FdivD, RNE, [d(1.0), d(3.0), 0], d(third), NX),
        (Op::FdivD, RUP, [d(1.0), d(3.0), 0], d(third.next_up()), NX),
        (Op::FdivD, RNE, [d(-1.0), d(0.0), 0], d(f64::NEG_INFINITY), DZ),
        (Op::FdivS, RNE, [s(0.0), s(0.0), 0], NAN_S, NV),
        (Op::FsqrtD, RNE, [d(2.25), 0, 0], d(1.5), 0),
        (Op::FsqrtD, RNE, [d(-1.0), 0, 0], NAN_D, NV),
        (Op::FmaddD, RNE, [d(3.0), d(5.0), d(1.0)], d(16.0), 0),
        (Op::FmsubD, RNE, [d(3.0), d(5.0), d(1.0)], d(14.0), 0),
        (Op::FnmsubD, RNE, [d(3.0), d(5.0), d(1.0)], d(-14.0), 0),
        (Op::FnmaddD, RNE, [d(3.0), d(5.0), d(1.0)], d(-16.0), 0),
        (Op::FmaddD, RNE, [d(third), d(3.0), d(-1.0)], d(-f64::EPSILON / 4.0), 0),
        (Op::FsgnjD, RNE, [d(2.0), d(-1.0), 0], d(-2.0), 0),
        (Op::FsgnjnD, RNE, [d(2.0), d(2.0), 0], d(-2.0), 0),
        (Op::FsgnjxD, RNE, [d(-2.0), d(-1.0), 0], d(2.0), 0),
        (Op::FsgnjS, RNE, [d(2.0), s(-1.0), 0], NAN_S | 1 << 31, 0),
        (Op::FminD, RNE, [d(-0.0), d(0.0), 0], d(-0.0), 0),
        (Op::FmaxS, RNE, [NAN_S, s(1.0), 0], s(1.0), 0),
        (Op::FminmS, RNE, [NAN_S, s(1.0), 0], NAN_S, 0),
        (Op::FmaxmH, RNE, [h(0x7c01), h(0x3c00), 0], NAN_H, NV),
        (Op::FroundD, RMM, [d(2.5), 0, 0], d(3.0), 0),
        (Op::FroundnxD, RNE, [d(2.5), 0, 0], d(2.0), NX),
        (Op::FcvtSD, RNE, [d(sixth), 0, 0], s(sixth as f32), NX),
        (Op::FcvtDS, RNE, [s(0.1), 0, 0], d(f64::from(0.1_f32)), 0),
        (Op::FcvtHD, RNE, [d(65520.0), 0, 0], h(0x7c00), OF | NX),
        (Op::FcvtDH, RNE, [h(1), 0, 0], d(1.0 / 16777216.0), 0),
        (Op::FcvtHS, RNE, [s(1.0), 0, 0], h(0x3c00), 0),
        (Op::FcvtSH, RNE, [h(0x7d00), 0, 0], NAN_S, NV),
        (Op::FcvtDW, RNE, [0x1_ffff_ffff, 0, 0], d(-1.0), 0),
        (Op::FcvtDWu, RNE, [0x1_ffff_ffff, 0, 0], d(4294967295.0), 0),
        (Op::FcvtSL, RNE, [-16777217_i64 as u64, 0, 0], s(-16777216.0), NX),
        (Op::FcvtDLu, RUP, [u64::MAX, 0, 0], d(18446744073709551616.0), NX),
        (Op::FcvtHW, RNE, [70000, 0, 0], h(0x7c00), OF | NX),
        (Op::FmvWX, RNE, [0x1234_5678_3f80_0000, 0, 0], s(1.0), 0),
        (Op::FmvHX, RNE, [0x1234_5678_9abc_3c00, 0, 0], h(0x3c00), 0),
        (Op::FmvDX, RNE, [0x1234_5678_9abc_def0, 0, 0], 0x1234_5678_9abc_def0, 0),
        (Op::FliD, RNE, [0, 0, 0], d(1.0 / 65536.0), 0),
    ];
    for &(op, mode, operands, expected, raised) in cases {
        let mut machine = Machine::new();
        machine.run(op, mode, operands).unwrap();
        assert_eq!(machine.hart.f[1], expected, "{op:?} of {operands:x?}: {:#x}", machine.hart.f[1]);
        assert_eq!(machine.hart.csr.fflags, raised, "{op:?} of {operands:x?}");
        assert!(machine.is_dirty());
    }
}

#[test]
fn results_go_to_x_sign_extended() {
    let cases: &[(Op, u8, [u64; 3], u64, u8)] = &[
        (Op::FeqD, RNE, [d(0.0), d(-0.0), 0], 1, 0),
        (Op::FeqD, RNE, [NAN_D, NAN_D, 0], 0, 0),
        (Op::FltD, RNE, [NAN_D, d(1.0), 0], 0, Flags::NV),
        (Op::FltqD, RNE, [NAN_D, d(1.0), 0], 0, 0),
        (Op::FleS, RNE, [s(-1.0), s(1.0), 0], 1, 0),
        (Op::FleqH, RNE, [h(0x3c00), h(0x3c00), 0], 1, 0),
        (Op::FclassS, RNE, [s(-0.0), 0, 0], 1 << 3, 0),
        (Op::FclassS, RNE, [d(1.0), 0, 0], 1 << 9, 0),
        (Op::FcvtWD, RTZ, [d(-1.9), 0, 0], -1_i64 as u64, Flags::NX),
        (Op::FcvtWD, RDN, [d(-1.9), 0, 0], -2_i64 as u64, Flags::NX),
        (Op::FcvtWuD, RTZ, [d(4294967295.0), 0, 0], u64::MAX, 0),
        (Op::FcvtWuD, RTZ, [d(-1.0), 0, 0], 0, Flags::NV),
        (Op::FcvtWuS, RTZ, [NAN_S, 0, 0], u64::MAX, Flags::NV),
        (Op::FcvtLD, RTZ, [d(1e19), 0, 0], i64::MAX as u64, Flags::NV),
        (Op::FcvtLuD, RTZ, [d(1e19), 0, 0], 10_000_000_000_000_000_000, 0),
        (Op::FcvtmodWD, RTZ, [d(4294967297.0), 0, 0], 1, Flags::NV),
        (Op::FcvtmodWD, RTZ, [d(2147483648.0), 0, 0], i32::MIN as u64, Flags::NV),
        (Op::FmvXW, RNE, [0x8000_0001, 0, 0], 0xffff_ffff_8000_0001, 0),
        (Op::FmvXH, RNE, [0x7_8001, 0, 0], 0xffff_ffff_ffff_8001, 0),
        (Op::FmvXD, RNE, [0x8000_0001, 0, 0], 0x8000_0001, 0),
    ];
    for &(op, mode, operands, expected, raised) in cases {
        let mut machine = Machine::new();
        machine.run(op, mode, operands).unwrap();
        assert_eq!(machine.x[1], expected, "{op:?} of {operands:x?}");
        assert_eq!(machine.hart.csr.fflags, raised, "{op:?} of {operands:x?}");
        assert_eq!(machine.is_dirty(), raised != 0, "{op:?} wrote no f register");
    }
}

#[test]
fn result_for_x0_is_lost() {
    let mut machine = Machine::new();
    machine.hart.f[2] = d(1.0);
    let to_zero = Instruction { rd: 0, ..instruction(Op::FclassD, RNE) };
    execute(&mut machine.hart, &mut machine.x, &to_zero).unwrap();
    assert_eq!(machine.x[0], 0);
}

#[test]
fn flags_accumulate() {
    let mut machine = Machine::new();
    machine.run(Op::FdivD, RNE, [d(1.0), d(0.0), 0]).unwrap();
    machine.run(Op::FdivD, RNE, [d(1.0), d(3.0), 0]).unwrap();
    machine.run(Op::FdivD, RNE, [d(1.0), d(2.0), 0]).unwrap();
    assert_eq!(machine.hart.csr.fflags, Flags::DZ | Flags::NX);
}

#[test]
fn dynamic_mode_comes_from_frm() {
    for (mode, expected) in [(RDN, 2.0), (RUP, 3.0), (RMM, 3.0), (RNE, 2.0)] {
        let mut machine = Machine::new();
        machine.hart.csr.frm = mode;
        machine.run(Op::FroundD, 7, [d(2.5), 0, 0]).unwrap();
        assert_eq!(machine.hart.f[1], d(expected));
    }
}

#[test]
fn reserved_dynamic_mode_is_illegal_only_where_it_is_used() {
    for mode in 5..8 {
        let mut machine = Machine::new();
        machine.hart.csr.frm = mode;
        assert!(machine.run(Op::FaddD, 7, [0; 3]).is_err());
        assert!(machine.run(Op::FcvtDW, 7, [0; 3]).is_err());
        assert!(!machine.is_dirty());
        assert!(machine.run(Op::FaddD, RTZ, [0; 3]).is_ok());
        assert!(machine.run(Op::FminD, 0, [0; 3]).is_ok());
    }
}

#[test]
fn everything_is_illegal_while_off() {
    let mut machine = Machine::new();
    machine.hart.csr.mstatus &= !mstatus::FS;
    for op in [Op::FaddD, Op::FmvXW, Op::FliS, Op::FclassH] {
        assert!(machine.run(op, RNE, [0; 3]).is_err());
    }
}

#[test]
fn integer_instruction_is_none_of_these() {
    assert!(Machine::new().run(Op::Addi, RNE, [0; 3]).is_err());
}

#[test]
fn every_operation_between_registers_is_known() {
    use Extension::{D, F, Zfa, Zfh, Zfhmin};
    let memory = [Op::Flh, Op::Flw, Op::Fld, Op::Fsh, Op::Fsw, Op::Fsd];
    let is_float = |op: &Op| matches!(op.extension(), F | D | Zfhmin | Zfh | Zfa) && !memory.contains(op);
    let float: Vec<Op> = Op::ALL.iter().copied().filter(is_float).collect();
    for op in float {
        assert!(Machine::new().run(op, RNE, [0; 3]).is_ok(), "{op:?}");
    }
}
