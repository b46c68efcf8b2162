//! Every CSR, and random instructions below M-mode.

use core::arch::asm;

use guest_runtime::board::{TICKS_PER_MILLISECOND, UART, set_deadline, ticks};
use guest_runtime::csr::{self, MACHINE_TIMER};
use guest_runtime::probe::{self, Mode, Registers};
use guest_runtime::random::Random;

use crate::Attack;
use crate::memory::SCRATCH;

pub const ATTACKS: &[Attack] = &[
    ("every CSR read and written", every_csr_read_and_written),
    ("random instructions", random_instructions),
    ("code that overwrites itself", code_that_overwrites_itself),
];

/// Random instructions see this much memory and nothing else.
const CAGE: usize = 1 << 16;
const WORDS: usize = 16;
const ECALL: u32 = 0x0000_0073;
/// Opcode of CSR accesses, `ecall` and the like.
const SYSTEM: u32 = 0x73;

fn put_code(offset: usize, instruction: u32) {
    // SAFETY: scratch memory.
    unsafe { ((SCRATCH + offset) as *mut u32).write_volatile(instruction) };
}

/// Enters the code at the start of scratch memory, for a millisecond at most.
fn run(mode: Mode, integer: [u64; 31]) {
    csr::write!("mie", 1 << MACHINE_TIMER);
    set_deadline(0, ticks() + TICKS_PER_MILLISECOND);
    // SAFETY: the code is caged (below M-mode) or known (in M-mode), and the timer ends it.
    unsafe {
        asm!("fence.i");
        probe::enter(mode, &Registers { program_counter: SCRATCH as u64, integer });
    }
    csr::write!("mie", 0);
}

/// Whether M-mode itself needs this CSR to come back: `mstatus`, `mie`, `mtvec`, `mscratch`, and physical
/// memory protection, whose locked entries would bind M-mode too; debug triggers.
fn is_vital(number: u32) -> bool {
    matches!(number, 0x300 | 0x304 | 0x305 | 0x340 | 0x3a0..=0x3ef | 0x747 | 0x7a0..=0x7bf)
}

fn every_csr_read_and_written(random: &mut Random) {
    // csrrw, csrrs, csrrc, csrrwi, csrrsi, csrrci and the encodings that don't exist.
    for number in 0..4096u32 {
        for function in 0..8 {
            for mode in [Mode::User, Mode::Supervisor, Mode::Machine] {
                if mode == Mode::Machine && is_vital(number) {
                    continue;
                }
                let (target, source) = (10, 11);
                put_code(0, number << 20 | source << 15 | function << 12 | target << 7 | SYSTEM);
                put_code(4, ECALL);
                let mut integer = [0; 31];
                let noise = random.next_u64();
                integer[source as usize - 1] = random.choose(&[0, u64::MAX, noise]);
                // Function 0 holds wfi, mret and the like, which the attack below M-mode covers.
                if function != 0 || mode != Mode::Machine {
                    run(mode, integer);
                    crate::restore();
                }
            }
        }
    }
}

fn random_instructions(random: &mut Random) {
    const INTERESTING: [u64; 8] =
        [0, 1, u64::MAX, 1 << 63, SCRATCH as u64, (SCRATCH + CAGE - 4) as u64, UART as u64, 1 << 39];
    csr::allow_only(SCRATCH, CAGE);
    for _ in 0..20_000 {
        for word in 0..WORDS {
            let noise = random.next_u64() as u32;
            // Half of them of 32 bits, the others compressed or of lengths that don't exist.
            put_code(4 * word, if random.below(2) == 0 { noise | 3 } else { noise });
        }
        put_code(4 * WORDS, ECALL);
        let integer = core::array::from_fn(|_| random.choose(&INTERESTING));
        run(random.choose(&[Mode::User, Mode::Supervisor]), integer);
        csr::write!("satp", 0);
    }
}

/// Code that stores to the instructions right before it, in its own block and page, without a fence.
fn code_that_overwrites_itself(random: &mut Random) {
    const ADD: u32 = 0x0000_0513;
    csr::allow_only(SCRATCH, CAGE);
    for _ in 0..2_000 {
        // sw a1, offset(a0), at random places over the block; the last word jumps back to the start.
        for word in 0..WORDS {
            let offset = 4 * random.below(WORDS) as u32;
            let store = offset >> 5 << 25 | 11 << 20 | 10 << 15 | 2 << 12 | (offset & 31) << 7 | 0x23;
            put_code(4 * word, if random.below(2) == 0 { store } else { ADD | 10 << 15 });
        }
        put_code(4 * WORDS, 0xfc1f_f06f);
        let mut integer = [0; 31];
        integer[9] = SCRATCH as u64;
        integer[10] = u64::from(random.choose(&[ECALL, ADD | 10 << 15, 0, 0xffff_ffff, 0xa001_a001]));
        run(Mode::User, integer);
    }
}
