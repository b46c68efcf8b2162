//! Atomic operations of all kinds on the same words: no update is lost.

use core::arch::asm;
use core::sync::atomic::{
    AtomicI32, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed, SeqCst},
};

use guest_runtime::MAX_HARTS;
use guest_runtime::team::Member;

use crate::{Work, Wrong, expect};

pub const CHECKS: &[(&str, Work)] = &[
    ("additions of all kinds add up", additions_of_all_kinds_add_up),
    ("bits of each hart stay its own", bits_of_each_hart_stay_its_own),
    ("extremes are kept", extremes_are_kept),
    ("swapped tokens are kept", swapped_tokens_are_kept),
];

/// Operations of each hart between two barriers.
const TURNS: u64 = 500;

/// Something on a cache line of its own.
#[repr(align(64))]
pub struct Line<T>(pub T);

static DOUBLE: Line<AtomicU64> = Line(AtomicU64::new(0));
static WORD: Line<AtomicU32> = Line(AtomicU32::new(0));
static HALVES: Line<[AtomicU16; 2]> = Line([const { AtomicU16::new(0) }; 2]);
static PAIR: Line<[AtomicU64; 2]> = Line([const { AtomicU64::new(0) }; 2]);

/// A loop of `lr`, `addi` and `sc`; `order` stands behind both.
macro_rules! add_reserved {
    ($width:literal, $order:literal, $address:expr) => {
        // SAFETY: an atomic addition to a static.
        unsafe {
            asm!(
                concat!("1: lr.", $width, $order, " {value}, ({address})"),
                "addi {value}, {value}, 1",
                concat!("sc.", $width, $order, " {value}, {value}, ({address})"),
                "bnez {value}, 1b",
                address = in(reg) $address.as_ptr(),
                value = out(reg) _,
            )
        }
    };
}

/// A loop of a load and an `amocas`.
macro_rules! add_compared {
    ($width:literal, $load:literal, $address:expr) => {
        // SAFETY: an atomic addition to a static.
        unsafe {
            asm!(
                ".option push",
                ".option arch, +zacas",
                concat!("1: ", $load, " {found}, ({address})"),
                "mv {expected}, {found}",
                "addi {value}, {found}, 1",
                concat!("amocas.", $width, ".aqrl {found}, {value}, ({address})"),
                "bne {found}, {expected}, 1b",
                ".option pop",
                address = in(reg) $address.as_ptr(),
                value = out(reg) _,
                found = out(reg) _,
                expected = out(reg) _,
            )
        }
    };
}

/// Adds 1 to the low half and 3 to the high half of [`PAIR`] in one.
fn add_to_pair() {
    // SAFETY: an atomic addition to a static.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +zacas",
            "1: ld a2, 0({address})",
            "ld a3, 8({address})",
            "mv {low}, a2",
            "mv {high}, a3",
            "addi a4, a2, 1",
            "addi a5, a3, 3",
            "amocas.q.aqrl a2, a4, ({address})",
            "bne a2, {low}, 1b",
            "bne a3, {high}, 1b",
            ".option pop",
            address = in(reg) PAIR.0.as_ptr(),
            low = out(reg) _,
            high = out(reg) _,
            out("a2") _,
            out("a3") _,
            out("a4") _,
            out("a5") _,
        );
    }
}

fn additions_of_all_kinds_add_up(member: Member) -> Result<u64, Wrong> {
    let mut rounds = 0;
    while member.goes_on() {
        for turn in 0..TURNS {
            DOUBLE.0.fetch_add(1, SeqCst);
            add_reserved!("d", ".aqrl", DOUBLE.0);
            add_compared!("d", "ld", DOUBLE.0);
            WORD.0.fetch_add(1, Relaxed);
            add_reserved!("w", "", WORD.0);
            add_compared!("w", "lw", WORD.0);
            // Narrow ones are loops on the word that both are part of.
            HALVES.0[turn as usize % 2].fetch_add(1, AcqRel);
            if turn % 8 == 0 {
                add_to_pair();
            }
        }
        rounds += 1;
        member.barrier();
        let turns = rounds * member.harts as u64 * TURNS;
        expect("double", turns * 3, DOUBLE.0.load(SeqCst))?;
        expect("word", (turns * 3) as u32 as u64, WORD.0.load(SeqCst).into())?;
        expect("low half", (turns / 2) as u16 as u64, HALVES.0[0].load(SeqCst).into())?;
        expect("high half", (turns / 2) as u16 as u64, HALVES.0[1].load(SeqCst).into())?;
        let pairs = rounds * member.harts as u64 * TURNS.div_ceil(8);
        expect("low double of the pair", pairs, PAIR.0[0].load(SeqCst))?;
        expect("high double of the pair", pairs * 3, PAIR.0[1].load(SeqCst))?;
    }
    Ok(rounds)
}

static BITS: Line<AtomicU64> = Line(AtomicU64::new(0));
static NARROW_BITS: Line<AtomicU32> = Line(AtomicU32::new(0));

fn bits_of_each_hart_stay_its_own(member: Member) -> Result<u64, Wrong> {
    let mut rounds = 0;
    let own = 1u64 << (63 - member.hart);
    let narrow = 1u32 << (31 - member.hart);
    while member.goes_on() {
        for _ in 0..TURNS {
            expect("bit before or", 0, BITS.0.fetch_or(own, AcqRel) & own)?;
            expect("bit before and", own, BITS.0.fetch_and(!own, Relaxed) & own)?;
            expect("bit before xor", 0, BITS.0.fetch_xor(own, SeqCst) & own)?;
            expect("bit before second xor", own, BITS.0.fetch_xor(own, SeqCst) & own)?;
            expect("narrow bit before or", 0, (NARROW_BITS.0.fetch_or(narrow, SeqCst) & narrow).into())?;
            let before = NARROW_BITS.0.fetch_and(!narrow, AcqRel) & narrow;
            expect("narrow bit before and", narrow.into(), before.into())?;
            expect("narrow bit before xor", 0, (NARROW_BITS.0.fetch_xor(narrow, Relaxed) & narrow).into())?;
            let before = NARROW_BITS.0.fetch_xor(narrow, Relaxed) & narrow;
            expect("narrow bit before second xor", narrow.into(), before.into())?;
        }
        rounds += 1;
        member.barrier();
        expect("all bits", 0, BITS.0.load(SeqCst))?;
        expect("all narrow bits", 0, NARROW_BITS.0.load(SeqCst).into())?;
    }
    Ok(rounds)
}

static LARGEST: Line<AtomicU64> = Line(AtomicU64::new(0));
static SMALLEST: Line<AtomicI32> = Line(AtomicI32::new(0));

fn extremes_are_kept(member: Member) -> Result<u64, Wrong> {
    let mut rounds = 0;
    let (mut largest, mut smallest) = (0, 0);
    while member.goes_on() {
        for turn in 0..TURNS {
            // Numbers that grow, each of one hart only.
            let next = (rounds * TURNS + turn + 1) * MAX_HARTS as u64 + member.hart as u64;
            let found = LARGEST.0.fetch_max(next, AcqRel);
            expect("own maximum is still there", 1, (found >= largest).into())?;
            largest = next;
            let next = -(next as u32 as i32 & 0x3fff_ffff);
            let found = SMALLEST.0.fetch_min(next, AcqRel);
            expect("own minimum is still there", 1, (found <= smallest).into())?;
            smallest = smallest.min(next);
        }
        rounds += 1;
        member.barrier();
        let last = rounds * TURNS * MAX_HARTS as u64 + member.harts as u64 - 1;
        expect("maximum", last, LARGEST.0.load(SeqCst))?;
    }
    Ok(rounds)
}

static TOKENS: Line<[AtomicU64; 4]> = Line([const { AtomicU64::new(0) }; 4]);
static SUM: AtomicU64 = AtomicU64::new(0);

fn swapped_tokens_are_kept(member: Member) -> Result<u64, Wrong> {
    let mut rounds = 0;
    let mut random = member.random();
    let mut held = 1 << (8 * member.hart);
    while member.goes_on() {
        for _ in 0..TURNS {
            held = TOKENS.0[random.below(4)].swap(held, AcqRel);
        }
        SUM.fetch_add(held, SeqCst);
        rounds += 1;
        member.barrier();
        let kept: u64 = TOKENS.0.iter().map(|token| token.load(SeqCst)).sum();
        let all = (0..member.harts).map(|hart| 1 << (8 * hart)).sum();
        expect("sum of tokens", all, kept + SUM.load(SeqCst))?;
        member.barrier();
        SUM.fetch_sub(held, SeqCst);
    }
    Ok(rounds)
}
