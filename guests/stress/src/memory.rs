//! Accesses of all widths side by side: stores change their own bytes and no others, aligned ones are whole.

use core::arch::asm;
use core::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use guest_runtime::random::Random;
use guest_runtime::team::Member;

use crate::atomics::Line;
use crate::{Work, Wrong, expect};

pub const CHECKS: &[(&str, Work)] = &[
    ("stores leave neighbours alone", stores_leave_neighbours_alone),
    ("aligned accesses are whole", aligned_accesses_are_whole),
];

const PAGE: usize = 4096;

#[repr(align(4096))]
struct Arena([AtomicU8; 3 * PAGE]);

static ARENA: Arena = Arena([const { AtomicU8::new(0) }; 3 * PAGE]);

/// Bytes of one hart, side by side with those of others.
const OWN: usize = 11;
/// Where the bytes of all harts are: across a cache line, and across both ends of a page.
const PLACES: [usize; 3] = [64 * 10 - 13, PAGE - 17, 2 * PAGE - 9];

/// Stores or loads at any address, in one instruction.
macro_rules! access {
    (store $instruction:literal, $address:expr, $value:expr) => {
        // SAFETY: the hart's own bytes.
        unsafe {
            asm!(concat!($instruction, " {value}, 0({address})"), value = in(reg) $value, address = in(reg) $address)
        }
    };
    (load $instruction:literal, $address:expr) => {{
        let value: u64;
        // SAFETY: bytes of the arena.
        unsafe {
            asm!(concat!($instruction, " {value}, 0({address})"), value = out(reg) value, address = in(reg) $address)
        };
        value
    }};
}

fn store(address: *mut u8, width: usize, value: u64) {
    match width {
        1 => access!(store "sb", address, value),
        2 => access!(store "sh", address, value),
        4 => access!(store "sw", address, value),
        _ => access!(store "sd", address, value),
    }
}

fn load(address: *mut u8, width: usize) -> u64 {
    match width {
        1 => access!(load "lbu", address),
        2 => access!(load "lhu", address),
        4 => access!(load "lwu", address),
        _ => access!(load "ld", address),
    }
}

/// A store somewhere in the hart's own bytes, of any width, and the same in `model`; then a load.
fn store_somewhere(random: &mut Random, start: *mut u8, model: &mut [u8; OWN]) -> Result<(), Wrong> {
    let width = random.choose(&[1, 2, 4, 8]);
    let offset = random.below(OWN - width + 1);
    let value = random.next_u64();
    store(start.wrapping_add(offset), width, value);
    model[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
    let width = random.choose(&[1, 2, 4, 8]);
    let offset = random.below(OWN - width + 1);
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&model[offset..offset + width]);
    expect("own bytes", u64::from_le_bytes(bytes), load(start.wrapping_add(offset), width))
}

fn stores_leave_neighbours_alone(member: Member) -> Result<u64, Wrong> {
    let mut rounds = 0;
    let mut random = member.random();
    let mut models = [[0; OWN]; PLACES.len()];
    let start = |place: usize| ARENA.0[place + OWN * member.hart..].as_ptr().cast_mut().cast::<u8>();
    while member.goes_on() {
        for _ in 0..200 {
            for (place, model) in PLACES.into_iter().zip(&mut models) {
                store_somewhere(&mut random, start(place), model)?;
                for (index, &byte) in model.iter().enumerate() {
                    expect("own byte", byte.into(), load(start(place).wrapping_add(index), 1))?;
                }
            }
        }
        rounds += 1;
    }
    Ok(rounds)
}

static WHOLE: Line<[AtomicU64; 4]> = Line([const { AtomicU64::new(0) }; 4]);

/// All stores repeat one byte: a load that finds two different ones saw half a store.
fn aligned_accesses_are_whole(member: Member) -> Result<u64, Wrong> {
    const REPEAT: u64 = 0x0101_0101_0101_0101;
    let mut rounds = 0;
    let mut random = member.random();
    while member.goes_on() {
        for _ in 0..500 {
            let word = &WHOLE.0[random.below(4)];
            if random.below(2) == 0 {
                word.store((random.next_u64() & 0xff) * REPEAT, Relaxed);
            } else {
                let found = word.load(Relaxed);
                expect("whole", (found & 0xff) * REPEAT, found)?;
            }
        }
        rounds += 1;
    }
    member.barrier();
    expect("still whole", (WHOLE.0[0].load(SeqCst) & 0xff) * REPEAT, WHOLE.0[0].load(SeqCst))?;
    Ok(rounds)
}
