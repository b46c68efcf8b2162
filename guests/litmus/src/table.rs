//! The tests: names as in the literature (MP message passing, SB store buffering, LB load buffering, IRIW
//! independent reads of independent writes, WRC write-to-read causality, Co… coherence).

use core::arch::asm;

/// What a test's threads saw, and what was left.
#[derive(Debug)]
pub struct Outcome {
    /// `a` and `b` of each thread.
    pub seen: [[u64; 2]; 4],
    pub x: u64,
    pub y: u64,
}

/// Does a thread's instructions on the variables `x` and `y`; returns what it put into `a` and `b`.
pub type Thread = fn(x: *mut u64, y: *mut u64) -> [u64; 2];

pub struct Test {
    pub name: &'static str,
    pub threads: &'static [Thread],
    pub looks_for: fn(&Outcome) -> bool,
    pub rule: Rule,
}

/// What holds for the outcome that a test looks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The model forbids it.
    Forbidden,
    /// The model allows it.
    Allowed,
    /// The model forbids it, and Rvisor is known to do it.
    Departure,
}

/// A thread's instructions. Operands: addresses `x` and `y`, numbers `one` and `two`, results `a` and `b`, which
/// are zero before, and `t`.
macro_rules! thread {
    ($($line:literal),+ $(,)?) => {
        |x, y| {
            let (mut a, mut b) = (0u64, 0u64);
            // SAFETY: the instructions access the two variables only.
            unsafe {
                asm!(
                    $($line,)+
                    "# {x} {y} {one} {two} {a} {b} {t}",
                    x = in(reg) x,
                    y = in(reg) y,
                    one = in(reg) 1u64,
                    two = in(reg) 2u64,
                    a = inout(reg) a,
                    b = inout(reg) b,
                    t = out(reg) _,
                );
            }
            [a, b]
        }
    };
}

const fn forbidden(name: &'static str, threads: &'static [Thread], looks_for: fn(&Outcome) -> bool) -> Test {
    Test { name, threads, looks_for, rule: Rule::Forbidden }
}

const fn allowed(name: &'static str, threads: &'static [Thread], looks_for: fn(&Outcome) -> bool) -> Test {
    Test { name, threads, looks_for, rule: Rule::Allowed }
}

const fn departure(name: &'static str, threads: &'static [Thread], looks_for: fn(&Outcome) -> bool) -> Test {
    Test { name, threads, looks_for, rule: Rule::Departure }
}

const SEND: Thread = thread!("sd {one}, 0({x})", "fence w, w", "sd {one}, 0({y})");
const SEND_TSO: Thread = thread!("sd {one}, 0({x})", "fence.tso", "sd {one}, 0({y})");
const SEND_SWAP: Thread = thread!("sd {one}, 0({x})", "amoswap.d.rl zero, {one}, ({y})");
const SEND_RESERVED: Thread =
    thread!("sd {one}, 0({x})", "1: lr.d {t}, ({y})", "sc.d.rl {t}, {one}, ({y})", "bnez {t}, 1b",);
const SEND_PLAIN: Thread = thread!("sd {one}, 0({x})", "sd {one}, 0({y})");
const RECEIVE: Thread = thread!("ld {a}, 0({y})", "fence r, r", "ld {b}, 0({x})");
const RECEIVE_TSO: Thread = thread!("ld {a}, 0({y})", "fence.tso", "ld {b}, 0({x})");
const RECEIVE_RESERVED: Thread = thread!("lr.d.aq {a}, ({y})", "ld {b}, 0({x})");
const RECEIVE_AMO: Thread = thread!("amoor.d.aq {a}, zero, ({y})", "ld {b}, 0({x})");
const RECEIVE_DEPENDENT: Thread =
    thread!("ld {a}, 0({y})", "xor {t}, {a}, {a}", "add {t}, {t}, {x}", "ld {b}, 0({t})");
const RECEIVE_PLAIN: Thread = thread!("ld {a}, 0({y})", "ld {b}, 0({x})");

fn flag_without_message(o: &Outcome) -> bool {
    o.seen[1] == [1, 0]
}

/// A store to one variable, then a load of the other: both ways round.
macro_rules! store_buffering {
    ($between:literal) => {
        &[
            thread!("sd {one}, 0({x})", $between, "ld {a}, 0({y})"),
            thread!("sd {one}, 0({y})", $between, "ld {a}, 0({x})"),
        ]
    };
}

fn both_loads_early(o: &Outcome) -> bool {
    o.seen[0][0] == 0 && o.seen[1][0] == 0
}

fn both_loads_late(o: &Outcome) -> bool {
    o.seen[0][0] == 1 && o.seen[1][0] == 1
}

const WRITE_X: Thread = thread!("sd {one}, 0({x})");
const WRITE_Y: Thread = thread!("sd {one}, 0({y})");
const READ_XY: Thread = thread!("ld {a}, 0({x})", "fence r, r", "ld {b}, 0({y})");
const READ_XY_ACQUIRE: Thread = thread!("lr.d.aq {a}, ({x})", "ld {b}, 0({y})");
const READ_YX_ACQUIRE: Thread = thread!("lr.d.aq {a}, ({y})", "ld {b}, 0({x})");

fn readers_disagree(o: &Outcome) -> bool {
    o.seen[2] == [1, 0] && o.seen[3] == [1, 0]
}

/// All tests.
pub const TESTS: &[Test] = &[
    forbidden("MP, fences", &[SEND, RECEIVE], flag_without_message),
    forbidden("MP, fence.tso", &[SEND_TSO, RECEIVE_TSO], flag_without_message),
    forbidden("MP, amoswap.rl and lr.aq", &[SEND_SWAP, RECEIVE_RESERVED], flag_without_message),
    forbidden("MP, sc.rl and amoor.aq", &[SEND_RESERVED, RECEIVE_AMO], flag_without_message),
    forbidden("MP, fence and dependent address", &[SEND, RECEIVE_DEPENDENT], flag_without_message),
    allowed("MP", &[SEND_PLAIN, RECEIVE_PLAIN], flag_without_message),
    forbidden("SB, fence rw,rw", store_buffering!("fence rw, rw"), both_loads_early),
    forbidden("SB, fence w,r", store_buffering!("fence w, r"), both_loads_early),
    forbidden("SB, fence iorw,iorw", store_buffering!("fence"), both_loads_early),
    allowed("SB", store_buffering!(""), both_loads_early),
    allowed("SB, fence.tso", store_buffering!("fence.tso"), both_loads_early),
    allowed("SB, fence r,rw", store_buffering!("fence r, rw"), both_loads_early),
    forbidden(
        "SB, amoswap.aqrl for stores",
        &[
            thread!("amoswap.d.aqrl zero, {one}, ({x})", "ld {a}, 0({y})"),
            thread!("amoswap.d.aqrl zero, {one}, ({y})", "ld {a}, 0({x})"),
        ],
        both_loads_early,
    ),
    forbidden(
        "SB, amoswap.w.aq for stores",
        &[
            thread!("amoswap.w.aq zero, {one}, ({x})", "ld {a}, 0({y})"),
            thread!("amoswap.w.aq zero, {one}, ({y})", "ld {a}, 0({x})"),
        ],
        both_loads_early,
    ),
    forbidden(
        "SB, amoor.rl for loads",
        &[
            thread!("sd {one}, 0({x})", "amoor.d.rl {a}, zero, ({y})"),
            thread!("sd {one}, 0({y})", "amoor.d.rl {a}, zero, ({x})"),
        ],
        both_loads_early,
    ),
    forbidden(
        "SB, lr.aqrl for loads",
        &[
            thread!("sd {one}, 0({x})", "lr.d.aqrl {a}, ({y})"),
            thread!("sd {one}, 0({y})", "lr.d.aqrl {a}, ({x})"),
        ],
        both_loads_early,
    ),
    forbidden(
        "SB, amoswap.rl for stores and lr.aq for loads",
        &[
            thread!("amoswap.d.rl zero, {one}, ({x})", "lr.d.aq {a}, ({y})"),
            thread!("amoswap.d.rl zero, {one}, ({y})", "lr.d.aq {a}, ({x})"),
        ],
        both_loads_early,
    ),
    forbidden(
        "SB, sc.aqrl for stores",
        &[
            thread!("1: lr.d {t}, ({x})", "sc.d.aqrl {t}, {one}, ({x})", "bnez {t}, 1b", "ld {a}, 0({y})"),
            thread!("1: lr.d {t}, ({y})", "sc.d.aqrl {t}, {one}, ({y})", "bnez {t}, 1b", "ld {a}, 0({x})"),
        ],
        both_loads_early,
    ),
    forbidden(
        "LB, fence rw,rw",
        &[
            thread!("ld {a}, 0({x})", "fence rw, rw", "sd {one}, 0({y})"),
            thread!("ld {a}, 0({y})", "fence rw, rw", "sd {one}, 0({x})"),
        ],
        both_loads_late,
    ),
    forbidden(
        "LB, dependent data",
        &[
            thread!("ld {a}, 0({x})", "xor {t}, {a}, {a}", "addi {t}, {t}, 1", "sd {t}, 0({y})"),
            thread!("ld {a}, 0({y})", "xor {t}, {a}, {a}", "addi {t}, {t}, 1", "sd {t}, 0({x})"),
        ],
        both_loads_late,
    ),
    allowed(
        "LB",
        &[thread!("ld {a}, 0({x})", "sd {one}, 0({y})"), thread!("ld {a}, 0({y})", "sd {one}, 0({x})")],
        both_loads_late,
    ),
    forbidden(
        "S, fences",
        &[
            thread!("sd {two}, 0({x})", "fence w, w", "sd {one}, 0({y})"),
            thread!("ld {a}, 0({y})", "fence r, w", "sd {one}, 0({x})"),
        ],
        |o| o.seen[1][0] == 1 && o.x == 2,
    ),
    forbidden(
        "R, fence rw,rw",
        &[
            thread!("sd {one}, 0({x})", "fence rw, rw", "sd {one}, 0({y})"),
            thread!("sd {two}, 0({y})", "fence rw, rw", "ld {a}, 0({x})"),
        ],
        |o| o.seen[1][0] == 0 && o.y == 2,
    ),
    forbidden(
        "2+2W, fence w,w",
        &[
            thread!("sd {one}, 0({x})", "fence w, w", "sd {two}, 0({y})"),
            thread!("sd {one}, 0({y})", "fence w, w", "sd {two}, 0({x})"),
        ],
        |o| o.x == 1 && o.y == 1,
    ),
    forbidden("CoRR", &[WRITE_X, thread!("ld {a}, 0({x})", "ld {b}, 0({x})")], |o| o.seen[1] == [1, 0]),
    forbidden("CoRR, two widths", &[WRITE_X, thread!("lbu {a}, 0({x})", "lw {b}, 0({x})")], |o| {
        o.seen[1] == [1, 0]
    }),
    forbidden(
        "CoWW",
        &[thread!("sd {one}, 0({x})", "sd {two}, 0({x})"), thread!("ld {a}, 0({x})", "ld {b}, 0({x})")],
        |o| o.x != 2 || o.seen[1][0] > o.seen[1][1],
    ),
    forbidden(
        "CoWR",
        &[thread!("sd {one}, 0({x})", "ld {a}, 0({x})"), thread!("sd {two}, 0({x})", "ld {a}, 0({x})")],
        |o| o.seen[0][0] == 2 && o.x == 1 || o.seen[1][0] == 1 && o.x == 2 || o.seen[0][0] == 0,
    ),
    forbidden("CoRW", &[thread!("ld {a}, 0({x})", "sd {one}, 0({x})"), thread!("sd {two}, 0({x})")], |o| {
        o.seen[0][0] == 1 || o.seen[0][0] == 2 && o.x == 2
    }),
    forbidden(
        "store between lr and sc",
        &[
            thread!("lr.d {a}, ({x})", "addi {t}, {a}, 4", "sc.d {b}, {t}, ({x})"),
            thread!("sd {two}, 0({x})"),
        ],
        // The sum is lost or made; the store never is, once it was made behind `lr`.
        |o| o.seen[0] == [0, 0] && o.x != 2 || o.seen[0] == [2, 0] && o.x != 6,
    ),
    // `sc` compares the value that `lr` found.
    departure(
        "sc behind a change and its reversal",
        &[
            thread!(
                "lr.d {b}, ({x})",
                "sd {one}, 0({y})",
                "li {t}, 500",
                "2: ld {a}, 0({y})",
                "addi {t}, {t}, -1",
                "beqz {t}, 3f",
                "bne {a}, {two}, 2b",
                "3: sc.d {b}, {one}, ({x})",
            ),
            thread!(
                "li {t}, 500",
                "2: ld {a}, 0({y})",
                "addi {t}, {t}, -1",
                "beqz {t}, 3f",
                "bne {a}, {one}, 2b",
                "sd {two}, 0({x})",
                "sd zero, 0({x})",
                "fence w, w",
                "sd {two}, 0({y})",
                "3:",
            ),
        ],
        |o| o.seen[0] == [2, 0],
    ),
    forbidden("IRIW, fences", &[WRITE_X, WRITE_Y, READ_XY, RECEIVE], readers_disagree),
    forbidden("IRIW, lr.aq", &[WRITE_X, WRITE_Y, READ_XY_ACQUIRE, READ_YX_ACQUIRE], readers_disagree),
    forbidden(
        "WRC, fences",
        &[WRITE_X, thread!("ld {a}, 0({x})", "fence rw, rw", "sd {one}, 0({y})"), RECEIVE],
        |o| o.seen[1][0] == 1 && o.seen[2] == [1, 0],
    ),
    forbidden(
        "WRC, amoswap.aqrl and amoor.aq",
        &[WRITE_X, thread!("ld {a}, 0({x})", "amoswap.d.aqrl zero, {one}, ({y})"), RECEIVE_AMO],
        |o| o.seen[1][0] == 1 && o.seen[2] == [1, 0],
    ),
];
