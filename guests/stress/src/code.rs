//! Code that one hart writes and others execute (Unprivileged ISA, "Zifencei").

use core::arch::asm;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use guest_runtime::MAX_HARTS;
use guest_runtime::random::Random;
use guest_runtime::team::Member;

use crate::{Work, Wrong, expect};

pub const CHECKS: &[(&str, Work)] = &[
    ("code written behind a barrier is new to all", |member| rewritten(member, Told::ByBarrier)),
    ("code written before an interrupt is new to all", |member| rewritten(member, Told::ByInterrupt)),
    ("running code changes in time", running_code_changes_in_time),
    ("a patched instruction is the old one or the new one", patched_whole),
    ("new code is written all the time", new_code_all_the_time),
];

const PAGE_WORDS: usize = 1024;

/// Pages of code, as words.
#[repr(align(4096))]
pub struct Page(pub [AtomicU32; PAGE_WORDS]);

impl Page {
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; PAGE_WORDS])
    }
}

static CODE: [Page; 2] = [const { Page::new() }; 2];

/// `addi a0, a0, immediate`
pub const fn add(immediate: u32) -> u32 {
    immediate << 20 | 0x5_0513
}

/// `jalr x0, 0(ra)`
const RETURN: u32 = 0x8067;

/// `jal x0, offset`
pub const fn jump(offset: i32) -> u32 {
    let bits = offset as u32;
    (bits >> 20 & 1) << 31
        | (bits >> 1 & 0x3ff) << 21
        | (bits >> 11 & 1) << 20
        | (bits >> 12 & 0xff) << 12
        | 0x6f
}

fn call(code: &AtomicU32) -> u64 {
    call_for_both(code).0
}

/// What the code leaves in `a0` and `a1`, which are zero when it is called.
fn call_for_both(code: &AtomicU32) -> (u64, u64) {
    let (first, second);
    // SAFETY: the code adds to `a0` and `a1` and returns.
    unsafe {
        asm!(
            "jalr ra, {code}",
            code = in(reg) code.as_ptr(),
            inout("a0") 0u64 => first,
            inout("a1") 0u64 => second,
            out("ra") _,
        );
    }
    (first, second)
}

fn fence_instructions() {
    // SAFETY: a fence.
    unsafe { asm!("fence.i") };
}

enum Told {
    ByBarrier,
    ByInterrupt,
}

static EXPECTED: AtomicU64 = AtomicU64::new(0);
/// Words that a function has room for.
const ROOM: usize = 16;
const FUNCTIONS: usize = 12;

/// Where each function of a chain starts: page and word. Neighbours are in the same page or not.
fn place(function: usize) -> (usize, usize) {
    (function / 2 % 2, function * 37 % 60 * ROOM)
}

/// Writes functions that add, and jump to each other. Returns the sum.
fn write_chain(random: &mut Random) -> u64 {
    let mut sum = 0;
    for function in 0..FUNCTIONS {
        let (page, start) = place(function);
        let length = 1 + random.below(ROOM - 1);
        for word in 0..length {
            let number = random.below(1000) as u32;
            sum += u64::from(number);
            CODE[page].0[start + word].store(add(number), Relaxed);
        }
        let last = if function + 1 == FUNCTIONS {
            RETURN
        } else {
            let (next_page, next_start) = place(function + 1);
            let here = (page * PAGE_WORDS + start + length) as i32;
            let there = (next_page * PAGE_WORDS + next_start) as i32;
            jump(4 * (there - here))
        };
        CODE[page].0[start + length].store(last, Relaxed);
    }
    sum
}

fn rewritten(member: Member, told: Told) -> Result<u64, Wrong> {
    let mut rounds = 0;
    let mut random = member.random();
    let (page, start) = place(0);
    while member.goes_on() {
        if rounds as usize % member.harts == member.hart {
            EXPECTED.store(write_chain(&mut random), SeqCst);
            if matches!(told, Told::ByInterrupt) {
                fence_instructions();
                member.fence_others();
            }
        }
        member.barrier();
        if matches!(told, Told::ByBarrier) {
            fence_instructions();
        }
        for _ in 0..3 {
            expect("sum", EXPECTED.load(SeqCst), call(&CODE[page].0[start]))?;
        }
        rounds += 1;
    }
    Ok(rounds)
}

/// The number that the function returns at least.
static PUBLISHED: AtomicU64 = AtomicU64::new(0);
/// Rounds in which all changes were made.
static DONE: AtomicU64 = AtomicU64::new(0);
/// Numbers that an immediate operand has room for without its sign.
const NUMBERS: u64 = 1 << 11;

/// One hart changes the number that a function returns, the others call it all the time: none gets a number
/// older than the one that was published when it called.
fn running_code_changes_in_time(member: Member) -> Result<u64, Wrong> {
    let code = &CODE[0].0;
    let mut rounds = 0;
    if member.is_first() {
        code[0].store(add(0), Relaxed);
        code[1].store(RETURN, Relaxed);
    }
    member.barrier();
    fence_instructions();
    while member.goes_on() {
        let writer = rounds as usize % member.harts;
        if writer == member.hart {
            for _ in 0..16 {
                let next = PUBLISHED.load(SeqCst) + 1;
                code[0].store(add((next % NUMBERS) as u32), Relaxed);
                fence_instructions();
                expect("own new code", next % NUMBERS, call(&code[0]))?;
                member.fence_others();
                PUBLISHED.store(next, SeqCst);
            }
            DONE.store(rounds + 1, SeqCst);
        } else {
            while DONE.load(SeqCst) <= rounds {
                let published = PUBLISHED.load(SeqCst);
                let found = call(&code[0]);
                let ahead = found.wrapping_sub(published) % NUMBERS;
                expect("code no older than published", 1, (ahead < NUMBERS / 2).into())?;
            }
        }
        rounds += 1;
    }
    Ok(rounds)
}

/// Harts that have called enough in a round of [`patched_whole`], over all rounds.
static READERS_DONE: AtomicU64 = AtomicU64::new(0);

/// One hart patches an instruction to and fro, the others fetch it anew all the time: an aligned word is fetched at
/// once (RISC-V Profiles, Ziccif), so none sees halves of two instructions.
fn patched_whole(member: Member) -> Result<u64, Wrong> {
    // `addi a0, a0, 1` and `addi a1, a1, 2`: all four halves differ.
    const INSTRUCTIONS: [u32; 2] = [0x0015_0513, 0x0025_8593];
    const SUMS: [(u64, u64); 2] = [(1, 0), (0, 2)];
    let code = &CODE[0].0;
    let mut rounds = 0;
    if member.is_first() {
        code[0].store(INSTRUCTIONS[0], Relaxed);
        code[1].store(RETURN, Relaxed);
    }
    member.barrier();
    fence_instructions();
    while member.goes_on() {
        rounds += 1;
        if member.is_first() {
            let all = rounds * (member.harts as u64 - 1);
            for instruction in INSTRUCTIONS.iter().cycle() {
                code[0].store(*instruction, Relaxed);
                if READERS_DONE.load(Relaxed) >= all {
                    break;
                }
            }
            continue;
        }
        for _ in 0..1000 {
            fence_instructions();
            let (first, second) = call_for_both(&code[0]);
            if !SUMS.contains(&(first, second)) {
                expect("sums of one instruction", 1, first << 8 | second)?;
            }
        }
        READERS_DONE.fetch_add(1, Relaxed);
    }
    Ok(rounds)
}

/// Instructions of a function that is written once, called once, and never seen again.
const LENGTH: usize = 31;
const NEW_PAGES: usize = 8;
static NEW_CODE: [[Page; NEW_PAGES]; MAX_HARTS] = [const { [const { Page::new() }; NEW_PAGES] }; MAX_HARTS];

/// Each hart fills pages with functions that were never there before, and calls them.
fn new_code_all_the_time(member: Member) -> Result<u64, Wrong> {
    let (mut random, mut rounds) = (member.random(), 0);
    while member.goes_on() {
        for Page(code) in &NEW_CODE[member.hart] {
            new_code(code, &mut random)?;
        }
        rounds += 1;
    }
    Ok(rounds)
}

fn new_code(code: &[AtomicU32], random: &mut Random) -> Result<(), Wrong> {
    let mut sums = [0; PAGE_WORDS / (LENGTH + 1)];
    for (function, sum) in code.chunks_exact(LENGTH + 1).zip(&mut sums) {
        for word in &function[..LENGTH] {
            let number = random.next_u64() as u32 % NUMBERS as u32;
            word.store(add(number), Relaxed);
            *sum += u64::from(number);
        }
        function[LENGTH].store(RETURN, Relaxed);
    }
    fence_instructions();
    for (function, sum) in code.chunks_exact(LENGTH + 1).zip(sums) {
        expect("sum of new code", sum, call(&function[0]))?;
    }
    Ok(())
}
