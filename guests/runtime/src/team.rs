//! All harts at work together, with interrupts on: timers that go off all the time, interrupts between harts
//! that fence, barriers, and calls into S-mode.
//!
//! Not to be mixed with [`probe`](crate::probe), which catches every trap.

use core::arch::{asm, global_asm};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::board::{self, TICKS_PER_MILLISECOND};
use crate::csr::{self, INTERRUPT, MACHINE_SOFTWARE, MACHINE_TIMER};
use crate::probe::{Trap, exception};
use crate::random::Random;
use crate::{MAX_HARTS, UNEXPECTED_TRAP, exit, println};

/// How long a guest works in all, unless its build says otherwise.
const SECONDS: u64 = match option_env!("RVISOR_STRESS_SECONDS") {
    Some(text) => decimal(text),
    None => 6,
};

/// Ticks that a guest works in all.
pub const DURATION: u64 = SECONDS * 1000 * TICKS_PER_MILLISECOND;

const TIMER_PERIOD: u64 = TICKS_PER_MILLISECOND / 2;
const TRAP_STACK_SIZE: usize = 16 << 10;

const fn decimal(text: &str) -> u64 {
    let (mut value, mut index) = (0, 0);
    while index < text.len() {
        let digit = text.as_bytes()[index].wrapping_sub(b'0');
        assert!(digit < 10, "RVISOR_STRESS_SECONDS is a number");
        value = value * 10 + digit as u64;
        index += 1;
    }
    value
}

/// What a trap interrupted, and the stack to handle it on. `mscratch` holds its address.
#[repr(C, align(16))]
struct Interrupted {
    /// Top of the stack in place of `x0`, then `x1` to `x31`.
    registers: [u64; 32],
    stack: [u8; TRAP_STACK_SIZE],
}

static mut INTERRUPTED: [Interrupted; MAX_HARTS] =
    [const { Interrupted { registers: [0; 32], stack: [0; TRAP_STACK_SIZE] } }; MAX_HARTS];

global_asm!(
    ".section .text",
    ".balign 4",
    "team_vector:",
    "    csrrw t6, mscratch, t6",
    ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30",
    "    sd x\\n, 8*\\n(t6)",
    ".endr",
    "    csrr t5, mscratch",
    "    sd t5, 8*31(t6)",
    "    csrw mscratch, t6",
    "    ld sp, 0(t6)",
    "    mv s0, t6",
    "    mv a0, t6",
    "    call {handle}",
    "    mv t6, s0",
    ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "    ld x\\n, 8*\\n(t6)",
    ".endr",
    "    mret",
    handle = sym handle,
);

unsafe extern "C" {
    safe fn team_vector();
}

const PREVIOUS_MODE: u64 = 3 << 11;
const PREVIOUS_INTERRUPT_ENABLE: u64 = 1 << 7;
/// Where a call into S-mode comes back to: `t1`.
const RETURN_ADDRESS: usize = 6;

extern "C" fn handle(interrupted: &mut Interrupted) {
    let hart = csr::read!("mhartid") as usize;
    let trap = Trap::last();
    const TIMER: u64 = INTERRUPT | MACHINE_TIMER;
    const SOFTWARE: u64 = INTERRUPT | MACHINE_SOFTWARE;
    match trap.cause {
        TIMER => {
            let count = TIMERS[hart].fetch_add(1, SeqCst);
            board::set_deadline(hart, board::ticks() + TIMER_PERIOD + count % 61 * 20);
        }
        SOFTWARE => {
            set_software_interrupt(hart, 0);
            let asked = ASKED[hart].load(SeqCst);
            fence_all();
            ANSWERED[hart].store(asked, SeqCst);
        }
        exception::CALL_FROM_S => {
            csr::write!("mepc", interrupted.registers[RETURN_ADDRESS]);
            csr::write!("mstatus", csr::read!("mstatus") | PREVIOUS_MODE | PREVIOUS_INTERRUPT_ENABLE);
        }
        _ => {
            println!("unexpected trap on hart {hart}: {trap:x?}");
            exit(UNEXPECTED_TRAP)
        }
    }
}

static TIMERS: [AtomicU64; MAX_HARTS] = [const { AtomicU64::new(0) }; MAX_HARTS];
static ASKED: [AtomicU64; MAX_HARTS] = [const { AtomicU64::new(0) }; MAX_HARTS];
static ANSWERED: [AtomicU64; MAX_HARTS] = [const { AtomicU64::new(0) }; MAX_HARTS];
static ARRIVED: AtomicUsize = AtomicUsize::new(0);
static PHASE: AtomicUsize = AtomicUsize::new(0);
static DEADLINE: AtomicU64 = AtomicU64::new(0);
static GOES_ON: AtomicBool = AtomicBool::new(false);

/// `fence.i` and `sfence.vma`.
pub fn fence_all() {
    // SAFETY: fences.
    unsafe { asm!("fence rw, rw", "fence.i", "sfence.vma") };
}

fn set_software_interrupt(hart: usize, level: u32) {
    // SAFETY: the hart's MSIP register.
    unsafe { ((board::MSWI + 4 * hart) as *mut u32).write_volatile(level) };
}

/// One hart of the team.
#[derive(Clone, Copy)]
pub struct Member {
    /// Its number.
    pub hart: usize,
    /// How many harts the team has.
    pub harts: usize,
}

impl Member {
    /// Makes a hart part of the team: interrupts are on from here.
    pub fn join(hart: usize) -> Self {
        // A hart that isn't there has no deadline.
        let is_there = |&hart: &usize| {
            // SAFETY: reading MTIMECMP has no effect.
            unsafe { (board::MTIMECMP as *const u64).add(hart).read_volatile() != 0 }
        };
        let harts = (0..MAX_HARTS).take_while(is_there).count();
        let all = (&raw mut INTERRUPTED).cast::<Interrupted>();
        // SAFETY: each hart has its own, and nobody else uses it before interrupts are on.
        let interrupted = unsafe { &mut *all.add(hart) };
        interrupted.registers[0] = interrupted.stack.as_ptr_range().end as u64;
        csr::write!("mscratch", core::ptr::from_mut(interrupted) as u64);
        csr::write!("mtvec", team_vector as *const () as u64);
        csr::allow_all_memory();
        board::set_deadline(hart, board::ticks() + TIMER_PERIOD);
        csr::write!("mie", 1 << MACHINE_TIMER | 1 << MACHINE_SOFTWARE);
        // SAFETY: traps are handled from here, and give back every register.
        unsafe { asm!("csrsi mstatus, 8") };
        Self { hart, harts }
    }

    /// Whether this hart speaks for all.
    pub fn is_first(self) -> bool {
        self.hart == 0
    }

    /// Numbers of this hart's own.
    pub fn random(self) -> Random {
        Random::new((self.hart as u64 + 1) * 0x9e37_79b9_7f4a_7c15)
    }

    /// Waits for all.
    pub fn barrier(self) {
        let phase = PHASE.load(SeqCst);
        if ARRIVED.fetch_add(1, SeqCst) + 1 == self.harts {
            ARRIVED.store(0, SeqCst);
            PHASE.store(phase + 1, SeqCst);
            return;
        }
        wait_until(|| PHASE.load(SeqCst) != phase);
    }

    /// Gives all `ticks` from now, for [`goes_on`](Self::goes_on).
    pub fn start(self, ticks: u64) {
        self.barrier();
        if self.is_first() {
            DEADLINE.store(board::ticks() + ticks, SeqCst);
        }
        self.barrier();
    }

    /// Whether there is time left; all harts get the same answer, and wait for each other.
    pub fn goes_on(self) -> bool {
        self.barrier();
        if self.is_first() {
            GOES_ON.store(board::ticks() < DEADLINE.load(SeqCst), SeqCst);
        }
        self.barrier();
        GOES_ON.load(SeqCst)
    }

    /// Has all other harts fence, by an interrupt.
    pub fn fence_others(self) {
        for other in (0..self.harts).filter(|&other| other != self.hart) {
            ASKED[other].fetch_add(1, SeqCst);
            set_software_interrupt(other, 1);
        }
        for other in (0..self.harts).filter(|&other| other != self.hart) {
            let asked = ASKED[other].load(SeqCst);
            wait_until(|| ANSWERED[other].load(SeqCst) >= asked);
        }
    }

    /// Timer interrupts that this hart took.
    pub fn timers(self) -> u64 {
        TIMERS[self.hart].load(SeqCst)
    }
}

/// Waits, and sleeps from one timer interrupt to the next where it takes long: there may be more harts than
/// the host has processors.
pub fn wait_until(is_so: impl Fn() -> bool) {
    for turn in 0.. {
        if is_so() {
            return;
        }
        if turn < 20_000 { spin_loop() } else { csr::wait_for_interrupt() }
    }
}

/// Calls code in S-mode that ends with `ecall` and changes `a0` and `a1` alone. The result is its `a0`.
///
/// # Safety
/// The code is as said.
pub unsafe fn call_supervisor(address: u64, argument: u64) -> u64 {
    let result;
    // SAFETY: the caller's; the trap handler comes back to label 2 in M-mode, interrupts on.
    unsafe {
        asm!(
            "csrci mstatus, 8",
            "li {scratch}, 3 << 11",
            "csrc mstatus, {scratch}",
            "li {scratch}, 1 << 11 | 1 << 7",
            "csrs mstatus, {scratch}",
            "csrw mepc, {address}",
            "la t1, 2f",
            "mret",
            ".balign 4",
            "2:",
            scratch = out(reg) _,
            address = in(reg) address,
            inout("a0") argument => result,
            out("a1") _,
            out("t1") _,
        );
    }
    result
}
