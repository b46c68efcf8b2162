#![no_main]
//! What debuggers and stories read of a guest's page tables, whatever is in them and in `satp`.

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rvisor_hart::walk_tables;
use rvisor_hosted::HostMemory;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual};

const RAM: GuestPhysical = GuestPhysical(0x8000_0000);
const PAGES: u64 = 8;

static MEMORY: LazyLock<HostMemory> =
    LazyLock::new(|| HostMemory::new(RAM, PAGES << 12).expect("the host has memory"));

fuzz_target!(|input: (u8, u64, Vec<(u16, u8, u64)>)| {
    let (mode, address, entries) = input;
    for (place, target, bits) in entries {
        // Entries mostly lead to the other tables.
        let pte = (RAM.0 >> 12 | u64::from(target) % PAGES) << 10 | bits & 0xff00_0000_0000_03ff;
        let place = RAM.offset(u64::from(place) % (PAGES << 9) * 8);
        MEMORY.store::<u64>(place, pte).expect("RAM");
    }
    let root = u64::from(mode) << 60 | RAM.0 >> 12;
    let walk = walk_tables(&*MEMORY, root, GuestVirtual(address));
    assert!(walk.steps.len() <= 5);
    if let Some((physical, size)) = walk.physical {
        assert!(size.is_power_of_two() && (physical.0 ^ address) & (size - 1) == 0);
    }
});
