//! Disassembly in the standard syntax (RISC-V Assembly Programmer's Manual): ABI register names, no
//! pseudo-instructions, compressed instructions as their expansions.

use core::fmt::{self, Display, Formatter};

use crate::operand::Operand;
use crate::{Instruction, Op, csr};

const INTEGER: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
const FLOAT: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];
const ROUNDING_MODE: [&str; 8] = ["rne", "rtz", "rdn", "rup", "rmm", "unknown", "unknown", "dyn"];
/// Constants of `fli`, as the assembler writes them (Unprivileged ISA, "Zfa", table of `rs1` values).
const FLI: [&str; 32] = [
    "-1.0",
    "min",
    "1.52587890625e-05",
    "3.0517578125e-05",
    "0.00390625",
    "0.0078125",
    "0.0625",
    "0.125",
    "0.25",
    "0.3125",
    "0.375",
    "0.4375",
    "0.5",
    "0.625",
    "0.75",
    "0.875",
    "1.0",
    "1.25",
    "1.5",
    "1.75",
    "2.0",
    "2.5",
    "3.0",
    "4.0",
    "8.0",
    "16.0",
    "128.0",
    "256.0",
    "32768.0",
    "65536.0",
    "inf",
    "nan",
];

/// `fm` and sets of the one fence with a mode of its own: RW,RW but for stores before loads.
const FENCE_TSO: (u8, i32) = (8, 0x33);

/// An instruction as text; what [`disassemble`] returns.
#[derive(Clone, Copy, Debug)]
pub struct Disassembly {
    instruction: Instruction,
    pc: u64,
}

/// The instruction in assembly; targets of branches and jumps are absolute, the instruction being at `pc`.
#[must_use]
pub fn disassemble(instruction: &Instruction, pc: u64) -> Disassembly {
    Disassembly { instruction: *instruction, pc }
}

fn name(names: &[&'static str; 32], register: u8) -> &'static str {
    names[usize::from(register & 31)]
}

impl Display for Disassembly {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let row = self.instruction.op.row();
        if self.instruction.op == Op::Fence && (self.instruction.aux, self.instruction.imm) == FENCE_TSO {
            return f.write_str("fence.tso");
        }
        f.write_str(row.mnemonic)?;
        if row.operands.contains(&Operand::AqRl) {
            f.write_str(["", ".rl", ".aq", ".aqrl"][usize::from(self.instruction.aux & 3)])?;
        }
        let mut separator = " ";
        for &operand in row.operands {
            if self.is_hidden(operand) {
                continue;
            }
            f.write_str(separator)?;
            self.operand(operand, f)?;
            separator = ", ";
        }
        Ok(())
    }
}

impl Disassembly {
    /// The default rounding mode isn't printed, nor is what has no syntax.
    fn is_hidden(&self, operand: Operand) -> bool {
        match operand {
            Operand::AqRl | Operand::FenceIReserved => true,
            Operand::Rm => self.instruction.aux == 7,
            _ => false,
        }
    }

    fn operand(&self, operand: Operand, f: &mut Formatter<'_>) -> fmt::Result {
        let Instruction { rd, rs1, rs2, rs3, aux, imm, .. } = self.instruction;
        match operand {
            Operand::Rd | Operand::RdPair => f.write_str(name(&INTEGER, rd)),
            Operand::Rs1 => f.write_str(name(&INTEGER, rs1)),
            Operand::Rs2 | Operand::Rs2Pair => f.write_str(name(&INTEGER, rs2)),
            Operand::Fd => f.write_str(name(&FLOAT, rd)),
            Operand::Fs1 => f.write_str(name(&FLOAT, rs1)),
            Operand::Fs2 => f.write_str(name(&FLOAT, rs2)),
            Operand::Fs3 => f.write_str(name(&FLOAT, rs3)),
            Operand::Rm => f.write_str(ROUNDING_MODE[usize::from(aux & 7)]),
            Operand::Imm12 | Operand::Shamt5 | Operand::Shamt6 => write!(f, "{imm}"),
            Operand::Upper => write!(f, "{:#x}", imm as u32 >> 12),
            Operand::BranchTarget | Operand::JumpTarget => {
                write!(f, "{:#x}", self.pc.wrapping_add_signed(imm.into()))
            }
            Operand::LoadAddress | Operand::StoreAddress | Operand::PrefetchAddress => {
                write!(f, "{imm}({})", name(&INTEGER, rs1))
            }
            Operand::Address => write!(f, "({})", name(&INTEGER, rs1)),
            Operand::FenceSets => self.fence_sets(f),
            Operand::Csr => match csr::name(imm as u16) {
                Some(name) => name.fmt(f),
                None => write!(f, "{imm:#x}"),
            },
            Operand::Zimm => write!(f, "{rs1}"),
            Operand::FliIndex => f.write_str(name(&FLI, rs1)),
            Operand::AqRl | Operand::FenceIReserved => Ok(()),
        }
    }

    fn fence_sets(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let imm = self.instruction.imm;
        for (separator, set) in [("", imm >> 4), (", ", imm)] {
            f.write_str(separator)?;
            if set & 15 == 0 {
                f.write_str("0")?;
            }
            for (bit, letter) in [(8, "i"), (4, "o"), (2, "r"), (1, "w")] {
                f.write_str(if set & bit == 0 { "" } else { letter })?;
            }
        }
        Ok(())
    }
}
