//! Decoding and encoding of 32-bit instructions.

use crate::operand::Operand;
use crate::table::{Row, TABLE};
use crate::{Instruction, compressed};

const FUNCT3: u32 = 7 << 12;
/// One bucket for each major opcode and funct3.
const BUCKETS: usize = 32 * 8;

/// Rows by bucket: the rows of bucket `b` are `rows[starts[b]..starts[b + 1]]`, in the table's order.
struct Index<const N: usize> {
    starts: [u16; BUCKETS + 1],
    rows: [u16; N],
}

const fn bucket(bits: u32) -> usize {
    (bits >> 2 & 0x1f | bits >> 7 & 0xe0) as usize
}

const fn is_in_bucket(row: &Row, funct3: u32) -> bool {
    row.mask & FUNCT3 == 0 || row.fixed & FUNCT3 == funct3 << 12
}

const fn index_length() -> usize {
    let mut length = 0;
    let mut i = 0;
    while i < TABLE.len() {
        length += if TABLE[i].mask & FUNCT3 == 0 { 8 } else { 1 };
        i += 1;
    }
    length
}

const fn build_index<const N: usize>() -> Index<N> {
    let mut index = Index { starts: [0; BUCKETS + 1], rows: [0; N] };
    let mut filled = 0;
    let mut bucket = 0;
    while bucket < BUCKETS {
        index.starts[bucket] = filled as u16;
        let mut i = 0;
        while i < TABLE.len() {
            let row = &TABLE[i];
            if row.fixed >> 2 & 0x1f == bucket as u32 & 0x1f && is_in_bucket(row, bucket as u32 >> 5) {
                index.rows[filled] = i as u16;
                filled += 1;
            }
            i += 1;
        }
        bucket += 1;
    }
    index.starts[BUCKETS] = filled as u16;
    index
}

static INDEX: Index<{ index_length() }> = build_index();

/// Decodes an instruction from the low bits of `bits`: a compressed one where the lowest two aren't both
/// set, else a 32-bit one. `None` for what is illegal, reserved, longer, or of no extension in
/// [`Extension`](crate::Extension).
#[must_use]
pub fn decode(bits: u32) -> Option<Instruction> {
    if bits & 3 != 3 {
        return compressed::decode16(bits as u16);
    }
    let bucket = bucket(bits);
    let rows = &INDEX.rows[INDEX.starts[bucket] as usize..INDEX.starts[bucket + 1] as usize];
    let row = rows.iter().map(|&row| &TABLE[row as usize]).find(|row| bits & row.mask == row.fixed)?;
    let mut instruction = Instruction::new(row.op, 4);
    for field in row.operands.iter().flat_map(|operand| operand.fields()) {
        field.extract(bits, &mut instruction);
    }
    let is_reserved = row.operands.contains(&Operand::Rm) && matches!(instruction.aux, 5 | 6);
    (!is_reserved).then_some(instruction)
}

/// Encodes an instruction in 32 bits, whatever its `length`. `None` where a field doesn't fit or isn't the
/// operation's, or where the encoding means another [`Op`](crate::Op) (an `ori` that is a `prefetch.r`).
#[must_use]
pub fn encode(instruction: &Instruction) -> Option<u32> {
    let row = instruction.op.row();
    let bits = row
        .operands
        .iter()
        .flat_map(|operand| operand.fields())
        .fold(row.fixed, |bits, field| bits | field.insert(instruction));
    (decode(bits) == Some(Instruction { length: 4, ..*instruction })).then_some(bits)
}
