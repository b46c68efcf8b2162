//! Page tables that loop, point outside memory and at devices, or are noise.

use core::arch::asm;

use guest_runtime::board::{self, TICKS_PER_MILLISECOND, UART, ram_end, set_deadline, ticks};
use guest_runtime::csr::{self, MACHINE_TIMER};
use guest_runtime::probe::{self, Mode};
use guest_runtime::random::Random;

use crate::Attack;
use crate::memory::SCRATCH;

pub const ATTACKS: &[Attack] = &[
    ("page tables that loop", tables_that_loop),
    ("page tables outside memory", tables_outside_memory),
    ("page tables of noise", tables_of_noise),
];

/// `satp` for Sv39, Sv48 and Sv57, and modes that don't exist.
const MODES: [u64; 6] = [8, 9, 10, 11, 1, 15];
const PAGES: usize = 8;
const VALID: u64 = 1;
/// All permissions and the user's, accessed and dirty.
const LEAF: u64 = 0xdf;

fn entry(address: usize, flags: u64) -> u64 {
    (address as u64 >> 12) << 10 | flags
}

fn set_entry(page: usize, index: usize, value: u64) {
    // SAFETY: scratch memory.
    unsafe { ((SCRATCH + 4096 * page + 8 * index) as *mut u64).write_volatile(value) };
}

fn fill(mut value: impl FnMut(usize, usize) -> u64) {
    for page in 0..PAGES {
        for index in 0..512 {
            set_entry(page, index, value(page, index));
        }
    }
}

/// Uses the tables under `root` for loads, stores and fetches of all kinds of addresses.
fn walk(random: &mut Random, root: usize) {
    for mode in MODES {
        csr::write!("satp", mode << 60 | root as u64 >> 12 | (random.next_u64() & 0xffff) << 44);
        // SAFETY: forgets translations.
        unsafe { asm!("sfence.vma") };
        for _ in 0..20 {
            let address = (random.next_u64() as i64 >> random.choose(&[7, 16, 25, 34, 52])) as usize;
            // SAFETY: whatever the tables map in RAM is scratch memory; code there ends with the timer.
            unsafe {
                let _ = probe::access_as(Mode::Supervisor, address, None);
                let _ = probe::access_as(Mode::User, address, Some(random.next_u64()));
                let mode = random.choose(&[Mode::User, Mode::Supervisor]);
                csr::write!("mie", 1 << MACHINE_TIMER);
                set_deadline(0, ticks() + TICKS_PER_MILLISECOND);
                probe::jump(mode, address);
                csr::write!("mie", 0);
            }
        }
    }
    csr::write!("satp", 0);
}

fn tables_that_loop(random: &mut Random) {
    // Every entry points at its own page, at the next one, at the root; with one leaf among them.
    fill(|page, _| entry(SCRATCH + 4096 * page, VALID));
    walk(random, SCRATCH);
    fill(|page, _| entry(SCRATCH + 4096 * ((page + 1) % PAGES), VALID));
    walk(random, SCRATCH);
    fill(|page, index| {
        let flags = if index % 2 == 0 { LEAF } else { VALID };
        entry(SCRATCH + 4096 * (page + index) % PAGES, flags)
    });
    walk(random, SCRATCH);
}

fn tables_outside_memory(random: &mut Random) {
    for root in [0, UART & !0xfff, board::PLIC, ram_end(), ram_end() - 4096, (1 << 56) - 4096] {
        walk(random, root);
        fill(|_, index| entry(root, if index % 2 == 0 { LEAF } else { VALID }));
        walk(random, SCRATCH);
    }
}

fn tables_of_noise(random: &mut Random) {
    for _ in 0..20 {
        // Noise in the flags and the reserved bits; the addresses stay in scratch memory or outside RAM.
        fill(|_, index| {
            let inside = SCRATCH + 4096 * random.below(PAGES);
            let outside = random.next_u64() as usize >> 8 | 1 << 50;
            let address = if index % 4 == 0 { outside } else { inside };
            entry(address, random.next_u64() & 0xffc0_0000_0000_03ff) | VALID
        });
        walk(random, SCRATCH);
    }
}
