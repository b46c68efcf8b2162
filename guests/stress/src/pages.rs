//! Page tables (Sv39) that one hart changes and others use, with fences by interrupts between harts
//! (Privileged ISA, "Supervisor Memory-Management Fence Instruction").

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use guest_runtime::csr;
use guest_runtime::team::{Member, call_supervisor, fence_all};

use crate::code::{Page, add, jump};
use crate::{Work, Wrong, expect};

pub const CHECKS: &[(&str, Work)] = &[
    ("remapped code and data are new to all", remapped_code_and_data_are_new_to_all),
    ("pages in use are remapped in time", pages_in_use_are_remapped_in_time),
];

const ENTRIES: usize = 512;

#[repr(align(4096))]
struct Table([AtomicU64; ENTRIES]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    fn number(&self) -> u64 {
        self.0.as_ptr() as u64 >> 12
    }
}

static ROOT: Table = Table::new();
static MIDDLE: Table = Table::new();
static LEAVES: Table = Table::new();

/// Where the pages are mapped: the first address of an entry of the root.
const BASE: u64 = 0x20_4000_0000;
const VALID: u64 = 1;
/// Valid, all of a supervisor's permissions, accessed and dirty.
const LEAF: u64 = 0xcf;
const SV39: u64 = 8 << 60;

/// Pages of code that are mapped by turns, with a page of data behind each.
const PAGES: usize = 6;
static CODE: [Page; PAGES] = [const { Page::new() }; PAGES];
static DATA: [Page; PAGES] = [const { Page::new() }; PAGES];
/// Pages mapped at a time, one behind the other.
const WINDOW: usize = 2;

/// `lwu a1, 0(a1)`
const LOAD: u32 = 0x5_e583;
/// `ecall`
const ECALL: u32 = 0x73;
/// `add a0, a0, a1`
const ADD: u32 = 0xb5_0533;
/// `mv a1, a0`
const MOVE: u32 = 0x5_0593;
/// `li a0, 0`
const CLEAR: u32 = 0x513;
/// A page's number is added so many times over.
const CODE_WEIGHT: u32 = 16;

/// Number of a page, never zero.
const fn number(page: usize) -> u32 {
    page as u32 + 1
}

/// Code: loads from the address in `a0`, adds the page's number and jumps to the next page, whose second part
/// adds that page's number, sixteenfold, and ends.
fn prepare() {
    for page in 0..PAGES {
        DATA[page].0[0].store(number(page) << 16, Relaxed);
        let code = &CODE[page].0;
        let first = [MOVE, CLEAR, LOAD, ADD, add(number(page))];
        for (word, instruction) in code.iter().zip(first) {
            word.store(instruction, Relaxed);
        }
        const SECOND: usize = 100;
        let distance = 4096 + 4 * (SECOND as i32 - first.len() as i32);
        code[first.len()].store(jump(distance), Relaxed);
        code[SECOND].store(add(number(page) * CODE_WEIGHT), Relaxed);
        code[SECOND + 1].store(ECALL, Relaxed);
    }
    let pointer = |table: &Table| table.number() << 10 | VALID;
    ROOT.0[(BASE >> 30) as usize % ENTRIES].store(pointer(&MIDDLE), Relaxed);
    MIDDLE.0[0].store(pointer(&LEAVES), Relaxed);
}

/// Maps code and data pages from `first` on.
fn map(first: usize) {
    let leaf = |page: &[AtomicU32]| (page.as_ptr() as u64 >> 12) << 10 | LEAF;
    for slot in 0..WINDOW {
        LEAVES.0[slot].store(leaf(&CODE[(first + slot) % PAGES].0), Relaxed);
    }
    LEAVES.0[WINDOW].store(leaf(&DATA[first % PAGES].0), Relaxed);
}

/// What the code returns with that mapping.
fn result(first: usize) -> u64 {
    let (first, second) = (first % PAGES, (first + 1) % PAGES);
    u64::from((number(first) << 16) + number(first) + number(second) * CODE_WEIGHT)
}

fn run() -> u64 {
    // SAFETY: the code is as prepared.
    unsafe { call_supervisor(BASE, BASE + 4096 * WINDOW as u64) }
}

fn enter_space(member: Member) {
    if member.is_first() {
        prepare();
        map(0);
    }
    member.barrier();
    // Address spaces with and without a number of their own.
    let number = member.hart as u64 % 2 * 5;
    csr::write!("satp", SV39 | number << 44 | ROOT.number());
    fence_all();
    member.barrier();
}

fn remapped_code_and_data_are_new_to_all(member: Member) -> Result<u64, Wrong> {
    enter_space(member);
    let mut rounds = 0;
    while member.goes_on() {
        let first = (rounds * 5 % 7) as usize;
        if rounds as usize % member.harts == member.hart {
            map(first);
            fence_all();
            member.fence_others();
        }
        member.barrier();
        for _ in 0..5 {
            expect("result of the pages mapped", result(first), run())?;
        }
        rounds += 1;
    }
    csr::write!("satp", 0);
    Ok(rounds)
}

static MAPPED: AtomicU64 = AtomicU64::new(0);
static LATEST: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
/// Remaps between two barriers.
const TURNS: u64 = 12;

/// One hart remaps while the others run what is mapped: nobody loads from a page that wasn't mapped any more
/// when it began.
fn pages_in_use_are_remapped_in_time(member: Member) -> Result<u64, Wrong> {
    enter_space(member);
    let mut rounds = 0;
    while member.goes_on() {
        if rounds as usize % member.harts == member.hart {
            for _ in 0..TURNS {
                let next = MAPPED.load(SeqCst) + 1;
                LATEST.store(next, SeqCst);
                map(next as usize);
                fence_all();
                member.fence_others();
                MAPPED.store(next, SeqCst);
            }
            DONE.store(rounds + 1, SeqCst);
        } else {
            while DONE.load(SeqCst) <= rounds {
                let oldest = MAPPED.load(SeqCst);
                let found = run();
                let latest = LATEST.load(SeqCst);
                // Each part may stem from any mapping between.
                let is_one = |part: u64, from: u64| {
                    (oldest..=latest)
                        .any(|mapped| u64::from(number((mapped + from) as usize % PAGES)) == part)
                };
                expect("data of a page mapped", 1, is_one(found >> 16, 0).into())?;
                expect("code of a page mapped", 1, is_one(found % u64::from(CODE_WEIGHT), 0).into())?;
                let second = found % (1 << 16) / u64::from(CODE_WEIGHT);
                expect("code of the second page mapped", 1, is_one(second, 1).into())?;
            }
        }
        rounds += 1;
    }
    csr::write!("satp", 0);
    Ok(rounds)
}
