//! All assembly of the metal home, here and in the files beside this one: entry from firmware, the way into a guest
//! and back, the traps of a guest that are served without the monitor, floating-point registers, CSRs, `ecall`,
//! fences.
//!
//! Source: Privileged ISA, "Supervisor-Level ISA"; Linux documentation, "Boot image header in RISC-V Linux";
//! SBI specification 2.0, "Binary Encoding" and "Hart State Management Extension".

use core::arch::{asm, global_asm};

use rvisor_isa::Exception;
use rvisor_isa::csr::mstatus;

use super::context::HartContext;
use super::layout::{DIRECT_MAP, IMAGE_BASE};
use crate::processor::Plain;
use crate::sequence::{ENTRIES, Entry, MISSES, NOBODY};

global_asm!(
    concat!(
        ".option push\n",
        ".option arch, +d, +zicsr\n",
        ".option norvc\n",
        ".option norelax\n",
        include_str!("start.s"),
        include_str!("trampoline.s"),
        include_str!("shortcuts.s"),
        include_str!("sequences.s"),
        include_str!("hypervisor.s"),
        include_str!("float.s"),
        ".option pop\n",
    ),
    image_base = const IMAGE_BASE,
    boot_stack = const super::layout::BOOT_STACK,
    pc = const core::mem::offset_of!(HartContext, pc),
    status = const core::mem::offset_of!(HartContext, status),
    cause = const core::mem::offset_of!(HartContext, cause),
    value = const core::mem::offset_of!(HartContext, value),
    guest_satp = const core::mem::offset_of!(HartContext, guest_satp),
    guest_stvec = const core::mem::offset_of!(HartContext, guest_stvec),
    monitor_satp = const core::mem::offset_of!(HartContext, monitor_satp),
    monitor_stvec = const core::mem::offset_of!(HartContext, monitor_stvec),
    sp = const core::mem::offset_of!(HartContext, stack_pointer),
    registers = const core::mem::offset_of!(HartContext, registers),
    return = const core::mem::offset_of!(HartContext, return_address),
    index = const core::mem::offset_of!(HartContext, index),
    flush = const core::mem::offset_of!(HartContext, flush),
    supervisor = const core::mem::offset_of!(HartContext, privileged.supervisor),
    guest_status = const core::mem::offset_of!(HartContext, privileged.status),
    held = const core::mem::offset_of!(HartContext, privileged.held),
    plain = const core::mem::offset_of!(HartContext, privileged.plain),
    masks = const core::mem::offset_of!(HartContext, privileged.masks),
    epc = const core::mem::offset_of!(HartContext, privileged.plain) + 8 * Plain::Epc as usize,
    cause_of_guest = const core::mem::offset_of!(HartContext, privileged.plain) + 8 * Plain::Cause as usize,
    value_of_guest = const core::mem::offset_of!(HartContext, privileged.plain) + 8 * Plain::Value as usize,
    vector = const core::mem::offset_of!(HartContext, privileged.vector),
    roots = const core::mem::offset_of!(HartContext, privileged.roots),
    float_live = const core::mem::offset_of!(HartContext, privileged.float_live),
    status_writable = const core::mem::offset_of!(HartContext, privileged.status_writable),
    status_decided = const core::mem::offset_of!(HartContext, privileged.status_decided),
    status_visible = const core::mem::offset_of!(HartContext, privileged.status_visible),
    calls = const core::mem::offset_of!(HartContext, privileged.counts.calls),
    traps = const core::mem::offset_of!(HartContext, privileged.counts.traps),
    tag = const core::mem::offset_of!(HartContext, privileged.tag),
    call_key = const core::mem::offset_of!(HartContext, privileged.call_key),
    call_entry = const core::mem::offset_of!(HartContext, privileged.call_entry),
    sequences = const core::mem::offset_of!(HartContext, sequences),
    wanted = const core::mem::offset_of!(HartContext, wanted),
    link = const core::mem::offset_of!(HartContext, link),
    old_status = const core::mem::offset_of!(HartContext, old_status),
    revealed = const core::mem::offset_of!(HartContext, revealed),
    entry_code = const core::mem::offset_of!(Entry, code),
    entry_seen = const core::mem::offset_of!(Entry, seen),
    entry_misses = const core::mem::offset_of!(Entry, misses),
    misses = const MISSES - 1,
    entry_key = const core::mem::offset_of!(Entry, key),
    nobody = const NOBODY,
    entry_mask = const (ENTRIES - 1) << 1,
    entry_shift = const (size_of::<Entry>() / 2).trailing_zeros(),
    illegal = const Exception::IllegalInstruction.code(),
    breakpoint = const Exception::Breakpoint.code(),
    call = const Exception::EnvironmentCallFromUser.code(),
    sie = const mstatus::SIE,
    spie = const mstatus::SPIE,
    spp = const mstatus::SPP,
    sie_bit = const mstatus::SIE.trailing_zeros(),
    spie_bit = const mstatus::SPIE.trailing_zeros(),
    fs = const mstatus::FS,
    sum = const mstatus::SUM,
    sum_bit = const mstatus::SUM.trailing_zeros(),
    mxr = const mstatus::MXR,
);

// The boot tables' direct map starts at entry 64 of the root.
const _: () = assert!(DIRECT_MAP == 64 << 30 && IMAGE_BASE < 64 << 30);

unsafe extern "C" {
    /// First byte of the image.
    pub static _start: u8;
    pub static __text_end: u8;
    pub static __rodata_end: u8;
    pub static __image_end: u8;
    pub static stack_guard: u8;
    pub static trampoline: u8;
    pub static trampoline_enter: u8;
    pub static trampoline_trap: u8;
    pub static trampoline_shortcuts: u8;
    pub static sequence_status: u8;
    pub static sequence_return: u8;
    pub static sequence_refused: u8;
    pub static sequence_stale: u8;
    pub static sequence_fault: u8;
    pub static sequence_outdated: u8;
    pub static sequence_outdated_at_call: u8;
    pub static sequence_nothing: u8;
    pub static sequence_nothing_at_call: u8;
    pub static start_secondary: u8;
    /// Where the trampoline leads after a trap.
    pub static guest_trapped: u8;
    /// Enters the guest; returns at its next trap. `context` and `enter` are addresses in the window, `frame`
    /// is the same context where Rust knows it.
    pub fn enter_guest(context: u64, enter: u64, frame: *mut HartContext, registers: *mut [u64; 32]);
    /// Enters the guest in the mode that `hstatus` and the frame's `sstatus` say; returns at its next trap.
    pub fn enter_virtual(frame: *mut HartContext, registers: *mut [u64; 32]);
    /// Stores the 32 floating-point registers; returns `fcsr`.
    pub fn save_float(registers: *mut [u64; 32]) -> u64;
    /// Loads the 32 floating-point registers and `fcsr`.
    pub fn load_float(registers: *const [u64; 32], fcsr: u64);
}

macro_rules! readers {
    ($($read:ident $name:literal;)*) => {$(
        #[doc = concat!("Reads `", $name, "`.")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading the CSR has no effects.
            unsafe { asm!(concat!("csrr {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }
    )*};
}

macro_rules! writers {
    ($($write:ident $name:literal;)*) => {$(
        /// # Safety
        /// The caller answers for what the register does.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's.
            unsafe { asm!(concat!("csrw ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    )*};
}

readers! {
    read_satp "satp";
    read_stvec "stvec";
    read_time "time";
    read_sip "sip";
    read_instret "instret";
    read_senvcfg "senvcfg";
    read_scounteren "scounteren";
    read_hedeleg "0x602";
    read_henvcfg "0x60a";
    read_htval "0x643";
    read_hvip "0x645";
    read_hgatp "0x680";
    read_vsstatus "0x200";
    read_vsie "0x204";
    read_vstvec "0x205";
    read_vsscratch "0x240";
    read_vsepc "0x241";
    read_vscause "0x242";
    read_vstval "0x243";
    read_vstimecmp "0x24d";
    read_vsatp "0x280";
}

writers! {
    write_satp "satp";
    write_sie "sie";
    write_scounteren "scounteren";
    write_senvcfg "senvcfg";
    write_stimecmp "0x14d";
    write_hstatus "0x600";
    write_hedeleg "0x602";
    write_hideleg "0x603";
    write_htimedelta "0x605";
    write_hcounteren "0x606";
    write_henvcfg "0x60a";
    write_hstateen0 "0x60c";
    write_hvip "0x645";
    write_hgatp "0x680";
    write_vsstatus "0x200";
    write_vsie "0x204";
    write_vstvec "0x205";
    write_vsscratch "0x240";
    write_vsepc "0x241";
    write_vscause "0x242";
    write_vstval "0x243";
    write_vstimecmp "0x24d";
    write_vsatp "0x280";
}

/// Index of the physical hart that executes this: `tp`, in the monitor.
#[inline(always)]
pub fn current_hart() -> usize {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mv {}, tp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value;
    // SAFETY: copies a register.
    unsafe { asm!("mv {}, fp", out(reg) value, options(nomem, nostack)) };
    value
}

/// Clears `sip.SSIP`.
pub fn clear_software_interrupt() {
    // SAFETY: the monitor's own pending bit.
    unsafe { asm!("csrc sip, {}", in(reg) 2u64, options(nomem, nostack)) };
}

/// `wfi`: until an interrupt that `sie` enables is pending.
pub fn wait_for_interrupt() {
    // SAFETY: waits.
    unsafe { asm!("wfi", options(nomem, nostack)) };
}

/// `fence.i`: fetches see what was stored.
pub fn fence_instructions() {
    // SAFETY: forgets cached instructions.
    unsafe { asm!("fence.i", options(nostack)) };
}

/// Breaks the reservation of an `lr` that the hart may hold.
pub fn break_reservation() {
    let mut cell = 0u64;
    // SAFETY: stores to a local variable, or nowhere.
    unsafe { asm!("sc.d zero, zero, ({})", in(reg) &raw mut cell, options(nostack)) };
}

/// `sfence.vma` of everything.
pub fn fence_all() {
    // SAFETY: forgets cached translations.
    unsafe { asm!("sfence.vma", options(nostack)) };
}

/// `sfence.vma` of one address in one address space.
pub fn fence_page(address: u64, asid: u64) {
    // SAFETY: forgets cached translations.
    unsafe { asm!("sfence.vma {}, {}", in(reg) address, in(reg) asid, options(nostack)) };
}

/// Calls the firmware: `(error, value)`.
///
/// # Safety
/// The caller answers for what the function does with the arguments.
pub unsafe fn sbi_call(extension: u64, function: u64, arguments: [u64; 3]) -> (i64, u64) {
    let (error, value);
    // SAFETY: the firmware keeps all registers but a0 and a1; the rest is the caller's.
    unsafe {
        asm!("ecall",
            inlateout("a0") arguments[0] as i64 => error, inlateout("a1") arguments[1] => value,
            in("a2") arguments[2], in("a6") function, in("a7") extension, options(nostack));
    }
    (error, value)
}

/// `hfence.gvma` and `hfence.vvma` of everything.
pub fn fence_all_virtual() {
    // SAFETY: forgets cached translations.
    unsafe {
        asm!(
            ".option push",
            ".option arch, +h",
            "hfence.gvma",
            "hfence.vvma",
            ".option pop",
            options(nostack)
        );
    }
}

/// `hfence.vvma` of the address spaces of the VMID in `hgatp`: of one address or all, of one ASID or all.
pub fn fence_virtual(address: Option<u64>, asid: Option<u64>) {
    macro_rules! fence {
        ($operands:literal $(, $name:ident)*) => {
            // SAFETY: forgets cached translations.
            unsafe {
                asm!(".option push", ".option arch, +h", concat!("hfence.vvma ", $operands), ".option pop",
                    $($name = in(reg) $name,)* options(nostack));
            }
        };
    }
    match (address, asid) {
        (None, None) => fence!("zero, zero"),
        (Some(address), None) => fence!("{address}, zero", address),
        (None, Some(asid)) => fence!("zero, {asid}", asid),
        (Some(address), Some(asid)) => fence!("{address}, {asid}", address, asid),
    }
}

macro_rules! fetches {
    ($($fetch:ident: $type:ty, $size:literal, $instruction:literal;)*) => {$(
        #[doc = concat!("Fetches ", $size, " bytes of the guest's code, as a guest in the mode that `hstatus.SPVP` says; `None`")]
        /// where that faults.
        pub fn $fetch(address: u64) -> Option<$type> {
            let (value, trapped): (u64, u64);
            // SAFETY: a trap leads behind the instruction, with a flag set; `stvec` is as before afterwards, and
            // `hstatus` is written before it is used. Interrupts are off.
            unsafe {
                asm!(
                    ".option push", ".option norvc", ".option arch, +h",
                    "lla {vector}, 2f",
                    "csrrw {vector}, stvec, {vector}",
                    "li {trapped}, 0",
                    "li {value}, 0",
                    concat!($instruction, " {value}, ({address})"),
                    "j 3f",
                    ".balign 4",
                    "2: li {trapped}, 1",
                    "3: csrw stvec, {vector}",
                    ".option pop",
                    vector = out(reg) _, trapped = out(reg) trapped, value = out(reg) value,
                    address = in(reg) address, options(nostack),
                );
            }
            (trapped == 0).then_some(value as $type)
        }
    )*};
}

fetches! {
    fetch_half: u16, "two", "hlvx.hu";
    fetch_word: u32, "four", "hlvx.wu";
}

macro_rules! costs {
    ($($cost:ident $name:literal $instruction:literal;)*) => {$(
        #[doc = concat!("What `instret` counts for ", $name, ", trap included. Only before other traps are expected.")]
        pub fn $cost() -> u64 {
            let (start, end): (u64, u64);
            // SAFETY: the trap leads behind the instruction; `stvec` is as before afterwards. Interrupts are off.
            unsafe {
                asm!(
                    ".option push", ".option norvc",
                    "lla {vector}, 2f",
                    "csrrw {vector}, stvec, {vector}",
                    "csrr {start}, instret",
                    $instruction,
                    ".balign 4",
                    "2: csrr {end}, instret",
                    "csrw stvec, {vector}",
                    ".option pop",
                    vector = out(reg) _, start = out(reg) start, end = out(reg) end,
                    options(nostack),
                );
            }
            end.wrapping_sub(start)
        }
    )*};
}

costs! {
    // A write to `cycle`.
    cost_of_illegal "an illegal instruction" ".word 0xc0001073";
    cost_of_breakpoint "a breakpoint" "ebreak";
}

/// Reads a CSR that may not exist: `None` where that traps. Only before other traps are expected.
pub fn probe_csr<const NUMBER: u16>() -> Option<u64> {
    let (value, trapped): (u64, u64);
    // SAFETY: a trap leads behind the instruction, with a flag set; `stvec` is as before afterwards. Interrupts
    // are off.
    unsafe {
        asm!(
            ".option push", ".option norvc",
            "lla {vector}, 2f",
            "csrrw {vector}, stvec, {vector}",
            "li {trapped}, 0",
            "li {value}, 0",
            "csrr {value}, {number}",
            "j 3f",
            ".balign 4",
            "2: li {trapped}, 1",
            "3: csrw stvec, {vector}",
            ".option pop",
            vector = out(reg) _, trapped = out(reg) trapped, value = out(reg) value, number = const NUMBER,
            options(nostack),
        );
    }
    (trapped == 0).then_some(value)
}
