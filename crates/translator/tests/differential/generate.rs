//! Random instructions, and blocks of them that get somewhere.

mod hypervisor;

use rvisor_isa::{Extension, Instruction, Op, csr, decode, encode};

use crate::random::Random;
pub use hypervisor::HGATP_HOLDER;

/// Holds a valid value for `satp`; no instruction writes it.
pub const SATP_HOLDER: u8 = 31;
/// Registers that hold addresses of data when a run starts: some pinned to host registers, some not.
pub const POINTERS: [u8; 8] = [2, 8, 10, 14, 5, 18, 28, 16];
/// Registers that hold addresses of code.
pub const CODE_POINTERS: [u8; 3] = [1, 7, 15];

/// Draws instructions.
pub struct Generator {
    straight: Vec<Op>,
    float: Vec<Op>,
    access: Vec<Op>,
    atomic: Vec<Op>,
    system: Vec<Op>,
    named_csrs: Vec<u16>,
    /// For harts with the hypervisor extension.
    hypervisor: bool,
}

const BRANCHES: [Op; 6] = [Op::Beq, Op::Bne, Op::Blt, Op::Bge, Op::Bltu, Op::Bgeu];
const ACCESSES: [Op; 17] = [
    Op::Lb,
    Op::Lh,
    Op::Lw,
    Op::Ld,
    Op::Lbu,
    Op::Lhu,
    Op::Lwu,
    Op::Flh,
    Op::Flw,
    Op::Fld,
    Op::Sb,
    Op::Sh,
    Op::Sw,
    Op::Sd,
    Op::Fsh,
    Op::Fsw,
    Op::Fsd,
];
const CACHE_BLOCK: [Op; 4] = [Op::CboZero, Op::CboClean, Op::CboFlush, Op::CboInval];
const CSRS: [Op; 6] = [Op::Csrrw, Op::Csrrs, Op::Csrrc, Op::Csrrwi, Op::Csrrsi, Op::Csrrci];

impl Generator {
    pub fn new(hypervisor: bool) -> Self {
        let of = |wanted: &dyn Fn(Op, Extension) -> bool| -> Vec<Op> {
            Op::ALL.iter().copied().filter(|&op| wanted(op, op.extension())).collect()
        };
        let is_jump = |op| BRANCHES.contains(&op) || matches!(op, Op::Jal | Op::Jalr);
        use Extension::*;
        let is_float = |e| matches!(e, F | D | Zfh | Zfhmin | Zfa);
        let is_atomic = |e| matches!(e, A | Zacas);
        let is_system = |e| matches!(e, Privileged | Svinval | Zifencei);
        Self {
            straight: of(&|op, e| {
                !is_jump(op)
                    && !is_float(e)
                    && !is_atomic(e)
                    && !is_system(e)
                    && !matches!(e, Zicsr | Zicbom | Zicboz)
                    && !ACCESSES.contains(&op)
                    && !matches!(op, Op::Ecall | Op::Ebreak)
            }),
            float: of(&|op, e| is_float(e) && !ACCESSES.contains(&op)),
            access: ACCESSES.to_vec(),
            atomic: of(&|_, e| is_atomic(e)),
            system: of(&|op, e| is_system(e) || matches!(op, Op::Ecall | Op::Ebreak)),
            named_csrs: (0..0x1000).filter(|&number| csr::name(number).is_some()).collect(),
            hypervisor,
        }
    }

    /// A block of `count` instructions.
    pub fn block(&self, random: &mut Random, count: u64) -> Vec<u32> {
        let mut block = Vec::new();
        let style = random.below(6);
        while (block.len() as u64) < count {
            let left = count - block.len() as u64;
            self.next(random, style, block.len() as u64, left, &mut block);
        }
        block
    }

    fn next(&self, random: &mut Random, style: u64, before: u64, left: u64, block: &mut Vec<u32>) {
        let hypervisor = self.hypervisor;
        let mut one = |bits: Option<u32>| block.extend(bits.filter(|&bits| is_allowed(bits, hypervisor)));
        if hypervisor && random.chance(15) {
            return one(hypervisor::instruction(random));
        }
        // Each style has more of something.
        let kind = match style {
            0 if random.chance(50) => 30,
            5 if random.chance(50) => 28,
            1 if random.chance(50) => 40,
            2 if random.chance(60) => 72,
            _ => random.below(100),
        };
        match kind {
            0..28 => one(self.operation(random, &self.straight)),
            28..30 => idiom(random).into_iter().for_each(one),
            30..40 => one(self.access(random)),
            40..52 => one(self.operation(random, &self.float)),
            52..57 => {
                let mut bits = self.operation(random, &self.atomic).unwrap_or_default();
                bits = bits & !(0x1f << 15) | u32::from(random.pick(&POINTERS)) << 15;
                one(Some(bits));
            }
            57..60 => {
                let size = random.below(2) as u32;
                let base = u32::from(random.pick(&POINTERS));
                let reserve = 0x1000_202f | size << 12 | base << 15 | (random.below(30) as u32) << 7;
                one(Some(reserve));
                if random.chance(50) {
                    one(self.operation(random, &self.straight));
                }
                let store = 0x1800_202f | size << 12 | base << 15 | (random.below(1024) as u32) << 20;
                one(Some(store & !(0x1f << 7) & !(7 << 25) | (random.below(30) as u32) << 7));
            }
            60..68 => one(branch(random, before, left)),
            68..72 => one(jump(random, before, left)),
            72..82 => one(Some(random.bits() as u32 & 0xfffc | random.below(3) as u32)),
            82..88 => one(self.csr_access(random)),
            88..91 => {
                let bits = self.operation(random, &self.system).unwrap_or_default();
                one(Some(bits));
            }
            91 => {
                let op = random.pick(&CACHE_BLOCK);
                one(encode(&Instruction { rs1: random.pick(&POINTERS), ..Instruction::new(op, 4) }));
            }
            92 => one(encode(&Instruction {
                rd: random.below(31) as u8,
                rs1: SATP_HOLDER,
                imm: csr::SATP.into(),
                ..Instruction::new(Op::Csrrw, 4)
            })),
            93..96 => {
                let rd = 1 + random.below(30) as u8;
                let imm = (random.below(5) as i32 - 2) << 12;
                one(encode(&Instruction { rd, imm, ..Instruction::new(Op::Auipc, 4) }));
                let op = random.pick(&[Op::Addi, Op::Addi, Op::Jalr, Op::Ld, Op::Lw]);
                let target = random.below(31) as u8;
                let imm = random.below(4096) as i32 - 2048;
                one(encode(&Instruction { rd: target, rs1: rd, imm, ..Instruction::new(op, 4) }));
            }
            96 => {
                let rs1 = random.pick(&CODE_POINTERS);
                let imm = random.below(256) as i32 - 128;
                let rd = random.below(31) as u8;
                one(encode(&Instruction { rd, rs1, imm, ..Instruction::new(Op::Jalr, 4) }));
            }
            97 => {
                let bits = self.operation(random, &self.straight).unwrap_or_default() ^ 1 << random.below(32);
                one(Some(if bits & 3 == 3 { bits } else { bits & 0xffff }));
            }
            98 => one(Some(random.bits() as u32 | 3)),
            _ => one(self.operation(random, Op::ALL)),
        }
    }

    fn operation(&self, random: &mut Random, operations: &[Op]) -> Option<u32> {
        let (mask, fixed) = random.pick(operations).encoding();
        let mut bits = random.bits() as u32 & !mask | fixed;
        // Few registers are used often, so that results matter.
        if random.chance(50) {
            let few = [random.below(4) as u32 + 8, random.below(4) as u32 + 4];
            bits = bits & !(0x1f << 15) | random.pick(&few) << 15;
            bits = bits & !mask | fixed;
        }
        Some(bits)
    }

    fn access(&self, random: &mut Random) -> Option<u32> {
        let op = random.pick(&self.access);
        let rs1 = if random.chance(96) { random.pick(&POINTERS) } else { random.below(32) as u8 };
        let imm = match random.below(4) {
            0 => 0,
            1 => random.below(4096) as i32 - 2048,
            _ => random.below(8) as i32 * 8,
        };
        let rd = pick_destination(random);
        let rs2 = random.below(32) as u8;
        encode(&Instruction { rd, rs1, imm, ..Instruction::new(op, 4) })
            .or_else(|| encode(&Instruction { rs2, rs1, imm, ..Instruction::new(op, 4) }))
    }

    fn csr_access(&self, random: &mut Random) -> Option<u32> {
        const FREQUENT: [u16; 12] = [
            csr::FFLAGS,
            csr::FRM,
            csr::FCSR,
            csr::MSTATUS,
            csr::SSTATUS,
            csr::MINSTRET,
            csr::MCYCLE,
            csr::INSTRET,
            csr::CYCLE,
            csr::MEPC,
            csr::SEPC,
            csr::MIE,
        ];
        const DISRUPTIVE: [u16; 2] = [csr::MTVEC, csr::STVEC];
        let op = random.pick(&CSRS);
        let number = match random.below(10) {
            0..6 => random.pick(&FREQUENT),
            6..9 => random.pick(&self.named_csrs),
            _ => random.below(0x1000) as u16,
        };
        let is_pmp = (csr::PMPCFG0..csr::PMPCFG0 + 0x50).contains(&number);
        if is_pmp && random.chance(90) || DISRUPTIVE.contains(&number) && random.chance(80) {
            return None;
        }
        let mut register = |names: u64| if random.chance(30) { 0 } else { random.below(names) as u8 };
        encode(&Instruction {
            rd: register(31),
            rs1: register(32),
            imm: number.into(),
            ..Instruction::new(op, 4)
        })
    }
}

/// What compilers spell out and the second tier makes one computation of, or nearly that: the parts may stand
/// apart, and what they leave in registers may be written again, or not.
fn idiom(random: &mut Random) -> Vec<Option<u32>> {
    let few = |random: &mut Random| random.pick(&[5, 6, 7, 10, 11, 12, 30]);
    let (source, base, rd) = (few(random), few(random), few(random));
    let (t, u) = (if random.chance(50) { rd } else { few(random) }, few(random));
    let shift = |op, rd, rs1, imm| encode(&Instruction { rd, rs1, imm, ..Instruction::new(op, 4) });
    let both = |op, rd, rs1, rs2| encode(&Instruction { rd, rs1, rs2, ..Instruction::new(op, 4) });
    let amount = 1 + random.below(31) as i32;
    let mut code = match random.below(6) {
        0 => vec![shift(Op::Slli, t, source, random.below(5) as i32), both(Op::Add, rd, t, base)],
        1 => vec![shift(Op::Slli, t, source, random.below(5) as i32), both(Op::Add, rd, base, t)],
        2 => {
            let up = random.pick(&[32, 48, 56, amount]);
            let down = if random.chance(80) { up } else { up - 1 };
            let op = random.pick(&[Op::Srli, Op::Srai]);
            vec![shift(Op::Slli, t, source, up), shift(op, rd, t, down)]
        }
        3 => {
            let op = random.pick(&[Op::Addi, Op::Addiw]);
            let upper = (random.bits() as u32 & 0xffff_f000) as i32;
            let upper = encode(&Instruction { rd: t, imm: upper, ..Instruction::new(Op::Lui, 4) });
            vec![upper, shift(op, rd, t, random.below(4096) as i32 - 2048)]
        }
        4 => vec![
            shift(Op::Srliw, t, source, amount),
            shift(Op::Slliw, u, source, 32 - amount),
            both(random.pick(&[Op::Or, Op::Xor]), rd, t, u),
        ],
        _ => vec![
            shift(Op::Slli, t, source, amount),
            shift(Op::Srli, u, source, 64 - amount),
            both(random.pick(&[Op::Or, Op::Xor]), rd, u, t),
        ],
    };
    if random.chance(30) {
        let at = 1 + random.below(code.len() as u64 - 1) as usize;
        code.insert(at, both(Op::Sub, few(random), few(random), few(random)));
    }
    for register in [t, u] {
        let load = Instruction { rd: register, rs1: random.pick(&POINTERS), ..Instruction::new(Op::Lw, 4) };
        match random.below(4) {
            0 => {}
            1 => code.push(both(Op::Sub, register, base, source)),
            2 => code.push(encode(&load)),
            _ => {
                code.push(encode(&load));
                code.push(both(Op::Addw, register, source, source));
            }
        }
    }
    code
}

/// Mostly a register that isn't a pointer.
fn pick_destination(random: &mut Random) -> u8 {
    let register = random.below(31) as u8;
    if POINTERS.contains(&register) && random.chance(80) { random.below(31) as u8 } else { register }
}

/// Bytes to an instruction of this block, or a bit around it.
fn distance(random: &mut Random, before: u64, left: u64) -> i32 {
    match random.below(10) {
        0..5 => (random.below(left + 2) * 2) as i32 * if random.chance(70) { 2 } else { 1 },
        5..8 => -((random.below(before + 1) * 4) as i32),
        8 => (random.below(4096) as i32 - 2048) * 2,
        _ => (random.below(64) as i32 - 32) * 2,
    }
}

fn branch(random: &mut Random, before: u64, left: u64) -> Option<u32> {
    let imm = distance(random, before, left).clamp(-4096, 4094);
    let op = random.pick(&BRANCHES);
    let (rs1, rs2) = (random.below(32) as u8, random.pick(&[0, 10, 5, 11, 6]));
    encode(&Instruction { rs1, rs2, imm, ..Instruction::new(op, 4) })
}

fn jump(random: &mut Random, before: u64, left: u64) -> Option<u32> {
    let imm = if random.chance(30) {
        (random.below(5) as i32 - 2) * 4096 + distance(random, before, left)
    } else {
        distance(random, before, left)
    };
    let rd = if random.chance(50) { 0 } else { random.below(31) as u8 };
    encode(&Instruction { rd, imm, ..Instruction::new(Op::Jal, 4) })
}

/// Whether the comparison bears an instruction: one may not write [`SATP_HOLDER`], nor `satp` from elsewhere,
/// because an ASID must keep its page table; nor `menvcfg`, because when a hart notices that the timer's
/// interrupt came with it is its own choice.
fn is_allowed(bits: u32, hypervisor: bool) -> bool {
    let Some(i) = decode(bits) else { return true };
    let is_csr = CSRS.contains(&i.op);
    let writes_satp = is_csr && i.imm == i32::from(csr::SATP) && i.rs1 != 0;
    let is_switch = i.op == Op::Csrrw && i.rs1 == SATP_HOLDER;
    i.rd != SATP_HOLDER
        && !(i.op == Op::AmocasQ && i.rd == SATP_HOLDER - 1)
        && !(is_csr && i.imm == i32::from(csr::MENVCFG))
        && (!writes_satp || is_switch)
        && (!hypervisor || hypervisor::is_allowed(&i))
}
