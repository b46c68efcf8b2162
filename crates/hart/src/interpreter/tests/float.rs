//! Floating point in programs: with loads, stores, branches, CSRs and traps around it.

use rvisor_isa::csr::{self, mstatus};
use rvisor_isa::{Instruction, Op, encode};

use super::{A0, A1, T0, T1, addi, asm, put_halves, run, run_to_wfi};
use crate::state::Hart;
use crate::testing::{RAM, World};

const DATA: u64 = RAM + 0x1_0000;
/// Rounding as `frm` says.
const DYNAMIC: u8 = 7;
const RTZ: u8 = 1;

/// Encodes floating-point arithmetic.
fn float(op: Op, mode: u8, rd: u8, sources: [u8; 3]) -> u32 {
    let [rs1, rs2, rs3] = sources;
    encode(&Instruction { rd, rs1, rs2, rs3, aux: mode, ..Instruction::new(op, 4) }).unwrap()
}

fn csr_instruction(op: Op, rd: u8, rs1: u8, number: u16) -> u32 {
    asm(op, rd, rs1, 0, number.into())
}

fn float_on(hart: &mut Hart) {
    hart.csr.mstatus |= mstatus::FS_INITIAL;
    hart.x[A1 as usize] = DATA;
}

fn put_doubles(world: &World, values: &[f64]) {
    for (address, value) in (DATA..).step_by(8).zip(values) {
        world.ram.set_double(address, value.to_bits());
    }
}

#[test]
fn newtons_method_approaches_the_root() {
    // f1 = f0; six times: f1 = (f1 + f0 / f1) / 2.
    let world = World::new();
    put_doubles(&world, &[2.0]);
    let code = [
        asm(Op::Fld, 0, A1, 0, 0),
        asm(Op::FsgnjD, 1, 0, 0, 0),
        asm(Op::FliD, 2, 12, 0, 0),
        addi(T0, 0, 6),
        float(Op::FdivD, DYNAMIC, 3, [0, 1, 0]),
        float(Op::FaddD, DYNAMIC, 3, [3, 1, 0]),
        float(Op::FmulD, DYNAMIC, 1, [3, 2, 0]),
        addi(T0, T0, -1),
        asm(Op::Bne, 0, T0, 0, -16),
        float(Op::FsqrtD, DYNAMIC, 4, [0, 0, 0]),
        asm(Op::FltD, A0, 1, 4, 0),
    ];
    let hart = run(&world, &code, float_on);
    assert_eq!(f64::from_bits(hart.f[4]), core::f64::consts::SQRT_2);
    let approached = (0..6).fold(2.0, |root, _| (2.0 / root + root) * 0.5);
    assert_eq!((f64::from_bits(hart.f[1]), hart.x[A0 as usize]), (approached, 1));
    assert_eq!(hart.csr.fflags, 1);
}

#[test]
fn scalar_product_of_integers_is_exact() {
    let world = World::new();
    put_doubles(&world, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let code = [
        asm(Op::FmvDX, 2, 0, 0, 0),
        addi(T0, 0, 3),
        asm(Op::Fld, 0, A1, 0, 0),
        asm(Op::Fld, 1, A1, 0, 24),
        float(Op::FmaddD, DYNAMIC, 2, [0, 1, 2]),
        addi(A1, A1, 8),
        addi(T0, T0, -1),
        asm(Op::Bne, 0, T0, 0, -20),
        float(Op::FcvtWD, RTZ, A0, [2, 0, 0]),
    ];
    let hart = run(&world, &code, float_on);
    assert_eq!((hart.x[A0 as usize], hart.csr.fflags), (4 + 10 + 18, 0));
}

#[test]
fn compressed_loads_and_stores_move_doubles() {
    let world = World::new();
    put_doubles(&world, &[1.5]);
    // c.fld fs0, 0(a1); c.fsd fs0, 8(a1); c.fldsp fa0, 8(sp); c.fsdsp fa0, 16(sp); wfi.
    put_halves(&world, RAM, &[0x2180, 0xa580, 0x2522, 0xa82a, 0x0073, 0x1050]);
    let hart = run_to_wfi(&world, || {
        let mut hart = super::hart_at(&world, RAM);
        float_on(&mut hart);
        hart.x[2] = DATA;
        hart
    });
    assert_eq!((hart.f[8], hart.f[10]), (1.5_f64.to_bits(), 1.5_f64.to_bits()));
    assert_eq!(world.ram.double(DATA + 16), 1.5_f64.to_bits());
}

#[test]
fn rounding_mode_follows_writes_to_frm() {
    // The same sum rounded up, then down; frm is written in between.
    let world = World::new();
    put_doubles(&world, &[1.0, 1e-20]);
    let code = [
        asm(Op::Fld, 0, A1, 0, 0),
        asm(Op::Fld, 1, A1, 0, 8),
        csr_instruction(Op::Csrrwi, 0, 3, csr::FRM),
        float(Op::FaddD, DYNAMIC, 2, [0, 1, 0]),
        csr_instruction(Op::Csrrwi, T0, 2, csr::FRM),
        float(Op::FaddD, DYNAMIC, 3, [0, 1, 0]),
        csr_instruction(Op::Csrrs, A0, 0, csr::FCSR),
    ];
    let hart = run(&world, &code, float_on);
    assert_eq!((f64::from_bits(hart.f[2]), f64::from_bits(hart.f[3])), (1.0 + f64::EPSILON, 1.0));
    assert_eq!((hart.x[T0 as usize], hart.x[A0 as usize]), (3, 2 << 5 | 1));
}

#[test]
fn flags_are_read_and_cleared_through_fflags() {
    let world = World::new();
    put_doubles(&world, &[1.0, 0.0, 3.0]);
    let code = [
        asm(Op::Fld, 0, A1, 0, 0),
        asm(Op::Fld, 1, A1, 0, 8),
        asm(Op::Fld, 2, A1, 0, 16),
        float(Op::FdivD, DYNAMIC, 3, [0, 1, 0]),
        csr_instruction(Op::Csrrw, T0, 0, csr::FFLAGS),
        float(Op::FdivD, DYNAMIC, 3, [0, 2, 0]),
        csr_instruction(Op::Csrrs, T1, 0, csr::FFLAGS),
    ];
    let hart = run(&world, &code, float_on);
    assert_eq!((hart.x[T0 as usize], hart.x[T1 as usize]), (8, 1));
}

#[test]
fn everything_traps_with_its_bits_while_off() {
    let world = World::new();
    for bits in [
        float(Op::FaddD, DYNAMIC, 0, [0; 3]),
        asm(Op::FmvXW, A0, 0, 0, 0),
        asm(Op::Flh, 0, A1, 0, 0),
        asm(Op::Fsd, 0, A1, 0, 0),
        csr_instruction(Op::Csrrs, A0, 0, csr::FCSR),
    ] {
        let hart = run(&world, &[bits], |hart| hart.x[A1 as usize] = DATA);
        assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (2, bits.into(), RAM));
        assert_eq!(hart.csr.mstatus & mstatus::FS, 0);
    }
}

#[test]
fn reserved_rounding_modes_trap() {
    let world = World::new();
    let add = float(Op::FaddD, 0, 0, [0; 3]);
    for mode in [5, 6] {
        let bits = add | mode << 12;
        let hart = run(&world, &[bits], float_on);
        assert_eq!((hart.csr.mcause, hart.csr.mtval), (2, bits.into()));
    }
    let dynamic = float(Op::FaddD, DYNAMIC, 0, [0; 3]);
    for mode in 5..8 {
        let hart = run(&world, &[csr_instruction(Op::Csrrwi, 0, mode, csr::FRM), dynamic], float_on);
        assert_eq!((hart.csr.mcause, hart.csr.mtval, hart.csr.mepc), (2, dynamic.into(), RAM + 4));
    }
}

#[test]
fn faulting_load_leaves_the_register() {
    let world = World::new();
    let hart = run(&world, &[asm(Op::Fld, 1, 0, 0, 1)], |hart| {
        float_on(hart);
        hart.f[1] = 1;
    });
    assert_eq!((hart.csr.mcause, hart.f[1]), (5, 1));
}
