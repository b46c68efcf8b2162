//! Page tables of a few address spaces: what is mapped where, and how to change it.

use std::collections::BTreeMap;

use crate::random::Random;

pub const PAGE: u64 = 4096;

pub const V: u64 = 1 << 0;
pub const R: u64 = 1 << 1;
pub const W: u64 = 1 << 2;
pub const X: u64 = 1 << 3;
pub const U: u64 = 1 << 4;
const G: u64 = 1 << 5;
pub const A: u64 = 1 << 6;
pub const D: u64 = 1 << 7;
const N: u64 = 1 << 63;
/// A global page's PTEs in several tables stay the same only if no walk sets A or D in one of them.
const SHARED: u64 = G | A | D;

/// Pages of each kind of small mapping.
const PAGES: u64 = 20;
/// User pages.
pub const USER: u64 = 0x4000_0000;
/// Supervisor pages that every address space has for itself.
pub const PRIVATE: u64 = 0xffff_ffd0_0010_0000;
/// Supervisor pages that all share. The TLB entries of these and of user pages are the same.
pub const GLOBAL: u64 = 0xffff_ffd0_0000_0000;
/// 2 MiB.
pub const LARGE: u64 = 0x6000_0000;
/// 64 KiB, by NAPOT.
pub const NAPOT: u64 = 0x4010_0000;

/// Where a mapping may lead.
#[derive(Clone)]
pub struct Targets {
    /// First page of RAM, which large pages map.
    pub ram: u64,
    /// What 64 KiB pages map at first.
    pub group: u64,
    /// Page with the handler for S-mode, at the first global page.
    pub handler: u64,
    pub code: Vec<u64>,
    pub data: Vec<u64>,
    /// Neither RAM nor nothing.
    pub odd: Vec<u64>,
}

/// One address space.
pub struct Space {
    pub satp: u64,
    pub asid: u16,
    levels: u64,
    root: u64,
    /// Physical address of the leaf of each mapped virtual page.
    leaves: BTreeMap<u64, u64>,
}

/// A store to a page table.
pub type Store = (u64, u64);

/// The fence that must follow a change: address and ASID.
pub type Fence = (Option<u64>, Option<u16>);

/// All address spaces, and where their tables are.
pub struct Tables {
    pub spaces: Vec<Space>,
    free: Vec<u64>,
    targets: Targets,
    stores: Vec<Store>,
    /// Contents of tables, so that they can be read while they are made.
    contents: BTreeMap<u64, u64>,
}

impl Tables {
    /// Spaces in `pages` pages; the stores that make them.
    pub fn new(random: &mut Random, pages: Vec<u64>, targets: Targets) -> (Self, Vec<Store>) {
        let mut tables =
            Self { spaces: Vec::new(), free: pages, targets, stores: Vec::new(), contents: BTreeMap::new() };
        let globals: Vec<u64> = (0..PAGES).map(|page| tables.global(random, page)).collect();
        let first_asid = random.bits() as u16;
        for number in 0..4 {
            let levels = random.pick(&[3, 3, 4, 5]);
            let Some(root) = tables.free.pop() else { break };
            let asid = first_asid.wrapping_add(number);
            let satp = (levels + 5) << 60 | u64::from(asid) << 44 | (root / PAGE);
            let mut space = Space { satp, asid, levels, root, leaves: BTreeMap::new() };
            for page in 0..PAGES {
                let user = tables.small(random, U);
                tables.map(&mut space, USER + page * PAGE, user, 0);
                let private = tables.small(random, 0);
                tables.map(&mut space, PRIVATE + page * PAGE, private, 0);
                tables.map(&mut space, GLOBAL + page * PAGE, globals[page as usize], 0);
            }
            let user = random.pick(&[0, U]);
            let large = tables.leaf(random, tables.targets.ram, user);
            tables.map(&mut space, LARGE, large, 1);
            let napot = tables.leaf(random, tables.targets.group, U) | N | 8 << 10;
            for page in 0..16 {
                tables.map(&mut space, NAPOT + page * PAGE, napot, 0);
            }
            tables.spaces.push(space);
        }
        let stores = std::mem::take(&mut tables.stores);
        (tables, stores)
    }

    /// The pages with tables by which global pages are found. None of them may be out of reach in one address space
    /// and not in another.
    pub fn of_globals(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for space in &self.spaces {
            let mut table = space.root;
            for level in (0..space.levels).rev() {
                pages.push(table);
                let entry = table + 8 * (GLOBAL >> (12 + 9 * level) & 0x1ff);
                table = self.contents[&entry] >> 10 << 12;
            }
        }
        pages
    }

    fn map(&mut self, space: &mut Space, address: u64, pte: u64, level: u64) {
        let mut table = space.root;
        for above in (level + 1..space.levels).rev() {
            let entry = table + 8 * (address >> (12 + 9 * above) & 0x1ff);
            let pointer = self.contents.get(&entry).copied().unwrap_or(0);
            table = if pointer & V != 0 {
                pointer >> 10 << 12
            } else {
                let Some(next) = self.free.pop() else { return };
                self.put(entry, next >> 2 | V);
                next
            };
        }
        let entry = table + 8 * (address >> (12 + 9 * level) & 0x1ff);
        self.put(entry, pte);
        space.leaves.insert(address, entry);
    }

    fn put(&mut self, entry: u64, pte: u64) {
        self.contents.insert(entry, pte);
        self.stores.push((entry, pte));
    }

    fn leaf(&self, random: &mut Random, physical: u64, user: u64) -> u64 {
        let rights = random.pick(&[R | W | X, R | W | X, R | W | X, R | W, R | W, R | X, R | X, X, R, W, 0]);
        let seen = random.pick(&[A | D, A | D, A | D, A | D, A | D, A, D, 0]);
        let valid = if random.chance(4) { 0 } else { V };
        let odd = match random.below(200) {
            0 => 1 << (54 + random.below(10)),
            1 => U,
            _ => 0,
        };
        (physical >> 2 | valid | rights | seen | user) ^ odd
    }

    fn small(&self, random: &mut Random, user: u64) -> u64 {
        let physical = match random.below(20) {
            0 => random.pick(&self.targets.odd),
            1..9 => random.pick(&self.targets.code),
            _ => random.pick(&self.targets.data),
        };
        self.leaf(random, physical, user)
    }

    fn global(&self, random: &mut Random, page: u64) -> u64 {
        match page {
            0 => self.targets.handler >> 2 | V | R | X | A | G,
            _ => self.small(random, 0) | SHARED,
        }
    }

    /// Changes a mapping: the stores to do so, and a fence that makes all harts see it.
    pub fn change(&mut self, random: &mut Random) -> (Vec<Store>, Fence) {
        let number = random.below(self.spaces.len() as u64) as usize;
        let (address, size) = match random.below(10) {
            0..4 => (USER + random.below(PAGES) * PAGE, PAGE),
            4..6 => (PRIVATE + random.below(PAGES) * PAGE, PAGE),
            6..8 => (GLOBAL + (1 + random.below(PAGES - 1)) * PAGE, PAGE),
            8 => (LARGE, 512 * PAGE),
            _ => (NAPOT, 16 * PAGE),
        };
        let is_global = (GLOBAL..GLOBAL + PAGES * PAGE).contains(&address);
        let pte = match address {
            LARGE => {
                let user = random.pick(&[0, U]);
                self.leaf(random, self.targets.ram, user)
            }
            NAPOT => {
                let group = random.pick(&[self.targets.group, self.targets.group, self.targets.ram]);
                self.leaf(random, group, U) | N | 8 << 10
            }
            _ if is_global => self.small(random, 0) | SHARED,
            _ => self.small(random, if address < GLOBAL { U } else { 0 }),
        };
        let spaces = if is_global { &self.spaces[..] } else { &self.spaces[number..=number] };
        let pages = if address == NAPOT { 16 } else { 1 };
        let stores = spaces
            .iter()
            .flat_map(|space| (0..pages).filter_map(|page| space.leaves.get(&(address + page * PAGE))))
            .map(|&entry| (entry, pte))
            .collect();
        let any = address + random.below(size);
        let asid = Some(self.spaces[number].asid);
        let fence = match random.below(4) {
            0 => (Some(any), None),
            1 if !is_global => (Some(any), asid),
            2 if !is_global => (None, asid),
            3 => (None, None),
            _ => (Some(any), None),
        };
        (stores, fence)
    }

    /// The virtual addresses at which a space maps a physical page, given what its tables hold.
    pub fn aliases(&self, number: usize, physical: u64, read: impl Fn(u64) -> u64) -> Vec<u64> {
        let leaves = &self.spaces[number].leaves;
        let of = |(&address, &entry): (&u64, &u64)| {
            let pte = read(entry);
            let (mask, base) = match address {
                LARGE => (!(512 * PAGE - 1), address),
                NAPOT => return None,
                _ => (!(PAGE - 1), address),
            };
            let leads_there = pte & V != 0 && pte & N == 0 && pte << 10 >> 20 << 12 == physical & mask;
            leads_there.then_some(base + (physical & !mask))
        };
        leaves.iter().filter_map(of).collect()
    }

    /// Whether fetches in a mode may be allowed by a mapping that is at `address`.
    pub fn is_executable(&self, number: usize, address: u64, user: bool, read: impl Fn(u64) -> u64) -> bool {
        let leaves = &self.spaces[number].leaves;
        let large = address & !(512 * PAGE - 1);
        let entry = leaves.get(&(address & !(PAGE - 1))).or_else(|| leaves.get(&large));
        entry.is_some_and(|&entry| {
            let pte = read(entry);
            pte & X != 0 && (pte & U != 0) == user
        })
    }

    /// A change of one PTE, and the address and ASID that it concerns: entry, new PTE, address, ASID.
    pub fn small_change(&self, random: &mut Random, number: usize) -> Option<(u64, u64, u64, u16)> {
        let space = &self.spaces[number];
        let user = random.chance(60);
        let address = if user { USER } else { PRIVATE } + random.below(PAGES) * PAGE;
        let pte = self.small(random, if user { U } else { 0 });
        space.leaves.get(&address).map(|&entry| (entry, pte, address, space.asid))
    }

    /// An address that may be mapped.
    pub fn address(&self, random: &mut Random) -> u64 {
        let page = random.below(PAGES) * PAGE;
        let page = match random.below(10) {
            0..4 => USER + page,
            4..6 => PRIVATE + page,
            6 | 7 => GLOBAL + page,
            8 => LARGE + random.pick(&self.targets.data) - self.targets.ram,
            _ => NAPOT + page % (16 * PAGE),
        };
        page + self.offset(random)
    }

    /// An offset in a page, often near its end.
    pub fn offset(&self, random: &mut Random) -> u64 {
        let offset = if random.chance(25) { PAGE - 1 - random.below(24) } else { random.below(PAGE) };
        if random.chance(60) { offset & !15 } else { offset }
    }
}
