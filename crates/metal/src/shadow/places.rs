//! Where a virtual hart's kernel executes copies of its text (`crate::copies`).
//!
//! Each copy has one place at most: a page of the guest's virtual addresses. While it has, nothing but the copy, or for reads what it is
//! of, is mapped there in any of the kernel's address spaces: what would be mapped otherwise makes the copy go. So what was made
//! of the text is right as long as the place has its number, which no place had before, and something is mapped there.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::copies::{Original, PAGE, SLOTS};

/// The next number of a place.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Entries of the index of places.
const INDEX: usize = 256;

const fn index(page: u64) -> usize {
    (page / PAGE) as usize % INDEX
}

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a hart has to look at before it does what was made of a copy's text: the place's number where its slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    /// The copy's slot.
    pub slot: usize,
    /// The place's number.
    pub number: u64,
}

/// The places of one virtual hart, by the copies' slots.
pub struct Places {
    places: [Option<(Original, u64)>; SLOTS],
    numbers: [u64; SLOTS],
    version: u64,
    /// By bits of their addresses: the slots of some.
    slots: [u8; INDEX],
    /// The generation of the copies that the tables are of.
    pub generation: u64,
}

impl Default for Places {
    fn default() -> Self {
        Self { places: [None; SLOTS], numbers: [0; SLOTS], version: next(), slots: [0; INDEX], generation: 0 }
    }
}

impl Places {
    /// The places' numbers, zero where there is none; and what changes with them, and is no other virtual hart's.
    pub fn numbers(&self) -> (&[u64; SLOTS], u64) {
        (&self.numbers, self.version)
    }

    /// The place of a copy, if `page` is it.
    pub fn get(&self, original: &Original, page: u64) -> Option<Guard> {
        let number = self.numbers[original.slot];
        (self.places[original.slot] == Some((*original, page)))
            .then_some(Guard { slot: original.slot, number })
    }

    /// Whether a copy could have its place at `page`: it has none yet, and no other has it.
    pub fn is_free(&self, original: &Original, page: u64) -> bool {
        self.places[original.slot].is_none_or(|(known, _)| known != *original)
            && !self.iter().any(|(_, other)| other == page)
    }

    /// Gives a copy its place.
    pub fn set(&mut self, original: &Original, page: u64) {
        self.places[original.slot] = Some((*original, page));
        self.numbers[original.slot] = next();
        self.version = next();
        self.slots[index(page)] = original.slot as u8;
    }

    /// Keeps the places of the copies that are still there.
    pub fn retain(&mut self, is_there: impl Fn(&Original) -> bool) {
        for (place, number) in self.places.iter_mut().zip(&mut self.numbers) {
            if place.take_if(|(original, _)| !is_there(original)).is_some() {
                *number = 0;
                self.version = next();
            }
        }
    }

    /// The copy whose place is `page`.
    pub fn at(&self, page: u64) -> Option<Original> {
        let likely = self.places[usize::from(self.slots[index(page)])].filter(|(_, place)| *place == page);
        likely.or_else(|| self.iter().find(|(_, place)| *place == page)).map(|(original, _)| original)
    }

    /// Copies and their places.
    pub fn iter(&self) -> impl Iterator<Item = (Original, u64)> {
        self.places.iter().flatten().copied()
    }
}
