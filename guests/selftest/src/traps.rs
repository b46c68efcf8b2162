//! Exceptions: causes, `mtval`, and where they are taken.

use core::arch::global_asm;

use guest_runtime::board::{self, ram_end};
use guest_runtime::csr;
use guest_runtime::probe::{self, Mode, Registers, Trap, Width, exception};

use crate::Check;

pub const CHECKS: &[Check] = &[
    ("ecall traps with the cause of its mode", ecall_traps_with_the_cause_of_its_mode),
    ("ebreak is a breakpoint", ebreak_is_a_breakpoint),
    ("illegal instruction gives its bits", illegal_instruction_gives_its_bits),
    ("machine CSR in user mode is illegal", machine_csr_in_user_mode_is_illegal),
    ("load and store outside RAM fault", load_and_store_outside_ram_fault),
    ("jump outside RAM faults", jump_outside_ram_faults),
    ("unprotected memory is denied to user mode", unprotected_memory_is_denied_to_user_mode),
    ("misaligned access works in RAM", misaligned_access_works_in_ram),
    ("misaligned access across the end faults", misaligned_access_across_the_end_faults),
    ("page fault gives its address", page_fault_gives_its_address),
    ("floating point works", floating_point_works),
];

global_asm!(
    ".balign 4",
    "code_ecall: ecall",
    ".balign 4",
    "code_ebreak: .word 0x00100073",
    ".balign 4",
    "code_illegal: .word 0xffffffff",
    ".balign 4",
    "code_csr: csrr a0, mscratch",
    ".balign 4",
    "code_load: ld a0, 0(a1)",
    "ecall",
);

unsafe extern "C" {
    static code_ecall: u32;
    static code_ebreak: u32;
    static code_illegal: u32;
    static code_csr: u32;
    static code_load: u32;
}

/// Runs code that traps at once.
fn run(mode: Mode, code: *const u32) -> Trap {
    csr::allow_all_memory();
    // SAFETY: the snippets above do nothing but trap.
    unsafe { probe::jump(mode, code as usize) }
}

fn ecall_traps_with_the_cause_of_its_mode() -> bool {
    let code = &raw const code_ecall;
    [
        (Mode::User, exception::CALL_FROM_U),
        (Mode::Supervisor, exception::CALL_FROM_S),
        (Mode::Machine, exception::CALL_FROM_M),
    ]
    .iter()
    .all(|(mode, cause)| run(*mode, code) == Trap { cause: *cause, value: 0, program_counter: code as u64 })
}

fn ebreak_is_a_breakpoint() -> bool {
    let code = &raw const code_ebreak;
    let trap = run(Mode::User, code);
    trap.cause == exception::BREAKPOINT && trap.program_counter == code as u64
}

fn illegal_instruction_gives_its_bits() -> bool {
    let trap = run(Mode::Supervisor, &raw const code_illegal);
    trap.cause == exception::ILLEGAL_INSTRUCTION && trap.value == 0xffff_ffff
}

fn machine_csr_in_user_mode_is_illegal() -> bool {
    run(Mode::User, &raw const code_csr).cause == exception::ILLEGAL_INSTRUCTION
}

fn load_and_store_outside_ram_fault() -> bool {
    [0, 0x1800_0000, ram_end(), 1 << 55].iter().all(|address| {
        // SAFETY: there is nothing at these addresses.
        let (load, store) =
            unsafe { (probe::load(*address, Width::Double), probe::store(*address, Width::Byte, 1)) };
        load.is_err_and(|trap| trap.cause == exception::LOAD_ACCESS_FAULT && trap.value == *address as u64)
            && store.is_err_and(|trap| {
                trap.cause == exception::STORE_ACCESS_FAULT && trap.value == *address as u64
            })
    })
}

fn jump_outside_ram_faults() -> bool {
    csr::allow_all_memory();
    [0, board::RTC, ram_end()].iter().all(|address| {
        // SAFETY: there is no code at these addresses.
        let trap = unsafe { probe::jump(Mode::Machine, *address) };
        trap.cause == exception::INSTRUCTION_ACCESS_FAULT && trap.value == *address as u64
    })
}

fn unprotected_memory_is_denied_to_user_mode() -> bool {
    let code = &raw const code_load;
    let mut registers = Registers { program_counter: code as u64, integer: [0; 31] };
    registers.integer[10] = board::RAM as u64 + 0x10_0000;
    // All of the guest's own first half MiB, so the code runs but its load doesn't.
    csr::allow_only(board::RAM, 0x8_0000);
    // SAFETY: the code loads and traps.
    let denied = unsafe { probe::enter(Mode::User, &registers) };
    csr::allow_all_memory();
    // SAFETY: the code loads and traps.
    let allowed = unsafe { probe::enter(Mode::User, &registers) };
    denied.cause == exception::LOAD_ACCESS_FAULT && allowed.cause == exception::CALL_FROM_U
}

fn misaligned_access_works_in_ram() -> bool {
    // Across a page boundary, high above the guest.
    let address = board::RAM + 0x40_0000 - 3;
    // SAFETY: nobody uses this memory.
    unsafe {
        probe::store(address, Width::Double, 0x1122_3344_5566_7788).is_ok()
            && probe::load(address, Width::Double) == Ok(0x1122_3344_5566_7788)
            && probe::load(address + 3, Width::Word) == Ok(0x2233_4455)
    }
}

fn misaligned_access_across_the_end_faults() -> bool {
    let end = ram_end();
    // SAFETY: nobody uses the last bytes of RAM.
    unsafe {
        probe::load(end - 4, Width::Double).is_err()
            && probe::store(end - 1, Width::Half, 0).is_err()
            && probe::load(end - 8, Width::Double).is_ok()
    }
}

/// One page of a page table.
#[repr(C, align(4096))]
struct Table([u64; 512]);

static mut ROOT: Table = Table([0; 512]);

/// A leaf of 1 GiB that maps RAM to itself: valid, all permissions, accessed and dirty.
const RAM_GIGAPAGE: u64 = (board::RAM as u64 >> 12) << 10 | 0xcf;
const SV39: u64 = 8 << 60;

fn page_fault_gives_its_address() -> bool {
    csr::allow_all_memory();
    let root = &raw mut ROOT;
    // SAFETY: the table is used here only.
    unsafe { (*root).0[board::RAM >> 30] = RAM_GIGAPAGE };
    csr::write!("satp", SV39 | root as u64 >> 12);
    // SAFETY: the load of the root is mapped, the others aren't.
    let (mapped, below, above) = unsafe {
        core::arch::asm!("sfence.vma");
        (
            probe::access_as(Mode::Supervisor, root as usize + 16, None),
            probe::access_as(Mode::Supervisor, 0x1238, None),
            probe::access_as(Mode::Supervisor, 1 << 38, Some(1)),
        )
    };
    csr::write!("satp", 0);
    mapped == Ok(RAM_GIGAPAGE)
        && below.is_err_and(|trap| trap.cause == exception::LOAD_PAGE_FAULT && trap.value == 0x1238)
        && above.is_err_and(|trap| trap.cause == exception::STORE_PAGE_FAULT && trap.value == 1 << 38)
}

fn floating_point_works() -> bool {
    let third = core::hint::black_box(1.0f64) / core::hint::black_box(3.0);
    let fused = core::hint::black_box(1.5f32) * core::hint::black_box(-2.0) + core::hint::black_box(0.25);
    third.to_bits() == 0x3fd5_5555_5555_5555 && fused == -2.75
}
