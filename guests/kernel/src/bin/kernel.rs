//! A small operating system: paging, programs in U-mode, system calls, timers, several harts, a disk. It measures what its
//! own system calls, page faults, context switches and interrupts cost, and powers off.
//!
//! Words on its command line: `kernel=spin` works until ten seconds after the hardware's start and does nothing else;
//! `kernel=stolen` works for four seconds and says how much of them others had; `kernel=idle` sleeps ten seconds, `kernel=sleep` for ever; `kernel=calls` has programs make calls and touch pages for ever, and
//! `kernel=tick` says ten times a second that it is there; `kernel=work` checks its disk again and again meanwhile, and says
//! when something is wrong; with `kernel=apart` no hart executes what another is just changing. With `net=10.0.2.9` and
//! `ping=10.0.2.7,10.0.2.8` it is a host with that address, which pings those and answers their pings, until `end` is typed.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use kernel::csr::{self, SOFTWARE, TICKS_PER_MILLISECOND, TIMER, time};
use kernel::disk::Disk;
use kernel::net::Card;
use kernel::paging::{EXECUTE, READ, Space, WRITE, fence};
use kernel::trap::{CALL, Frame, LOAD_PAGE_FAULT, STORE_PAGE_FAULT, TIMER_INTERRUPT, enter};
use kernel::{MAX_HARTS, argument, entry, has_word, neighbour, println, sbi};

global_asm!(
    ".section .user, \"ax\"",
    ".balign 4096",
    ".global user_code",
    "user_code:",
    // Calls: `a0` times.
    "1:  li a7, 0",
    "    ecall",
    "    addi a0, a0, -1",
    "    bnez a0, 1b",
    "    li a7, 1",
    "    ecall",
    // Touches `a0` pages from `a1` on.
    ".balign 64",
    "2:  sd a0, 0(a1)",
    "    li t0, 4096",
    "    add a1, a1, t0",
    "    addi a0, a0, -1",
    "    bnez a0, 2b",
    "    li a7, 1",
    "    ecall",
    // Works for ever.
    ".balign 64",
    "3:  j 3b",
);

// What one hart executes and another rewrites: its first instruction, on a page of its own.
global_asm!(
    ".text",
    ".balign 4096",
    ".global changing",
    "changing:",
    "    .word {at_first}",
    "    ret",
    ".balign 4096",
    at_first = const READ_SEPC,
);

/// `csrr a0, sepc`.
const READ_SEPC: u32 = 0x1410_2573;
/// How often it is rewritten.
const CHANGES: usize = 24;
/// Twice the rounds of that which are over, and one more while the other hart is to write.
static TURN: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static mut changing: u32;
}

const CALLS: usize = 0;
const TOUCH: usize = 64;
const SPIN: usize = 128;
/// System call of a program that has ended.
const EXIT: usize = 1;
const ROUNDS: usize = 400;
const PAGES: usize = 200;
/// When `spin`, `idle` and `work` end.
const END: u64 = 10_000 * TICKS_PER_MILLISECOND;

static mut SPACES: [Space; 2] = [Space::new(1), Space::new(2)];
static mut MEMORY: [[u8; 4096]; PAGES] = [[0; 4096]; PAGES];
/// Rounds of each hart's answers to interrupts.
static ANSWERS: [AtomicUsize; MAX_HARTS] = [const { AtomicUsize::new(0) }; MAX_HARTS];

#[unsafe(no_mangle)]
fn kernel_main(hart: usize, device_tree: usize) -> ! {
    if hart != 0 && device_tree == 0 {
        answer(hart);
    }
    if has_word(device_tree, "kernel=spin") {
        while time() < END {}
        sbi::power_off(false);
    }
    if has_word(device_tree, "kernel=stolen") {
        stolen();
    }
    if has_word(device_tree, "kernel=idle") {
        sleep_until(END);
        sbi::power_off(false);
    }
    if has_word(device_tree, "kernel=sleep") {
        sleep_until(u64::MAX);
    }
    let disk = Disk::find();
    if has_word(device_tree, "kernel=work") {
        work(disk);
    }
    if has_word(device_tree, "kernel=tick") {
        tick();
    }
    let spaces = spaces();
    paging(&mut spaces[0]);
    if has_word(device_tree, "kernel=calls") {
        call_and_touch(&mut spaces[0]);
    }
    costs(spaces);
    let harts = (1..MAX_HARTS).filter(|other| sbi::start_hart(*other, entry())).count();
    if harts != 0 {
        execute_changes(has_word(device_tree, "kernel=apart"));
        println!("kernel: a change of code is seen");
    }
    (1..=harts).for_each(ask);
    println!("kernel: {} harts answer", harts + 1);
    match disk {
        Some(mut disk) => {
            if !disk.check(0) {
                fail("the disk isn't sound");
            }
            println!("kernel: disk of {} sectors is sound", disk.capacity());
            let Some(checksum) = disk.fill() else { fail("the disk has something else than was written") };
            println!("kernel: disk has {checksum:016x}");
        }
        None => println!("kernel: no disk"),
    }
    if let Some(own) = argument(device_tree, "net") {
        let Some(card) = Card::find() else { fail("there is no network card") };
        neighbour::run(card, own, argument(device_tree, "ping").unwrap_or(""));
    }
    println!("kernel passed");
    sbi::power_off(false)
}

/// What the SBI tells of a hart's stolen time (SBI 2.0, "Steal-time Accounting Extension").
#[repr(C, align(64))]
struct Stolen {
    /// Odd while the rest is changing.
    sequence: AtomicU32,
    flags: AtomicU32,
    nanoseconds: AtomicU64,
    rest: [AtomicU64; 6],
}

static STOLEN: Stolen = Stolen {
    sequence: AtomicU32::new(0),
    flags: AtomicU32::new(0),
    nanoseconds: AtomicU64::new(0),
    rest: [const { AtomicU64::new(0) }; 6],
};

/// Wants to run for four seconds.
fn stolen() -> ! {
    const MILLISECONDS: u64 = 4000;
    if !sbi::tell_stolen_time((&raw const STOLEN).addr()) {
        fail("the SBI tells no stolen time");
    }
    let end = time() + MILLISECONDS * TICKS_PER_MILLISECOND;
    while time() < end {}
    let nanoseconds = loop {
        let before = STOLEN.sequence.load(Ordering::SeqCst);
        let nanoseconds = STOLEN.nanoseconds.load(Ordering::SeqCst);
        if before.is_multiple_of(2) && STOLEN.sequence.load(Ordering::SeqCst) == before {
            break nanoseconds;
        }
    };
    println!("kernel: others had {} ms of {MILLISECONDS}", nanoseconds / 1_000_000);
    sbi::power_off(false)
}

/// What the code is after so many changes, and what it answers where `sepc` and `scause` are so.
fn changed(round: usize, sepc: usize, scause: usize) -> (u32, usize) {
    // By turns. They differ in one half: who fetches meanwhile has one of them.
    if round.is_multiple_of(2) { (READ_SEPC, sepc) } else { (READ_SEPC ^ 0x30_0000, scause) }
}

/// Executes the code while hart 1 changes it, or before and after if they are to be `apart`: once that hart says that it has, and
/// behind a fence, it is what it says.
fn execute_changes(apart: bool) {
    let call = |value: usize| {
        let answer: usize;
        // SAFETY: the function changes no other register, and nothing traps.
        unsafe {
            asm!("csrw sepc, {sepc}", "csrw scause, {scause}", "la a0, changing", "jalr a0",
                sepc = in(reg) value, scause = in(reg) value + 1, out("a0") answer, out("ra") _);
        }
        answer
    };
    for round in 1..=CHANGES {
        for value in (0..200).step_by(2) {
            if call(value) != changed(round - 1, value, value + 1).1 {
                fail("code changed by itself");
            }
        }
        TURN.store(2 * round - 1, Ordering::SeqCst);
        while TURN.load(Ordering::SeqCst) != 2 * round {
            if apart {
                core::hint::spin_loop();
            } else {
                call(0);
            }
        }
        // SAFETY: fetches what was written.
        unsafe { asm!("fence.i") };
        if call(1000) != changed(round, 1000, 1001).1 {
            fail("a change of code wasn't seen");
        }
    }
}

/// Hart 1's part of that.
fn make_changes() {
    for round in 1..=CHANGES {
        while TURN.load(Ordering::SeqCst) != 2 * round - 1 {
            core::hint::spin_loop();
        }
        // SAFETY: the other hart knows that its code changes.
        unsafe { (&raw mut changing).write_volatile(changed(round, 0, 1).0) };
        TURN.store(2 * round, Ordering::SeqCst);
    }
}

fn fail(what: &str) -> ! {
    println!("kernel: FAILED: {what}");
    sbi::power_off(true)
}

fn spaces() -> &'static mut [Space; 2] {
    unsafe extern "C" {
        static user_code: u8;
    }
    // SAFETY: called once, by the boot hart.
    let spaces = unsafe {
        #[expect(static_mut_refs)]
        &mut SPACES
    };
    for space in &mut *spaces {
        space.prepare();
        space.map(0, &raw const user_code as usize, READ | EXECUTE);
    }
    spaces
}

/// A program that begins at this offset of its code.
fn program(offset: usize, a0: usize, a1: usize) -> Frame {
    let mut frame = Frame { pc: Space::PROGRAM + offset, ..Frame::default() };
    (frame.x[10], frame.x[11]) = (a0, a1);
    frame
}

fn memory(page: usize) -> usize {
    &raw const MEMORY as usize + 4096 * page
}

/// What the tables say holds: pages are where they were mapped, with their rights, and a fence makes changes seen.
fn paging(space: &mut Space) {
    space.switch();
    fence(None);
    space.map(1, memory(0), READ);
    space.map(2, memory(1), READ | WRITE);
    fence(None);
    let mut frame = program(TOUCH, 1, Space::PROGRAM + 4096);
    if enter(&mut frame).cause != STORE_PAGE_FAULT {
        fail("a page that may only be read was written to");
    }
    let mut frame = program(TOUCH, 1, Space::PROGRAM + 2 * 4096);
    if enter(&mut frame).cause != CALL {
        fail("a page that may be written to wasn't");
    }
    space.map(2, memory(0), READ);
    fence(Some(Space::PROGRAM + 2 * 4096));
    let mut frame = program(TOUCH, 1, Space::PROGRAM + 2 * 4096);
    if enter(&mut frame).cause != STORE_PAGE_FAULT {
        fail("a fence wasn't carried out");
    }
    // The kernel's own memory isn't the program's.
    let mut frame = program(TOUCH, 1, memory(0));
    if enter(&mut frame).cause != STORE_PAGE_FAULT {
        fail("a program reached the kernel");
    }
    space.unmap(1);
    println!("kernel: paging is sound");
}

/// Nanoseconds for each of `count` since `start`.
fn cost(start: u64, count: usize) -> u64 {
    (time() - start) * 100 / count as u64
}

fn costs(spaces: &mut [Space; 2]) {
    println!("kernel: system call {} ns", system_calls());
    println!("kernel: page fault {} ns", page_faults(&mut spaces[0]));
    println!("kernel: context switch {} ns", context_switches(spaces));
    println!("kernel: timer interrupt {} ns", interrupts());
}

fn system_calls() -> u64 {
    let mut frame = program(CALLS, ROUNDS, 0);
    let start = time();
    while enter(&mut frame).cause == CALL && frame.x[17] != EXIT {
        frame.pc += 4;
    }
    cost(start, ROUNDS)
}

/// Each first touch of a page: the program faults, the kernel maps, the program goes on.
fn page_faults(space: &mut Space) -> u64 {
    let mut frame = program(TOUCH, PAGES, Space::PROGRAM + 4096);
    let (start, mut mapped) = (time(), 0);
    loop {
        let trap = enter(&mut frame);
        match trap.cause {
            STORE_PAGE_FAULT | LOAD_PAGE_FAULT => {
                space.map((trap.value - Space::PROGRAM) / 4096, memory(mapped), READ | WRITE);
                fence(Some(trap.value));
                mapped += 1;
            }
            _ if mapped == PAGES => return cost(start, PAGES),
            _ => fail("page faults didn't come one for each page"),
        }
    }
}

/// Programs for ever.
fn call_and_touch(space: &mut Space) -> ! {
    println!("kernel: calls and touches");
    loop {
        system_calls();
        page_faults(space);
        space.unmap(1);
    }
}

/// Two programs in two address spaces that call in turn.
fn context_switches(spaces: &[Space; 2]) -> u64 {
    let mut frames = [program(CALLS, ROUNDS, 0); 2];
    let start = time();
    for round in 0..ROUNDS {
        let turn = round % 2;
        spaces[turn].switch();
        if enter(&mut frames[turn]).cause != CALL {
            fail("a program in its own space did something else than call");
        }
        frames[turn].pc += 4;
    }
    cost(start, ROUNDS)
}

/// A timer that ends a program's time: from its deadline to the kernel.
fn interrupts() -> u64 {
    const COUNT: usize = 20;
    let mut late = 0;
    csr::write!("sie", TIMER);
    for _ in 0..COUNT {
        let deadline = time() + TICKS_PER_MILLISECOND / 10;
        sbi::set_timer(deadline);
        let mut frame = program(SPIN, 0, 0);
        if enter(&mut frame).cause != TIMER_INTERRUPT {
            fail("a timer interrupt didn't come");
        }
        late += time() - deadline;
    }
    csr::write!("sie", 0);
    sbi::set_timer(u64::MAX);
    late * 100 / COUNT as u64
}

/// Sends a hart interrupts, and fences that it has to carry out.
fn ask(hart: usize) {
    const COUNT: usize = 20;
    for round in 1..=COUNT {
        sbi::send_ipi(hart);
        let patience = time() + 60_000 * TICKS_PER_MILLISECOND;
        while ANSWERS[hart].load(Ordering::SeqCst) < round {
            if time() > patience {
                fail("a hart doesn't answer");
            }
        }
        if !sbi::remote_fence(1 << hart, Space::PROGRAM, 4096 * round) {
            fail("a remote fence was refused");
        }
    }
}

/// What all harts but the first do.
fn answer(hart: usize) -> ! {
    if hart == 1 {
        make_changes();
    }
    loop {
        csr::wait_for(SOFTWARE);
        csr::write!("sip", 0);
        ANSWERS[hart].fetch_add(1, Ordering::SeqCst);
    }
}

fn sleep_until(deadline: u64) {
    sbi::set_timer(deadline);
    csr::wait_for(TIMER);
    sbi::set_timer(u64::MAX);
}

/// Says something again and again.
fn tick() -> ! {
    let mut count = 0;
    loop {
        count += 1;
        println!("kernel: tick {count}");
        sleep_until(time() + 100 * TICKS_PER_MILLISECOND);
    }
}

/// Checks the disk until the end.
fn work(disk: Option<Disk>) -> ! {
    let Some(mut disk) = disk else { fail("there is no disk to work on") };
    let mut round = 0;
    while time() < END {
        if !disk.check(round) {
            fail("the disk isn't sound");
        }
        round += 1;
    }
    println!("kernel: worked {round} rounds without an error");
    sbi::power_off(false)
}
