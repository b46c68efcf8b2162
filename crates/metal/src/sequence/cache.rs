//! The compiled sequences of a physical hart: a table that the trampoline looks in, and the code.
//!
//! A key has the address of the sequence's first instruction and the virtual hart's *tag*, so that no guest learns from
//! its speed what another executes. User mode has no tag: its keys are addresses, which no key with a tag is.

use alloc::vec::Vec;
use core::mem::offset_of;

use super::Step;
use super::compile::{Place, Routines, compile, compile_nothing};
use crate::arch::context::HartContext;
use crate::shadow::Guard;

/// Entries of the table: the trampoline knows the number and their size.
pub const ENTRIES: usize = 1024;
/// Words of code.
pub const CODE_WORDS: usize = 22 << 10;
/// An odd number, which is nobody's key.
pub const NOBODY: u64 = 1;
const TAG_SHIFT: u32 = 48;

/// A place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Entry {
    /// Whose it is.
    pub key: u64,
    /// Where its code is, from the context.
    pub code: u64,
    /// The key that was looked for in vain last.
    pub seen: u64,
    /// How often in a row.
    pub misses: u64,
}

impl Entry {
    /// Nobody's.
    pub const EMPTY: Self = Self { key: NOBODY, code: 0, seen: NOBODY, misses: 0 };
}

/// The tag of a virtual hart by its number among all.
#[must_use]
pub const fn tag(number: u16) -> u64 {
    // Neither zero nor with the highest bit: see `key`.
    ((number as u64 & 0x3fff) + 1) << TAG_SHIFT
}

/// What the table has for a sequence. The trampoline makes the same of the program counter and the tag. Addresses have
/// equal bits from 48 up, keys with a tag never.
#[must_use]
pub const fn key(tag: u64, pc: u64, is_call: bool) -> u64 {
    tag ^ pc ^ is_call as u64
}

/// Its place in the table.
#[must_use]
pub const fn index(pc: u64, is_call: bool) -> usize {
    (pc as usize >> 1 ^ if is_call { ENTRIES / 2 } else { 0 }) % ENTRIES
}

/// The same in bytes from the hart's context.
#[must_use]
pub const fn entry_offset(pc: u64, is_call: bool) -> u64 {
    (offset_of!(HartContext, table) + size_of::<Entry>() * index(pc, is_call)) as u64
}

/// What is beside the table and the code.
pub struct Cache {
    /// Where the code is, from the context.
    start: i64,
    routines: Routines,
    /// Where the table leads for code that can't be part of a sequence: at a trap, and at a call.
    nothing: [i64; 2],
    used: usize,
    places: Vec<Place>,
}

impl Cache {
    /// An empty one, for a table of empty entries.
    pub fn new(start: i64, routines: Routines, nothing: [i64; 2]) -> Self {
        Self { start, routines, nothing, used: 0, places: Vec::new() }
    }

    /// Compiles a sequence, and has the trampoline find it. Steps that are none keep it from asking again.
    pub fn add(
        &mut self,
        table: &mut [Entry; ENTRIES],
        code: &mut [u32; CODE_WORDS],
        (tag, pc, is_call): (u64, u64, bool),
        steps: &[Step],
        guard: Option<Guard>,
    ) {
        let entry = index(pc, is_call);
        let kind = usize::from(is_call);
        let (start, nothing, outdated) =
            (self.start + 4 * self.used as i64, self.nothing[kind], self.routines.outdated[kind]);
        let compiled = compile(steps, is_call, guard, start, &self.routines)
            .or_else(|| compile_nothing(guard?, start, nothing, outdated));
        let at = match compiled {
            None => nothing,
            Some(compiled) if self.used + compiled.words.len() > CODE_WORDS => {
                // Made anew when it is missed again.
                self.clear(table);
                return;
            }
            Some(compiled) => {
                code[self.used..self.used + compiled.words.len()].copy_from_slice(&compiled.words);
                self.used += compiled.words.len();
                self.places.extend(compiled.places);
                start
            }
        };
        table[entry] = Entry { key: key(tag, pc, is_call), code: at as u64, seen: NOBODY, misses: 0 };
    }

    /// Forgets everything.
    fn clear(&mut self, table: &mut [Entry; ENTRIES]) {
        table.fill(Entry::EMPTY);
        self.used = 0;
        self.places.clear();
    }

    /// The guest's instruction that faulted, by where the code did; and whether that was in the comparison of its code. Such
    /// a sequence is forgotten: the guest may execute its code, but not read it.
    pub fn fault(&mut self, table: &mut [Entry; ENTRIES], at: i64) -> Option<(u64, bool)> {
        let index = self.places.partition_point(|place| place.at <= at).checked_sub(1)?;
        let Place { at: start, pc, compares } = self.places[index];
        if compares {
            let is_faulty = |entry: &&mut Entry| {
                let code = entry.code as i64;
                code <= start && start - code < 4096 && self.start <= code
            };
            // The last that begins before.
            if let Some(entry) = table.iter_mut().filter(is_faulty).max_by_key(|entry| entry.code) {
                *entry = Entry::EMPTY;
            }
        }
        Some((pc, compares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_with_a_tag_is_an_address_or_another_harts() {
        let addresses = [0, 2, 0x8000_0000, (1 << 38) - 2, u64::MAX << 38, u64::MAX - 1, (1 << 41) - 2];
        let is_address = |key: u64| matches!(key.cast_signed() >> 47, 0 | -1);
        for number in [0, 1, 2, 0x3ffe, 0x3fff] {
            for (address, is_call) in
                addresses.iter().flat_map(|address| [(*address, false), (*address, true)])
            {
                let one = key(tag(number), address, is_call);
                assert!(!is_address(one) && one != NOBODY);
                let others = (0..0x4000).filter(|other| *other != number);
                let mut keys =
                    others.flat_map(|other| addresses.map(|address| key(tag(other), address, is_call)));
                assert!(keys.all(|other| other != one));
            }
        }
    }
}
