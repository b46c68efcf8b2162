//! Instructions that hypervisors and their virtual machines execute.

use rvisor_isa::{Extension, Instruction, Op, csr, encode};

use super::{CSRS, POINTERS, SATP_HOLDER};
use crate::random::Random;

/// Holds a valid value for `hgatp`; no instruction writes it where there is the extension.
pub const HGATP_HOLDER: u8 = 30;

const FENCES: [Op; 4] = [Op::HfenceVvma, Op::HfenceGvma, Op::HinvalVvma, Op::HinvalGvma];

/// Registers of the extension, those that virtual machines reach in their place, and what sends a hart from one mode to
/// another.
const FREQUENT: [u16; 22] = [
    csr::HSTATUS,
    csr::HSTATUS,
    csr::VSSTATUS,
    csr::VSSTATUS,
    csr::SSTATUS,
    csr::SSTATUS,
    csr::MSTATUS,
    csr::HVIP,
    csr::HIP,
    csr::HIE,
    csr::VSIE,
    csr::VSIP,
    csr::SIE,
    csr::SIP,
    csr::HIDELEG,
    csr::HEDELEG,
    csr::HCOUNTEREN,
    csr::HTIMEDELTA,
    csr::VSSCRATCH,
    csr::SSCRATCH,
    csr::SCAUSE,
    csr::HTVAL,
];

/// Draws one; nothing where it can't be encoded.
pub fn instruction(random: &mut Random) -> Option<u32> {
    let switch = |random: &mut Random, number: u16, rs1| {
        let rd = random.below(30) as u8;
        encode(&Instruction { rd, rs1, imm: number.into(), ..Instruction::new(Op::Csrrw, 4) })
    };
    match random.below(100) {
        0..40 => access(random),
        40..50 => {
            let rs1 = if random.chance(50) { 0 } else { random.pick(&POINTERS) };
            let rs2 = if random.chance(50) { 0 } else { random.below(32) as u8 };
            encode(&Instruction { rs1, rs2, ..Instruction::new(random.pick(&FENCES), 4) })
        }
        50..80 => {
            let number = random.pick(&FREQUENT);
            let mut register = |names: u64| if random.chance(30) { 0 } else { random.below(names) as u8 };
            let (rd, rs1) = (register(30), register(32));
            let op = random.pick(&CSRS);
            encode(&Instruction { rd, rs1, imm: number.into(), ..Instruction::new(op, 4) })
        }
        80..84 => switch(random, csr::VSATP, SATP_HOLDER),
        84..86 => switch(random, csr::SATP, SATP_HOLDER),
        86..90 => switch(random, csr::HGATP, HGATP_HOLDER),
        90..96 => encode(&Instruction::new(Op::Sret, 4)),
        96..98 => encode(&Instruction::new(Op::Mret, 4)),
        _ => encode(&Instruction::new(random.pick(&[Op::Ecall, Op::SfenceVma]), 4)),
    }
}

/// `hlv`, `hlvx` or `hsv`.
fn access(random: &mut Random) -> Option<u32> {
    let accesses: Vec<Op> =
        Op::ALL.iter().copied().filter(|op| op.extension() == Extension::H && !FENCES.contains(op)).collect();
    let (mask, fixed) = random.pick(&accesses).encoding();
    let rs1 = random.pick(&POINTERS);
    Some((random.bits() as u32 & !(0x1f << 15) | u32::from(rs1) << 15) & !mask | fixed)
}

/// Whether the comparison bears an instruction where there is the extension: what holds for `satp` and `menvcfg` holds
/// for what belongs to virtual machines too.
pub fn is_allowed(i: &Instruction) -> bool {
    let is_csr = CSRS.contains(&i.op);
    let may_write = |number: u16, holder| {
        i.imm != i32::from(number) || i.rs1 == 0 && i.op != Op::Csrrw || i.op == Op::Csrrw && i.rs1 == holder
    };
    i.rd != HGATP_HOLDER
        && (!is_csr
            || i.imm != i32::from(csr::HENVCFG)
                && may_write(csr::VSATP, SATP_HOLDER)
                && may_write(csr::HGATP, HGATP_HOLDER))
}
