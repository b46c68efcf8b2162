//! Locks around data of several words, and a stack without locks.

use core::arch::asm;
use core::hint::spin_loop;
use core::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use guest_runtime::MAX_HARTS;
use guest_runtime::team::{Member, wait_until};

use crate::atomics::Line;
use crate::{Work, Wrong, expect};

pub const CHECKS: &[(&str, Work)] = &[
    ("swap lock protects", |member| lock_protects(member, take_by_swap, release)),
    ("reservation lock protects", |member| lock_protects(member, take_by_reservation, release)),
    ("ticket lock protects", |member| lock_protects(member, take_ticket, serve_next)),
    ("lock of stores and fences protects", |member| lock_protects(member, take_by_fences, leave_by_fences)),
    ("stack loses nothing", stack_loses_nothing),
];

const TURNS: u64 = 100;

static LOCK: Line<AtomicU32> = Line(AtomicU32::new(0));

fn take_by_swap(_: Member) {
    wait_until(|| LOCK.0.load(Relaxed) == 0 && LOCK.0.swap(1, Acquire) == 0);
}

fn take_by_reservation(_: Member) {
    wait_until(|| {
        let failed: u64;
        // SAFETY: stores to the lock only.
        unsafe {
            asm!(
                "lr.w.aq {failed}, ({lock})",
                "bnez {failed}, 1f",
                "sc.w {failed}, {one}, ({lock})",
                "1:",
                lock = in(reg) LOCK.0.as_ptr(),
                one = in(reg) 1,
                failed = out(reg) failed,
            );
        }
        failed == 0
    });
}

fn release(_: Member) {
    LOCK.0.store(0, Release);
}

static NEXT: Line<AtomicU64> = Line(AtomicU64::new(0));
static SERVED: Line<AtomicU64> = Line(AtomicU64::new(0));

fn take_ticket(_: Member) {
    let ticket = NEXT.0.fetch_add(1, Relaxed);
    wait_until(|| SERVED.0.load(Acquire) == ticket);
}

fn serve_next(_: Member) {
    SERVED.0.store(SERVED.0.load(Relaxed) + 1, Release);
}

static WANTS: [Line<AtomicU64>; MAX_HARTS] = [const { Line(AtomicU64::new(0)) }; MAX_HARTS];
static CHOOSES: [Line<AtomicU64>; MAX_HARTS] = [const { Line(AtomicU64::new(0)) }; MAX_HARTS];

/// Lamport's bakery: loads and stores alone, ordered by `fence rw, rw`.
fn take_by_fences(member: Member) {
    CHOOSES[member.hart].0.store(1, SeqCst);
    let largest = WANTS[..member.harts].iter().map(|number| number.0.load(SeqCst)).max();
    let own = largest.unwrap_or(0) + 1;
    WANTS[member.hart].0.store(own, SeqCst);
    CHOOSES[member.hart].0.store(0, SeqCst);
    for other in (0..member.harts).filter(|&other| other != member.hart) {
        wait_until(|| CHOOSES[other].0.load(SeqCst) == 0);
        wait_until(|| {
            let number = WANTS[other].0.load(SeqCst);
            number == 0 || (own, member.hart) < (number, other)
        });
    }
}

fn leave_by_fences(member: Member) {
    WANTS[member.hart].0.store(0, SeqCst);
}

/// What the lock protects: all words are equal.
static DATA: Line<[AtomicU64; 12]> = Line([const { AtomicU64::new(0) }; 12]);

fn lock_protects(member: Member, take: fn(Member), leave: fn(Member)) -> Result<u64, Wrong> {
    let mut rounds = 0;
    let start = DATA.0[0].load(SeqCst);
    while member.goes_on() {
        for _ in 0..TURNS {
            take(member);
            let value = DATA.0[0].load(Relaxed);
            for word in &DATA.0 {
                expect("all words alike", value, word.load(Relaxed))?;
                word.store(value + 1, Relaxed);
            }
            leave(member);
            spin_loop();
        }
        rounds += 1;
        member.barrier();
        expect("all turns", start + rounds * TURNS * member.harts as u64, DATA.0[0].load(SeqCst))?;
    }
    Ok(rounds)
}

const NODES: usize = 16;
static LINKS: [AtomicUsize; NODES] = [const { AtomicUsize::new(0) }; NODES];
static OWNERS: [AtomicUsize; NODES] = [const { AtomicUsize::new(0) }; NODES];
/// Number of the first node plus 1 below, how often it was changed above.
static HEAD: Line<AtomicUsize> = Line(AtomicUsize::new(0));
const NUMBER: usize = 0xff;

fn change_head(old: usize, first: usize) -> bool {
    HEAD.0.compare_exchange_weak(old, (old & !NUMBER) + NUMBER + 1 + first, SeqCst, SeqCst).is_ok()
}

fn push(node: usize) {
    loop {
        let head = HEAD.0.load(SeqCst);
        LINKS[node].store(head & NUMBER, SeqCst);
        if change_head(head, node + 1) {
            break;
        }
    }
}

fn pop() -> Option<usize> {
    loop {
        let head = HEAD.0.load(SeqCst);
        let node = (head & NUMBER).checked_sub(1)?;
        if change_head(head, LINKS[node].load(SeqCst)) {
            return Some(node);
        }
    }
}

fn stack_loses_nothing(member: Member) -> Result<u64, Wrong> {
    let mut rounds = 0;
    if member.is_first() {
        (0..NODES).for_each(push);
    }
    while member.goes_on() {
        for _ in 0..TURNS {
            let nodes = [pop(), pop()];
            for node in nodes.into_iter().flatten() {
                let owner = OWNERS[node].swap(member.hart + 1, SeqCst);
                expect("popped node had no owner", 0, owner as u64)?;
            }
            for node in nodes.into_iter().flatten() {
                let owner = OWNERS[node].swap(0, SeqCst);
                expect("popped node has its owner", member.hart as u64 + 1, owner as u64)?;
                push(node);
            }
        }
        rounds += 1;
        member.barrier();
        let next = |node: &usize| LINKS[node - 1].load(SeqCst).checked_sub(1).map(|next| next + 1);
        let first = Some(HEAD.0.load(SeqCst) & NUMBER).filter(|&number| number != 0);
        let count = core::iter::successors(first, next).take(NODES + 1).count();
        expect("nodes in the stack", NODES as u64, count as u64)?;
    }
    Ok(rounds)
}
