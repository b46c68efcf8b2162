//! Floating-point instructions, translated and interpreted: the same results and flags.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod common;

use common::{Pair, RAM};
use rvisor_isa::{Instruction, Op, encode};

#[test]
fn sum_is_the_same() {
    let mut pair = Pair::new();
    let code = [
        Instruction { rd: 10, rs1: 10, rs2: 11, aux: 7, ..Instruction::new(Op::FaddD, 4) },
        Instruction::new(Op::Wfi, 4),
    ]
    .map(|i| encode(&i).expect("operands fit"));
    pair.both(|machine| {
        machine.write_code(RAM, &code);
        machine.hart().f[10] = 1.5f64.to_bits();
        machine.hart().f[11] = f64::MIN_POSITIVE.to_bits();
        machine.start(RAM);
    });
    pair.run(100);
    assert_eq!(pair.translated.hart().csr.fflags, 1);
}
