//! Several harts: interrupts between them, atomics, reservations. With one hart there is nothing to check.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use guest_runtime::MAX_HARTS;
use guest_runtime::board::{self, TICKS_PER_MILLISECOND, ticks};
use guest_runtime::csr::{self, INTERRUPT, MACHINE_SOFTWARE};
use guest_runtime::probe::take_interrupt;

use crate::Check;

pub const CHECKS: &[Check] = &[
    ("other harts answer interrupts", other_harts_answer_interrupts),
    ("atomic additions of all harts add up", atomic_additions_of_all_harts_add_up),
    ("reservations of all harts add up", reservations_of_all_harts_add_up),
];

/// What the other harts do when interrupted.
static ORDER: AtomicU32 = AtomicU32::new(0);
const ANSWER: u32 = 1;
const ADD: u32 = 2;
const RESERVE: u32 = 3;

static ANSWERS: [AtomicUsize; MAX_HARTS] = [const { AtomicUsize::new(0) }; MAX_HARTS];
static PRESENT: AtomicUsize = AtomicUsize::new(0);
static SUM: AtomicU64 = AtomicU64::new(0);
/// Additions of each hart.
const ROUNDS: u64 = 20_000;

fn set_software_interrupt(hart: usize, level: u32) {
    // SAFETY: the hart's MSIP register.
    unsafe { ((board::MSWI + 4 * hart) as *mut u32).write_volatile(level) };
}

/// What harts other than 0 do.
pub fn serve(hart: usize) -> ! {
    csr::write!("mie", 1 << MACHINE_SOFTWARE);
    PRESENT.fetch_or(1 << hart, SeqCst);
    loop {
        let trap = take_interrupt();
        set_software_interrupt(hart, 0);
        if trap.cause != INTERRUPT | MACHINE_SOFTWARE {
            continue;
        }
        match ORDER.load(SeqCst) {
            ADD => add(),
            RESERVE => reserve(),
            _ => {}
        }
        ANSWERS[hart].fetch_add(1, SeqCst);
    }
}

fn add() {
    (0..ROUNDS).for_each(|_| {
        SUM.fetch_add(1, SeqCst);
    });
}

/// Adds with a pair of `lr` and `sc`.
fn reserve() {
    for _ in 0..ROUNDS {
        // SAFETY: an atomic addition to a static.
        unsafe {
            core::arch::asm!(
                "1: lr.d.aqrl {value}, ({address})",
                "addi {value}, {value}, 1",
                "sc.d.aqrl {value}, {value}, ({address})",
                "bnez {value}, 1b",
                address = in(reg) SUM.as_ptr(),
                value = out(reg) _,
            );
        }
    }
}

/// The other harts that have come up; waits a little for them.
fn others() -> impl Iterator<Item = usize> {
    static WAITED: AtomicU32 = AtomicU32::new(0);
    if WAITED.swap(1, SeqCst) == 0 {
        let until = ticks() + 200 * TICKS_PER_MILLISECOND;
        while ticks() < until {}
    }
    let present = PRESENT.load(SeqCst);
    (1..MAX_HARTS).filter(move |hart| present & 1 << hart != 0)
}

/// Gives all other harts an order, does `own` meanwhile and waits ten seconds at most until they are done.
fn order(order: u32, own: fn()) -> bool {
    ORDER.store(order, SeqCst);
    let before: [usize; MAX_HARTS] = core::array::from_fn(|hart| ANSWERS[hart].load(SeqCst));
    others().for_each(|hart| set_software_interrupt(hart, 1));
    own();
    let until = ticks() + 10_000 * TICKS_PER_MILLISECOND;
    while others().any(|hart| ANSWERS[hart].load(SeqCst) == before[hart]) {
        if ticks() > until {
            return false;
        }
    }
    true
}

fn other_harts_answer_interrupts() -> bool {
    (0..100).all(|_| order(ANSWER, || {}))
}

fn sums_up(kind: u32, own: fn()) -> bool {
    SUM.store(0, SeqCst);
    order(kind, own) && SUM.load(SeqCst) == ROUNDS * (1 + others().count() as u64)
}

fn atomic_additions_of_all_harts_add_up() -> bool {
    sums_up(ADD, add)
}

fn reservations_of_all_harts_add_up() -> bool {
    sums_up(RESERVE, reserve)
}
