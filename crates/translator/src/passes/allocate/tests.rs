//! Which guest registers get host registers.

use rvisor_isa::{Instruction, Op};

use super::*;
use crate::ir::{End, Node};

fn node(op: Op, rd: u8, rs1: u8, rs2: u8) -> Instruction {
    Instruction { rd, rs1, rs2, ..Instruction::new(op, 4) }
}

fn planned(instructions: &[Instruction], end: End, always: bool) -> Option<Allocation> {
    let nodes = (0..)
        .zip(instructions)
        .map(|(number, &instruction)| Node { instruction, bits: 0, offset: 4 * number, taken: false })
        .collect();
    let trace = Superblock { entry: 0, nodes, end, last_reaches_over: false };
    let mut plan = Plan { steps: vec![Step::Plain; instructions.len()], ..Plan::default() };
    allocate(&trace, &mut plan, always);
    plan.allocation
}

const LOOP: End = End::Fall(0);
const AWAY: End = End::Fall(0x800);
/// Guest registers without a host register of their own.
const T0: u8 = 5;
const T1: u8 = 6;
const S2: u8 = 18;

#[test]
fn registers_of_the_usual_set_stay_where_they_are() {
    let code = [node(Op::Add, 10, 10, 11), node(Op::Sub, 12, 10, 11)];
    assert_eq!(planned(&code, LOOP, true), None);
}

#[test]
fn loop_holds_what_it_uses_from_its_start() {
    let code = [node(Op::Add, T0, T0, S2), node(Op::Xor, T1, T0, T1), node(Op::Add, S2, S2, T1)];
    let allocation = planned(&code, LOOP, false).expect("all operands were in memory");
    for guest in [T0, T1, S2] {
        assert!(allocation.start.contains(&guest), "x{guest} of {:?}", allocation.start);
    }
    assert!(allocation.moves.iter().all(Vec::is_empty), "nothing moves in the loop: {:?}", allocation.moves);
}

#[test]
fn result_that_is_read_soon_takes_the_place_of_what_nobody_reads() {
    let mut code = vec![node(Op::Add, T0, 10, 11)];
    code.extend([node(Op::Xor, T1, T0, T0), node(Op::Add, T0, T1, T1)].repeat(8));
    let allocation = planned(&code, AWAY, false).expect("there is much to gain");
    let [Move { host, guest: T0, fills: false }] = allocation.moves[0][..] else {
        panic!("the first result has no host register: {:?}", allocation.moves[0])
    };
    let displaced = HELD_AT_HOME[usize::from(host)];
    assert!(![10, 11].contains(&displaced), "operands of the same instruction stay");
}

#[test]
fn short_code_that_ends_isnt_worth_it() {
    let code = [node(Op::Add, T0, 10, 11), node(Op::Add, 10, T0, T0)];
    assert_eq!(planned(&code, AWAY, false), None);
}

#[test]
fn usual_places_are_restored_before_an_instruction_of_unknown_effect() {
    let mut code = [node(Op::Xor, T1, T0, T1), node(Op::Add, T0, T1, T0)].repeat(8);
    code.push(node(Op::AmoaddD, 10, 11, 12));
    code.push(node(Op::Xor, T1, T0, T1));
    let allocation = planned(&code, AWAY, true).expect("it always allocates");
    let mut held = allocation.start;
    for Move { host, guest, .. } in allocation.moves[..=16].iter().flatten() {
        held[usize::from(*host)] = *guest;
    }
    assert_eq!(held, HELD_AT_HOME);
}

#[test]
fn guest_registers_of_the_usual_set_have_no_other_place() {
    let code: Vec<_> = (1..32u8).map(|rd| node(Op::Add, rd, rd % 31 + 1, (rd + 7) % 31 + 1)).collect();
    let code = [code.clone(), code].concat();
    let allocation = planned(&code, LOOP, true).expect("it always allocates");
    let held = (0u8..).zip(allocation.start);
    let moved = allocation.moves.iter().flatten().map(|one| (one.host, one.guest));
    for (host, guest) in held.chain(moved) {
        assert!(
            home_of(guest).is_none_or(|home| home == usize::from(host)),
            "x{guest} in host register {host}"
        );
    }
}
