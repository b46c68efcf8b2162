//! Attacks the monitor through everything that a guest can reach. What the guest gets for an answer doesn't
//! matter, as long as it gets one: the guest passes when it comes to its end.
#![no_std]
#![no_main]

mod devices;
mod instructions;
mod memory;
mod queues;
mod tables;

use guest_runtime::csr;
use guest_runtime::random::Random;
use guest_runtime::{exit, println};

/// One way to attack.
type Attack = (&'static str, fn(&mut Random));

const ATTACKS: [&[Attack]; 5] =
    [memory::ATTACKS, instructions::ATTACKS, tables::ATTACKS, queues::ATTACKS, devices::ATTACKS];

#[unsafe(no_mangle)]
fn guest_main(hart: usize) -> ! {
    if hart != 0 {
        // The others get in the way of the attacks' DMA and page tables.
        scribble(hart);
    }
    let mut random = Random::new(0x5eed);
    for (name, attack) in ATTACKS.into_iter().flatten() {
        println!("{name}");
        attack(&mut random);
        restore();
    }
    println!("hostile survived");
    exit(0)
}

/// Back to a state in which the next attack can run.
fn restore() {
    csr::write!("satp", 0);
    csr::write!("mie", 0);
    csr::write!("medeleg", 0);
    csr::write!("mideleg", 0);
    csr::allow_all_memory();
}

/// Writes noise into the scratch memory for ever.
fn scribble(hart: usize) -> ! {
    let mut random = Random::new(hart as u64 * 0x1234_5679);
    loop {
        let offset = random.below(memory::SCRATCH_SIZE / 8) * 8;
        // SAFETY: scratch memory holds nothing that the guest needs.
        unsafe { ((memory::SCRATCH + offset) as *mut u64).write_volatile(random.next_u64()) };
        for _ in 0..100 {
            core::hint::spin_loop();
        }
    }
}
