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

/// Reads the instruction at `address`; a compressed one is zero-extended. An aligned word is read at once, as Ziccif has
/// it: who runs into code that another hart patches sees what was there or what is. `part` reads so much at
/// an address.
///
/// # Errors
/// What `part` says.
#[inline(always)]
pub fn read<E>(address: u64, mut part: impl FnMut(u64, Part) -> Result<u32, E>) -> Result<u32, E> {
    let is_aligned = address.is_multiple_of(4);
    let first = part(address, if is_aligned { Part::Word } else { Part::Half })?;
    Ok(match (first & 3 == 3, is_aligned) {
        (true, true) => first,
        (true, false) => first | part(address.wrapping_add(2), Part::Half)? << 16,
        (false, _) => first & 0xffff,
    })
}

/// What [`read`] asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Two bytes, zero-extended.
    Half,
    /// Four bytes, at an address that is a multiple of four.
    Word,
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

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// What [`read`] makes of an instruction at an address, and what it asks for.
    fn read_at(address: u64, bits: u32) -> (Result<u32, ()>, Vec<(u64, Part)>) {
        let mut asked = vec![];
        let result = read(address, |at, part| {
            asked.push((at, part));
            let behind = bits >> ((at - address) * 8);
            Ok(if part == Part::Word { behind } else { behind & 0xffff })
        });
        (result, asked)
    }

    #[test]
    fn an_aligned_instruction_is_read_at_once() {
        assert_eq!(read_at(0x1000, 0x1234_5673), (Ok(0x1234_5673), vec![(0x1000, Part::Word)]));
        assert_eq!(read_at(0x1000, 0x1234_5671), (Ok(0x5671), vec![(0x1000, Part::Word)]));
    }

    #[test]
    fn others_are_read_by_halves_as_far_as_they_go() {
        let halves = vec![(0x1002, Part::Half), (0x1004, Part::Half)];
        assert_eq!(read_at(0x1002, 0x1234_5673), (Ok(0x1234_5673), halves));
        assert_eq!(read_at(0x1002, 0x1234_5671), (Ok(0x5671), vec![(0x1002, Part::Half)]));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let second = |at, _| if at == 0x1002 { Ok(3) } else { Err(at) };
        assert_eq!(read(0x1002, second), Err(0x1004));
    }
}
