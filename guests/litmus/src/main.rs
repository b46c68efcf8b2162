//! Litmus tests of the memory model (Unprivileged ISA, "RVWMO Memory Consistency Model", and its appendix).
//!
//! Each runs a few instructions on two to four harts at the same time, over and over with random delays. What
//! the model forbids must never be seen; what it allows beyond sequential consistency is counted.
#![no_std]
#![no_main]

mod table;

use core::hint::spin_loop;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use guest_runtime::random::Random;
use guest_runtime::team::{DURATION, Member};
use guest_runtime::{MAX_HARTS, exit, println};

use table::{Outcome, Rule, TESTS, Test};

/// Rounds between two barriers of all harts. Each has variables of its own.
const BATCH: usize = 256;
/// Most threads of a test.
const THREADS: usize = 4;
/// Turns that a hart waits for its companions to come to a batch's first round.
const FIRST_PATIENCE: u32 = 500_000;
/// The same for the others, and most turns that it lets pass then: what brings harts close together differs from
/// host to host.
const PATIENCE: [u32; 2] = [0, 300];
const DELAYS: [usize; 5] = [1, 4, 32, 200, 1000];

/// A value with a cache line to itself.
#[repr(align(64))]
struct Line(AtomicU64);

/// The variables of one round.
struct Round {
    x: Line,
    y: Line,
    seen: [[AtomicU64; 2]; THREADS],
}

impl Round {
    const fn new() -> Self {
        Self {
            x: Line(AtomicU64::new(0)),
            y: Line(AtomicU64::new(0)),
            seen: [const { [const { AtomicU64::new(0) }; 2] }; THREADS],
        }
    }

    fn reset(&self) {
        self.x.0.store(0, Relaxed);
        self.y.0.store(0, Relaxed);
    }

    fn outcome(&self) -> Outcome {
        let seen = core::array::from_fn(|thread| {
            core::array::from_fn(|index| self.seen[thread][index].load(Relaxed))
        });
        Outcome { seen, x: self.x.0.load(Relaxed), y: self.y.0.load(Relaxed) }
    }
}

static ROUNDS: [[Round; BATCH]; MAX_HARTS] = [const { [const { Round::new() }; BATCH] }; MAX_HARTS];
/// The round that each hart has come to.
static AT: [Line; MAX_HARTS] = [const { Line(AtomicU64::new(0)) }; MAX_HARTS];

#[unsafe(no_mangle)]
fn guest_main(hart: usize) -> ! {
    let member = Member::join(hart);
    let mut random = member.random();
    for (test, number) in TESTS.iter().zip(1..) {
        if test.threads.len() > member.harts {
            continue;
        }
        member.start(DURATION / TESTS.len() as u64);
        let (mut rounds, mut seen) = (0, 0);
        while member.goes_on() {
            work(member, test, rounds, &mut random);
            member.barrier();
            rounds += BATCH as u64;
            if member.is_first() {
                seen += count(member, test);
            }
        }
        if member.is_first() {
            let verdict = match test.rule {
                Rule::Forbidden if seen == 0 => "ok",
                Rule::Forbidden => "FAILED",
                Rule::Allowed => "allowed",
                Rule::Departure => "known departure",
            };
            println!("{number}: {}: {seen} in {}: {verdict}", test.name, rounds * teams(member, test) as u64);
            if test.rule == Rule::Forbidden && seen != 0 {
                exit(number)
            }
        }
    }
    member.barrier();
    if member.is_first() {
        println!(
            "litmus passed on {} harts, {} timer interrupts on the first",
            member.harts,
            member.timers()
        );
        exit(0)
    }
    loop {
        guest_runtime::csr::wait_for_interrupt();
    }
}

/// How many teams of harts do the test at a time.
fn teams(member: Member, test: &Test) -> usize {
    member.harts / test.threads.len()
}

/// Does this hart's part of a batch.
fn work(member: Member, test: &Test, done: u64, random: &mut Random) {
    let threads = test.threads.len();
    let (team, thread) = (member.hart / threads, member.hart % threads);
    if team >= teams(member, test) {
        return;
    }
    let first = team * threads;
    let (delays, patience) = (random.choose(&DELAYS), random.choose(&PATIENCE));
    // Whoever slept at the barrier comes late.
    meet(member.hart, first..first + threads, done + 1, FIRST_PATIENCE);
    for (index, round) in ROUNDS[team].iter().enumerate() {
        meet(member.hart, first..first + threads, done + 1 + index as u64, patience);
        for _ in 0..random.below(delays) {
            spin_loop();
        }
        let seen = test.threads[thread](round.x.0.as_ptr(), round.y.0.as_ptr());
        round.seen[thread][0].store(seen[0], Relaxed);
        round.seen[thread][1].store(seen[1], Relaxed);
    }
    AT[member.hart].0.store(0, SeqCst);
}

/// Waits a little for the companions to come to a round. Those that are elsewhere aren't waited for.
fn meet(hart: usize, team: core::ops::Range<usize>, round: u64, patience: u32) {
    AT[hart].0.store(round, Relaxed);
    for _ in 0..patience {
        if team.clone().all(|other| AT[other].0.load(Relaxed) >= round) {
            break;
        }
        spin_loop();
    }
}

/// Counts the outcomes that the test looks for, and makes all rounds anew.
fn count(member: Member, test: &Test) -> u64 {
    let mut seen = 0;
    for round in ROUNDS[..teams(member, test)].iter().flatten() {
        let outcome = round.outcome();
        if (test.looks_for)(&outcome) {
            if test.rule == Rule::Forbidden && seen == 0 {
                println!("{}: {outcome:?}", test.name);
            }
            seen += 1;
        }
        round.reset();
    }
    seen
}
