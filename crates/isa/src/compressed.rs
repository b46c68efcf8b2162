//! Compressed instructions (Unprivileged ISA, "C" Extension, and Zcb), each a row that names its expansion.

use crate::field::{Field, Slot, piece};
use crate::{Extension, Instruction, Op};

/// One compressed instruction.
struct Row {
    mnemonic: &'static str,
    extension: Extension,
    /// What it expands to.
    op: Op,
    /// The bits that no field occupies, and their values.
    mask: u16,
    fixed: u16,
    fields: &'static [Field],
    /// Operands of the expansion that the encoding implies.
    implied: &'static [(Slot, i32)],
    /// Operands whose value 0 is another instruction or reserved.
    nonzero: &'static [Slot],
}

impl Row {
    const fn new(mnemonic: &'static str, op: Op, fixed: u16, fields: &'static [Field]) -> Self {
        let mut mask = 0xffff;
        let mut i = 0;
        while i < fields.len() {
            mask &= !(fields[i].mask() as u16);
            i += 1;
        }
        Self { mnemonic, extension: Extension::C, op, mask, fixed, fields, implied: &[], nonzero: &[] }
    }

    const fn implies(self, implied: &'static [(Slot, i32)]) -> Self {
        Self { implied, ..self }
    }

    const fn nonzero(self, nonzero: &'static [Slot]) -> Self {
        Self { nonzero, ..self }
    }

    const fn zcb(self) -> Self {
        Self { extension: Extension::Zcb, ..self }
    }
}

const fn short(slot: Slot, from: &'static [crate::field::Piece]) -> Field {
    Field { slot, pieces: from, signed: false, base: 8 }
}

/// Registers named in five bits.
const RD: Field = Field::plain(Slot::Rd, &[piece(7, 5, 0)]);
const RS1: Field = Field::plain(Slot::Rs1, &[piece(7, 5, 0)]);
const RS2: Field = Field::plain(Slot::Rs2, &[piece(2, 5, 0)]);
/// Registers x8 to x15 (f8 to f15), named in three bits: the manual's rd', rs1', rs2'.
const LOW_RD: Field = short(Slot::Rd, &[piece(2, 3, 0)]);
const LOW_RS2: Field = short(Slot::Rs2, &[piece(2, 3, 0)]);
const HIGH_RD: Field = short(Slot::Rd, &[piece(7, 3, 0)]);
const HIGH_RS1: Field = short(Slot::Rs1, &[piece(7, 3, 0)]);

/// Immediates and offsets.
const IMM6: Field = Field::signed(&[piece(12, 1, 5), piece(2, 5, 0)]);
const SHAMT: Field = Field::plain(Slot::Imm, &[piece(12, 1, 5), piece(2, 5, 0)]);
const UPPER: Field = Field::signed(&[piece(12, 1, 17), piece(2, 5, 12)]);
const ADDI4SPN: Field =
    Field::plain(Slot::Imm, &[piece(11, 2, 4), piece(7, 4, 6), piece(6, 1, 2), piece(5, 1, 3)]);
const ADDI16SP: Field =
    Field::signed(&[piece(12, 1, 9), piece(6, 1, 4), piece(5, 1, 6), piece(3, 2, 7), piece(2, 1, 5)]);
const BYTE: Field = Field::plain(Slot::Imm, &[piece(6, 1, 0), piece(5, 1, 1)]);
const HALF: Field = Field::plain(Slot::Imm, &[piece(5, 1, 1)]);
const WORD: Field = Field::plain(Slot::Imm, &[piece(10, 3, 3), piece(6, 1, 2), piece(5, 1, 6)]);
const DOUBLE: Field = Field::plain(Slot::Imm, &[piece(10, 3, 3), piece(5, 2, 6)]);
const WORD_FROM_SP: Field = Field::plain(Slot::Imm, &[piece(12, 1, 5), piece(4, 3, 2), piece(2, 2, 6)]);
const DOUBLE_FROM_SP: Field = Field::plain(Slot::Imm, &[piece(12, 1, 5), piece(5, 2, 3), piece(2, 3, 6)]);
const WORD_TO_SP: Field = Field::plain(Slot::Imm, &[piece(9, 4, 2), piece(7, 2, 6)]);
const DOUBLE_TO_SP: Field = Field::plain(Slot::Imm, &[piece(10, 3, 3), piece(7, 3, 6)]);
const BRANCH: Field =
    Field::signed(&[piece(12, 1, 8), piece(10, 2, 3), piece(5, 2, 6), piece(3, 2, 1), piece(2, 1, 5)]);
const JUMP: Field = Field::signed(&[
    piece(12, 1, 11),
    piece(11, 1, 4),
    piece(9, 2, 8),
    piece(8, 1, 10),
    piece(7, 1, 6),
    piece(6, 1, 7),
    piece(3, 3, 1),
    piece(2, 1, 5),
]);

const IN_PLACE: &[Field] = &[HIGH_RD, HIGH_RS1];
const IN_PLACE_RS2: &[Field] = &[HIGH_RD, HIGH_RS1, LOW_RS2];
const BASE_SP: &[(Slot, i32)] = &[(Slot::Rs1, 2)];

/// Ordered by quadrant and funct3, as [`starts`] relies on; of rows that overlap, the narrower one first.
static TABLE: &[Row] = &[
    Row::new("c.addi4spn", Op::Addi, 0x0000, &[LOW_RD, ADDI4SPN]).implies(BASE_SP).nonzero(&[Slot::Imm]),
    Row::new("c.fld", Op::Fld, 0x2000, &[LOW_RD, HIGH_RS1, DOUBLE]),
    Row::new("c.lw", Op::Lw, 0x4000, &[LOW_RD, HIGH_RS1, WORD]),
    Row::new("c.ld", Op::Ld, 0x6000, &[LOW_RD, HIGH_RS1, DOUBLE]),
    Row::new("c.lbu", Op::Lbu, 0x8000, &[LOW_RD, HIGH_RS1, BYTE]).zcb(),
    Row::new("c.lhu", Op::Lhu, 0x8400, &[LOW_RD, HIGH_RS1, HALF]).zcb(),
    Row::new("c.lh", Op::Lh, 0x8440, &[LOW_RD, HIGH_RS1, HALF]).zcb(),
    Row::new("c.sb", Op::Sb, 0x8800, &[LOW_RS2, HIGH_RS1, BYTE]).zcb(),
    Row::new("c.sh", Op::Sh, 0x8c00, &[LOW_RS2, HIGH_RS1, HALF]).zcb(),
    Row::new("c.fsd", Op::Fsd, 0xa000, &[LOW_RS2, HIGH_RS1, DOUBLE]),
    Row::new("c.sw", Op::Sw, 0xc000, &[LOW_RS2, HIGH_RS1, WORD]),
    Row::new("c.sd", Op::Sd, 0xe000, &[LOW_RS2, HIGH_RS1, DOUBLE]),
    Row::new("c.addi", Op::Addi, 0x0001, &[RD, RS1, IMM6]),
    Row::new("c.addiw", Op::Addiw, 0x2001, &[RD, RS1, IMM6]).nonzero(&[Slot::Rd]),
    Row::new("c.li", Op::Addi, 0x4001, &[RD, IMM6]),
    Row::new("c.addi16sp", Op::Addi, 0x6101, &[ADDI16SP])
        .implies(&[(Slot::Rd, 2), (Slot::Rs1, 2)])
        .nonzero(&[Slot::Imm]),
    Row::new("c.lui", Op::Lui, 0x6001, &[RD, UPPER]).nonzero(&[Slot::Imm]),
    Row::new("c.srli", Op::Srli, 0x8001, &[HIGH_RD, HIGH_RS1, SHAMT]),
    Row::new("c.srai", Op::Srai, 0x8401, &[HIGH_RD, HIGH_RS1, SHAMT]),
    Row::new("c.andi", Op::Andi, 0x8801, &[HIGH_RD, HIGH_RS1, IMM6]),
    Row::new("c.sub", Op::Sub, 0x8c01, IN_PLACE_RS2),
    Row::new("c.xor", Op::Xor, 0x8c21, IN_PLACE_RS2),
    Row::new("c.or", Op::Or, 0x8c41, IN_PLACE_RS2),
    Row::new("c.and", Op::And, 0x8c61, IN_PLACE_RS2),
    Row::new("c.subw", Op::Subw, 0x9c01, IN_PLACE_RS2),
    Row::new("c.addw", Op::Addw, 0x9c21, IN_PLACE_RS2),
    Row::new("c.mul", Op::Mul, 0x9c41, IN_PLACE_RS2).zcb(),
    Row::new("c.zext.b", Op::Andi, 0x9c61, IN_PLACE).implies(&[(Slot::Imm, 0xff)]).zcb(),
    Row::new("c.sext.b", Op::SextB, 0x9c65, IN_PLACE).zcb(),
    Row::new("c.zext.h", Op::ZextH, 0x9c69, IN_PLACE).zcb(),
    Row::new("c.sext.h", Op::SextH, 0x9c6d, IN_PLACE).zcb(),
    Row::new("c.zext.w", Op::AddUw, 0x9c71, IN_PLACE).zcb(),
    Row::new("c.not", Op::Xori, 0x9c75, IN_PLACE).implies(&[(Slot::Imm, -1)]).zcb(),
    Row::new("c.j", Op::Jal, 0xa001, &[JUMP]),
    Row::new("c.beqz", Op::Beq, 0xc001, &[HIGH_RS1, BRANCH]),
    Row::new("c.bnez", Op::Bne, 0xe001, &[HIGH_RS1, BRANCH]),
    Row::new("c.slli", Op::Slli, 0x0002, &[RD, RS1, SHAMT]),
    Row::new("c.fldsp", Op::Fld, 0x2002, &[RD, DOUBLE_FROM_SP]).implies(BASE_SP),
    Row::new("c.lwsp", Op::Lw, 0x4002, &[RD, WORD_FROM_SP]).implies(BASE_SP).nonzero(&[Slot::Rd]),
    Row::new("c.ldsp", Op::Ld, 0x6002, &[RD, DOUBLE_FROM_SP]).implies(BASE_SP).nonzero(&[Slot::Rd]),
    Row::new("c.jr", Op::Jalr, 0x8002, &[RS1]).nonzero(&[Slot::Rs1]),
    Row::new("c.mv", Op::Add, 0x8002, &[RD, RS2]).nonzero(&[Slot::Rs2]),
    Row::new("c.ebreak", Op::Ebreak, 0x9002, &[]),
    Row::new("c.jalr", Op::Jalr, 0x9002, &[RS1]).implies(&[(Slot::Rd, 1)]).nonzero(&[Slot::Rs1]),
    Row::new("c.add", Op::Add, 0x9002, &[RD, RS1, RS2]).nonzero(&[Slot::Rs2]),
    Row::new("c.fsdsp", Op::Fsd, 0xa002, &[RS2, DOUBLE_TO_SP]).implies(BASE_SP),
    Row::new("c.swsp", Op::Sw, 0xc002, &[RS2, WORD_TO_SP]).implies(BASE_SP),
    Row::new("c.sdsp", Op::Sd, 0xe002, &[RS2, DOUBLE_TO_SP]).implies(BASE_SP),
];

/// Quadrants 0 to 2, eight values of funct3 in each.
const BUCKETS: usize = 3 * 8;

const fn bucket(bits: u16) -> usize {
    ((bits & 3) << 3 | bits >> 13) as usize
}

/// The rows of bucket `b` are `TABLE[STARTS[b]..STARTS[b + 1]]`.
static STARTS: [u8; BUCKETS + 1] = {
    let mut starts = [0; BUCKETS + 1];
    let mut i = 0;
    while i < TABLE.len() {
        starts[bucket(TABLE[i].fixed) + 1] = i as u8 + 1;
        i += 1;
    }
    starts
};

fn find(bits: u16) -> Option<(&'static Row, Instruction)> {
    let bucket = bucket(bits);
    if bucket >= BUCKETS {
        return None;
    }
    let rows = &TABLE[STARTS[bucket] as usize..STARTS[bucket + 1] as usize];
    rows.iter().filter(|row| bits & row.mask == row.fixed).find_map(|row| {
        let instruction = row.extract(bits);
        row.nonzero.iter().all(|slot| slot.get(&instruction) != 0).then_some((row, instruction))
    })
}

impl Row {
    fn extract(&self, bits: u16) -> Instruction {
        let mut instruction = Instruction::new(self.op, 2);
        for &(slot, value) in self.implied {
            slot.set(&mut instruction, value);
        }
        for field in self.fields {
            field.extract(bits.into(), &mut instruction);
        }
        instruction
    }
}

/// Decodes a 16-bit instruction to its expansion, with length 2. `None` for what is illegal or reserved, and
/// for the first half of a longer one.
#[must_use]
pub fn decode16(bits: u16) -> Option<Instruction> {
    find(bits).map(|(_, instruction)| instruction)
}

/// Encodes an instruction in 16 bits, whatever its `length`; `None` where it has no compressed form.
#[must_use]
pub fn encode16(instruction: &Instruction) -> Option<u16> {
    let wanted = Instruction { length: 2, ..*instruction };
    TABLE.iter().filter(|row| row.op == instruction.op).find_map(|row| {
        let bits = row.fields.iter().fold(row.fixed, |bits, field| bits | field.insert(instruction) as u16);
        (decode16(bits) == Some(wanted)).then_some(bits)
    })
}

/// Name in assembly of a 16-bit instruction, such as `c.addi4spn`, and the extension that introduces it.
#[must_use]
pub fn name(bits: u16) -> Option<(&'static str, Extension)> {
    find(bits).map(|(row, _)| (row.mnemonic, row.extension))
}
