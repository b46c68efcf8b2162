//! Attacks the monitor below and the guests beside: memory, CSRs, the SBI, page tables, devices, the disk, the network, the scheduler.
//! What it gets for an answer doesn't matter, unless it is more than it may have: then it says so. It begins again, with other numbers, until as many seconds have gone by as `seconds=` on its
//! command line says; in the end it makes itself unable to go on.
#![no_std]
#![no_main]

mod disk;
mod hypervisor;

use core::arch::asm;

use kernel::csr::{self, TICKS_PER_MILLISECOND, time};
use kernel::mmio;
use kernel::net::{Card, MOST};
use kernel::paging::{EXECUTE, READ, Table, USED, VALID, WRITE, entry, fence};
use kernel::trap::attempt;
use kernel::{MAX_HARTS, argument, entry as hart_entry, println, sbi};

/// Sv39 in `satp`, and the modes from there on that have one level more each.
const SV39: usize = 8;
const ROOT_LEVELS: usize = 3;
/// A root for each, which leads to the one before it.
static mut ROOTS: [Table; ROOT_LEVELS] = [const { Table::new() }; ROOT_LEVELS];
static mut NOISE: Table = Table::new();
static mut CODE: [u32; 4] = [0; 4];

const RET: u32 = 0x0000_8067;
/// `ld a0, 0(a1)`, `sd a0, 0(a1)`, `jr a1`.
const LOAD: u32 = 0x0005_b503;
const STORE: u32 = 0x00a5_b023;
const JUMP: u32 = 0x0005_8067;

/// Pseudo-random numbers (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
    }
}

/// One way to attack.
type Attack = (&'static str, fn(&mut Random));

#[unsafe(no_mangle)]
fn kernel_main(hart: usize, device_tree: usize) -> ! {
    if hart != 0 && device_tree == 0 {
        harass(hart);
    }
    let mut random = Random(0x5eed);
    for other in 1..MAX_HARTS {
        sbi::start_hart(other, hart_entry());
    }
    let attacks: [Attack; 9] = [
        ("addresses that aren't its own", addresses),
        ("page tables that lead elsewhere", page_tables),
        ("every CSR", csrs),
        ("a hypervisor's instructions", hypervisor::attack),
        ("every SBI call", sbi_calls),
        ("devices", devices),
        ("the disk", disk::attack),
        ("the network", network),
        ("the scheduler", scheduler),
    ];
    let seconds = argument(device_tree, "seconds").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let end = time() + 1000 * seconds * TICKS_PER_MILLISECOND;
    let mut rounds = 0;
    while rounds == 0 || time() < end {
        for (name, attack) in attacks {
            if rounds == 0 {
                println!("intruder: {name}");
            }
            attack(&mut random);
        }
        rounds += 1;
    }
    println!("intruder: {rounds} rounds");
    println!("intruder: did its worst");
    // No handler, and no way to get one.
    csr::write!("stvec", 0xdead_0000);
    // SAFETY: ends this guest.
    unsafe { asm!("unimp", options(noreturn)) };
}

/// Executes an instruction with `a0` and `a1`, whatever comes of it.
fn run(instruction: u32, a0: usize, a1: usize) {
    let _ = outcome(instruction, a0, a1);
}

/// The same: what `a0` is then, or the cause of the trap.
fn outcome(instruction: u32, a0: usize, a1: usize) -> Result<usize, usize> {
    let code = &raw mut CODE;
    // SAFETY: the code is this kernel's, ends in a return, and what it does is the point.
    unsafe {
        (*code)[0] = instruction;
        (*code)[1] = RET;
        asm!("fence.i");
        attempt(code as usize, a0, a1)
    }
}

/// Addresses of everything there may be: the monitor's image and its map of memory, other guests, firmware, devices, and the
/// window in each slot.
fn targets() -> impl Iterator<Item = usize> {
    let slots =
        (256..512).step_by(15).map(|slot: usize| (slot << 55).cast_signed().wrapping_shr(25) as usize);
    let places =
        [0, 0x1000, 0x4000_0000, 64 << 30, 0x40_0000_0000, 0x8000_0000 - 8, 1 << 38, 1 << 56, usize::MAX - 7];
    let memory = (0..16).map(|step| 0x8400_0000 + (step << 25));
    slots.flat_map(|slot| [slot, slot + 0x1000, slot + 0x2000]).chain(places).chain(memory)
}

fn addresses(_: &mut Random) {
    for target in targets() {
        run(LOAD, 0, target);
        run(STORE, usize::MAX, target);
        run(JUMP, 0, target);
    }
}

/// Turns translation on with what identity the kernel needs, and one entry in the root that is the attack's, which gets the address
/// that this entry is for. Modes that aren't there leave translation off.
fn with_entry(index: usize, pte: usize, modes: &[usize], act: impl Fn(usize)) {
    let roots = &raw mut ROOTS;
    // SAFETY: the kernel stays mapped where it is.
    unsafe {
        (*roots)[0].0[0] = entry(0, READ | WRITE | USED);
        (*roots)[0].0[2] = entry(2 << 30, READ | WRITE | EXECUTE | USED);
        for level in 1..ROOT_LEVELS {
            (*roots)[level].0[0] = entry(&raw const (*roots)[level - 1] as usize, 0);
        }
    }
    for mode in modes {
        let level = mode - SV39;
        // SAFETY: as above.
        let root = unsafe { &raw mut (*roots)[level] };
        let shift = 30 + 9 * level;
        // SAFETY: as above.
        unsafe { (*root).0[index] = pte };
        csr::write!("satp", mode << 60 | root as usize >> 12);
        fence(None);
        act(usize::MAX << (shift + 9) | index << shift);
        csr::write!("satp", 0);
        // SAFETY: as above.
        unsafe { (*root).0[index] = 0 };
    }
}

fn page_tables(random: &mut Random) {
    const ALL: usize = READ | WRITE | EXECUTE | USED;
    // Pages on every machine address that may be somebody's, as gigapages and through tables there.
    for target in targets() {
        for pte in [
            entry(target & !0x3fff_ffff, ALL),
            entry(target, VALID),
            entry(target, ALL),
            entry(target, WRITE),
        ] {
            with_entry(300, pte, &[SV39], |start| {
                for offset in [0, 0x1000, 0x20_0000, 0x3fff_fff8] {
                    let address = start + offset;
                    run(LOAD, 0, address);
                    run(STORE, 0x1313, address);
                }
            });
        }
    }
    // Tables of noise, which may lead to themselves.
    let noise = &raw mut NOISE;
    for _ in 0..40 {
        for index in 0..512 {
            let mut pte = random.next();
            if index % 3 == 0 {
                pte = entry(noise as usize, pte & 0x3ff);
            }
            // SAFETY: nothing but this attack reads the table.
            unsafe { (*noise).0[index] = pte };
        }
        let address = random.next() & 0x3fff_ffff;
        let index = 257 + random.next() % 255;
        with_entry(index, entry(noise as usize, 0), &[SV39, SV39 + 1, SV39 + 2], |start| {
            run(LOAD, 0, start | address);
            // Elsewhere in the upper half, where entries are the kernel's empty ones.
            (257..512usize)
                .step_by(16)
                .for_each(|slot| run(LOAD, 0, usize::MAX << 39 | slot << 30 | address));
        });
    }
}

fn csrs(random: &mut Random) {
    const READ_AND_SET: u32 = 2 << 12 | 10 << 7 | 0x73;
    const WRITE_ANY: u32 = 10 << 15 | 1 << 12 | 10 << 7 | 0x73;
    for number in 0..4096u32 {
        run(number << 20 | READ_AND_SET, 0, 0);
        // Not those without which this kernel is gone: sstatus, sie, stvec, sscratch, satp.
        if ![0x100, 0x104, 0x105, 0x140, 0x180].contains(&number) {
            for value in [0, usize::MAX, random.next()] {
                run(number << 20 | WRITE_ANY, value, 0);
            }
        }
        csr::write!("sie", 0);
        csr::write!("sscratch", 0);
    }
    sbi::set_timer(u64::MAX);
}

fn sbi_calls(random: &mut Random) {
    const EXTENSIONS: [usize; 12] =
        [1, 3, 4, 5, 6, 7, 0x10, 0x5449_4d45, 0x73_5049, 0x5246_4e43, 0x4442_434e, 0x53_5441];
    for _ in 0..1500 {
        let extension = EXTENSIONS[random.next() % EXTENSIONS.len()];
        let mut argument = || match random.next() % 6 {
            0 => 0,
            1 => usize::MAX,
            2 => random.next() & 0xff,
            3 => 0x8000_0000 + (random.next() & 0xfff_ffff),
            4 => 1 << (random.next() & 63),
            _ => random.next(),
        };
        let arguments = [argument(), argument(), argument()];
        // What is printed would only be in the way, and what is read could be this kernel's.
        if !(extension == 1 || extension == 0x4442_434e && arguments[1] & !0xfff_ffff == 0x8000_0000) {
            sbi::call(extension, random.next() % 8, fit(extension, arguments));
        }
    }
    sbi::set_timer(u64::MAX);
}

/// Shared memory of the steal-time extension stays away from this kernel.
fn fit(extension: usize, mut arguments: [usize; 3]) -> [usize; 3] {
    if extension == 0x53_5441 && arguments[0] & !0xff_ffff == 0x8000_0000 {
        arguments[0] |= 0x80_0000;
    }
    arguments
}

fn devices(random: &mut Random) {
    const DEVICES: [(usize, usize); 5] = [
        (0x10_1000, 0x40),
        (0x2f0_0000, 0x100),
        (0xc00_0000, 0x40_0000),
        (0x1000_0000, 8),
        (0x1000_1000, 0x8000),
    ];
    for _ in 0..4000 {
        let (base, size) = DEVICES[random.next() % DEVICES.len()];
        let address = (base + random.next() % size) & !3;
        // Queues where this kernel isn't: all of the address but its low bits is noise.
        mmio::write(address, random.next() as u32 | 0x4000_0000);
        mmio::read(address);
    }
}

/// Frames to everybody and to nobody, under its own address and under others', of right and wrong lengths. Leaves the card with
/// queues that are noise.
fn network(random: &mut Random) {
    let Some(mut card) = Card::find() else { return };
    let own = card.address();
    let mut frame = [0; MOST];
    for _ in 0..2000 {
        for part in frame[..64].chunks_exact_mut(8) {
            part.copy_from_slice(&random.next().to_le_bytes());
        }
        if random.next().is_multiple_of(2) {
            frame[..6].fill(0xff);
        }
        if !random.next().is_multiple_of(3) {
            frame[6..12].copy_from_slice(&own);
        }
        // ARP that claims others' addresses, among the rest.
        frame[12..14].copy_from_slice(&[8, 6 * (random.next() as u8 & 1)]);
        // A card that has had enough is begun with again.
        if !card.send(&frame[..random.next() % (MOST + 1)]) {
            break;
        }
    }
    devices(random);
}

/// Timers that are always due, and yields that aren't.
fn scheduler(random: &mut Random) {
    let end = time() + 2_000_000;
    csr::write!("sie", 0x222);
    while time() < end {
        sbi::set_timer(time() + random.next() as u64 % 100);
        sbi::send_ipi(random.next() % MAX_HARTS);
        // SAFETY: sleeps, perhaps.
        unsafe { asm!("wfi") };
        csr::write!("sip", 0);
    }
    csr::write!("sie", 0);
    sbi::set_timer(u64::MAX);
}

/// The other harts fence each other for ever.
fn harass(hart: usize) -> ! {
    let mut random = Random(hart as u64 * 0x1234_5679);
    loop {
        sbi::remote_fence(0xf, random.next(), random.next() & 0xffff);
        fence(None);
    }
}
