//! Accesses at the edges of RAM, of pages and of devices; code where there is none.

use guest_runtime::board::{DEVICES, RAM, ram_end};
use guest_runtime::probe::{self, ATOMICS, Mode, WIDTHS};
use guest_runtime::random::Random;

use crate::Attack;

pub const ATTACKS: &[Attack] = &[
    ("misaligned and crossing accesses", crossing_accesses),
    ("atomics on devices and nowhere", atomics_on_devices_and_nowhere),
    ("jumps to devices and nowhere", jumps_to_devices_and_nowhere),
    ("floating-point loads from devices", floating_point_loads_from_devices),
];

/// Memory that attacks may overwrite: 4 MiB, far above the guest's own.
pub const SCRATCH: usize = RAM + (16 << 20);
/// Bytes of it.
pub const SCRATCH_SIZE: usize = 4 << 20;

/// Boundaries of whatever is on the board, and of the address space.
pub fn edges() -> impl Iterator<Item = usize> {
    let devices = DEVICES.iter().flat_map(|(_, base, size)| [*base, base + size]);
    // The start of RAM is the guest itself.
    let spaces = [0, ram_end(), 1 << 32, 1 << 38, 1 << 55, 1 << 56, 1 << 63, usize::MAX - 0xfff, usize::MAX];
    devices.chain(spaces).chain([SCRATCH + 4096])
}

fn crossing_accesses(_: &mut Random) {
    for edge in edges() {
        for distance in 0..10usize {
            let address = edge.wrapping_sub(distance);
            for width in WIDTHS {
                // SAFETY: no edge is near the guest's own memory, and 0 means nothing to any device.
                let _ = unsafe { (probe::load(address, width), probe::store(address, width, 0)) };
            }
        }
    }
}

fn atomics_on_devices_and_nowhere(_: &mut Random) {
    for edge in edges() {
        for address in [edge, edge.wrapping_sub(8), edge.wrapping_add(4), edge.wrapping_add(1)] {
            for atomic in ATOMICS {
                // SAFETY: as above.
                let _ = unsafe { probe::atomic(address, atomic, 0) };
            }
        }
    }
}

fn jumps_to_devices_and_nowhere(_: &mut Random) {
    for mode in [Mode::User, Mode::Supervisor, Mode::Machine] {
        // Scratch memory is zero here, which is an illegal instruction.
        for edge in edges() {
            for distance in [0, 1, 2, 4] {
                // SAFETY: there is no code, so this traps.
                unsafe { probe::jump(mode, edge.wrapping_sub(distance)) };
            }
        }
    }
}

fn floating_point_loads_from_devices(_: &mut Random) {
    for edge in edges() {
        for address in [edge, edge.wrapping_sub(4), edge.wrapping_add(1)] {
            // SAFETY: a load from a device.
            let _ = unsafe { probe::load_float(address) };
        }
    }
}
