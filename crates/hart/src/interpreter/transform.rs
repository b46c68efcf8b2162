//! What `mtinst` and `htinst` hold of an instruction whose access to memory faults: the instruction without its
//! address (Privileged ISA, "Hypervisor Extension", section "Transformed Instruction or Pseudoinstruction for
//! mtinst or htinst").
//!
//! Loads, stores and atomics are described, `hlv` and `hsv` among them. Zero, which the manual allows, is written
//! for cache-block instructions, for fetches, and for everything that isn't a fault of memory.

use rvisor_isa::{Extension, Instruction, Op, decode, encode};

use super::registers::Registers;
use crate::trap::{Cause, Trap};

const RD: u32 = 0x1f << 7;
const FUNCT3: u32 = 7 << 12;
const RS1_SHIFT: u32 = 15;
const RS2: u32 = 0x1f << 20;
const FUNCT7: u32 = 0x7f << 25;
const OPCODE: u32 = 0x7f;
/// Clear where the instruction is a compressed one.
const LONG: u32 = 2;

/// Adds to a trap what instruction raised it.
pub fn describe(x: &Registers, bits: u32, trap: Trap) -> Trap {
    let is_of_data = matches!(trap.cause, Cause::Exception(exception) if exception.is_of_data());
    if !is_of_data || trap.instruction != 0 {
        return trap;
    }
    let instruction = decode(bits).and_then(|instruction| transformed(x, &instruction, trap.value));
    Trap { instruction: instruction.unwrap_or(0).into(), ..trap }
}

/// The instruction, given the address that faulted; `None` for those that aren't described.
fn transformed(x: &Registers, instruction: &Instruction, faulting: u64) -> Option<u32> {
    let Instruction { op, rs1, imm, length, .. } = *instruction;
    let kept = match op {
        Op::Lb | Op::Lh | Op::Lw | Op::Ld | Op::Lbu | Op::Lhu | Op::Lwu | Op::Flh | Op::Flw | Op::Fld => {
            FUNCT3 | RD | OPCODE
        }
        Op::Sb | Op::Sh | Op::Sw | Op::Sd | Op::Fsh | Op::Fsw | Op::Fsd => RS2 | FUNCT3 | OPCODE,
        _ if matches!(op.extension(), Extension::A | Extension::Zacas | Extension::H) => {
            FUNCT7 | RS2 | FUNCT3 | RD | OPCODE
        }
        _ => return None,
    };
    let address = x[rs1].wrapping_add(imm as i64 as u64);
    // Of an access in two pages, the second part's address is another.
    let offset = faulting.wrapping_sub(address) as u32 & 0x1f;
    let long = encode(&Instruction { length: 4, ..*instruction })? & kept | offset << RS1_SHIFT;
    Some(if length == 2 { long & !LONG } else { long })
}
