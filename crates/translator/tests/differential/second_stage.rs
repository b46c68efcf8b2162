//! Second stages of a few virtual machines: which guest physical page leads where, and how to change it.
//!
//! Guest physical addresses of RAM mostly lead to themselves, so that the page tables of [`tables`](crate::tables) are
//! those of first stages too: a virtual machine's address space is one of those, seen through its second stage.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::random::Random;
use crate::tables::{A, D, PAGE, R, Store, U, V, W, X};

/// 2 MiB of guest physical addresses that one page maps, where only a root of four pages leads.
pub const HIGH: u64 = 0x140_0000_0000;
/// How many virtual machines there are, besides the one without a second stage.
const GUESTS: u64 = 2;

/// Where a guest physical page may lead.
#[derive(Clone)]
pub struct Parts {
    /// All of RAM that virtual machines see.
    pub ram: Range<u64>,
    /// The pages with handlers, which stay as they are.
    pub handlers: Range<u64>,
    /// The pages with the first stages' tables, which lead to themselves.
    pub tables: Range<u64>,
    /// Those of them that every access reaches.
    pub kept: Vec<u64>,
    pub code: Vec<u64>,
    pub data: Vec<u64>,
    /// Devices and the like, which lead to themselves.
    pub devices: Vec<u64>,
}

/// One virtual machine's second stage.
pub struct Guest {
    pub hgatp: u64,
    pub vmid: u16,
    /// Physical address of the leaf of each guest physical page.
    leaves: BTreeMap<u64, u64>,
}

/// All second stages.
pub struct SecondStages {
    pub guests: Vec<Guest>,
    parts: Parts,
}

/// Makes one second stage's tables.
struct Maker<'a> {
    levels: u64,
    root: u64,
    free: &'a mut Vec<u64>,
    contents: BTreeMap<u64, u64>,
    leaves: BTreeMap<u64, u64>,
}

impl Maker<'_> {
    fn map(&mut self, address: u64, pte: u64, level: u64) {
        let mut table = self.root;
        for above in (level + 1..self.levels).rev() {
            let entry = self.entry(table, address, above);
            let pointer = self.contents.get(&entry).copied().unwrap_or(0);
            table = if pointer & V != 0 {
                pointer >> 10 << 12
            } else {
                let next = self.free.pop().expect("there are enough pages for all tables");
                self.contents.insert(entry, next >> 2 | V);
                next
            };
        }
        let entry = self.entry(table, address, level);
        self.contents.insert(entry, pte);
        self.leaves.insert(address, entry);
    }

    /// The root is four times as large.
    fn entry(&self, table: u64, address: u64, level: u64) -> u64 {
        let indices = if level + 1 == self.levels { 0x7ff } else { 0x1ff };
        table + 8 * (address >> (12 + 9 * level) & indices)
    }
}

impl SecondStages {
    /// Second stages in `pages` pages, the first of which is aligned to 16 KiB; the stores that make them.
    pub fn new(random: &mut Random, mut pages: Vec<u64>, parts: Parts) -> (Self, Vec<Store>) {
        let mut stages = Self { guests: Vec::new(), parts };
        let mut stores = Vec::new();
        let roots: Vec<u64> = pages.drain(..4 * GUESTS as usize).step_by(4).collect();
        let first_vmid = 1 + random.below(0x3ff0);
        for (number, root) in (0..).zip(roots) {
            let levels = random.pick(&[3, 3, 4, 5]);
            let vmid = first_vmid + number;
            let (contents, leaves) = (BTreeMap::new(), BTreeMap::new());
            let mut maker = Maker { levels, root, free: &mut pages, contents, leaves };
            for address in stages.parts.ram.clone().step_by(PAGE as usize).chain(stages.parts.devices.clone())
            {
                let pte = stages.leaf(random, address);
                maker.map(address, pte, 0);
            }
            let pte = stages.leaf(random, HIGH);
            maker.map(HIGH, pte, 1);
            stores.extend(maker.contents);
            let hgatp = (levels + 5) << 60 | vmid << 44 | (root / PAGE);
            stages.guests.push(Guest { hgatp, vmid: vmid as u16, leaves: maker.leaves });
        }
        (stages, stores)
    }

    /// The values of `hgatp` with which VMIDs keep their tables; 0, without a second stage, among them.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        [0].into_iter().chain(self.guests.iter().map(|guest| guest.hgatp))
    }

    /// A leaf for a guest physical page.
    fn leaf(&self, random: &mut Random, address: u64) -> u64 {
        let Parts { ram, handlers, tables, kept, code, data, .. } = &self.parts;
        let all = R | W | X;
        if handlers.contains(&address) {
            return address >> 2 | V | R | X | U | A;
        }
        if tables.contains(&address) {
            let flags = match random.below(30) {
                _ if kept.contains(&address) => all | U | A | D,
                0 => R | U | A,
                1 => all | U | A,
                2 => all | U,
                3 => return 0,
                _ => all | U | A | D,
            };
            return address >> 2 | V | flags;
        }
        let physical = match random.below(10) {
            _ if address == HIGH => ram.start,
            0 => random.pick(code),
            1 => random.pick(data),
            _ => address,
        };
        let rights =
            random.pick(&[all, all, all, all, all, all, all, all, R | W, R | W, R | X, R | X, X, R, W, 0]);
        let seen = random.pick(&[A | D, A | D, A | D, A | D, A | D, A | D, A, D, 0]);
        let valid = if random.chance(3) { 0 } else { V };
        let user = if random.chance(97) { U } else { 0 };
        let odd = if random.chance(1) { 1 << (54 + random.below(10)) } else { 0 };
        physical >> 2 | valid | rights | seen | user | odd
    }

    /// A change of one PTE: entry, new PTE, guest physical address, and VMID.
    pub fn change(&self, random: &mut Random, number: usize) -> (u64, u64, u64, u16) {
        let Parts { ram, code, data, devices, .. } = &self.parts;
        let guest = &self.guests[number];
        let address = match random.below(20) {
            0..9 => random.pick(data),
            9..15 => random.pick(code),
            15 | 16 => HIGH,
            17 => random.pick(devices),
            _ => ram.start + random.below((ram.end - ram.start) / PAGE) * PAGE,
        };
        (guest.leaves[&address], self.leaf(random, address), address, guest.vmid)
    }

    /// The guest physical addresses at which a value of `hgatp` maps a physical page that may be executed, given what
    /// the tables hold.
    pub fn aliases(&self, hgatp: u64, physical: u64, read: impl Fn(u64) -> u64) -> Vec<u64> {
        let Some(guest) = self.guests.iter().find(|guest| guest.hgatp == hgatp) else {
            return vec![physical];
        };
        let of = |(&address, &entry): (&u64, &u64)| {
            let pte = read(entry);
            let offset = if address == HIGH { physical - self.parts.ram.start } else { 0 };
            let leads_there = pte & (V | X | U) == V | X | U && pte >> 54 == 0;
            (leads_there && pte >> 10 << 12 == physical - offset).then_some(address + offset)
        };
        guest.leaves.iter().filter_map(of).collect()
    }
}
