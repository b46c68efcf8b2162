//! Garbage for every register of every device.

use guest_runtime::board::{DEVICES, FINISHER};
use guest_runtime::probe::{self, WIDTHS, Width};
use guest_runtime::random::Random;

use crate::Attack;

pub const ATTACKS: &[Attack] = &[
    ("every register, every width", every_register_every_width),
    ("random accesses to all devices", random_accesses_to_all_devices),
];

/// Whether a store would end the machine, and the attack with it.
fn ends_the_machine(address: usize, value: u64) -> bool {
    let touches = (FINISHER.wrapping_sub(8)..FINISHER + 4).contains(&address);
    touches && [0x3333, 0x5555, 0x7777].contains(&(value & 0xffff))
}

fn access(address: usize, width: Width, value: u64) {
    // SAFETY: devices only. DMA that garbage may start needs a queue set up, which garbage does not reach
    // without the steps that the attack on queues takes.
    unsafe {
        let _ = probe::load(address, width);
        if !ends_the_machine(address, value) {
            let _ = probe::store(address, width, value);
        }
        let _ = probe::load(address, width);
    }
}

fn every_register_every_width(random: &mut Random) {
    for (_, base, size) in DEVICES {
        for offset in 0..size.min(0x210) {
            for width in WIDTHS {
                for value in [0, 1, u64::MAX, 1 << 31, random.next_u64()] {
                    access(base + offset, width, value);
                }
            }
        }
    }
}

fn random_accesses_to_all_devices(random: &mut Random) {
    for _ in 0..100_000 {
        let (_, base, size) = random.choose(&DEVICES);
        let address = base + random.below(size);
        let aligned = random.choose(&[0, 1, 3, 7]);
        access(address & !aligned, random.choose(&WIDTHS), random.next_u64() >> random.below(64));
    }
}
