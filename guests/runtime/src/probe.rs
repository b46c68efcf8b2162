//! Doing what may trap, and coming back to say whether it did.
//!
//! Interrupts must be off (`mstatus.MIE` clear), except where a function says otherwise.

use core::arch::{asm, global_asm};

use crate::csr;

/// A trap that was caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// `mcause`.
    pub cause: u64,
    /// `mtval`.
    pub value: u64,
    /// `mepc`.
    pub program_counter: u64,
}

/// Exception codes (Privileged ISA, "Machine Cause Register").
pub mod exception {
    #![allow(missing_docs)]
    pub const INSTRUCTION_ACCESS_FAULT: u64 = 1;
    pub const ILLEGAL_INSTRUCTION: u64 = 2;
    pub const BREAKPOINT: u64 = 3;
    pub const LOAD_ACCESS_FAULT: u64 = 5;
    pub const STORE_ACCESS_FAULT: u64 = 7;
    pub const CALL_FROM_U: u64 = 8;
    pub const CALL_FROM_S: u64 = 9;
    pub const CALL_FROM_M: u64 = 11;
    pub const INSTRUCTION_PAGE_FAULT: u64 = 12;
    pub const LOAD_PAGE_FAULT: u64 = 13;
    pub const STORE_PAGE_FAULT: u64 = 15;
}

impl Trap {
    /// The trap that came last.
    pub fn last() -> Self {
        Self { cause: csr::read!("mcause"), value: csr::read!("mtval"), program_counter: csr::read!("mepc") }
    }
}

/// Size of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

/// All widths.
pub const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

/// Runs one instruction with operands `value` and `address`; evaluates to whether it trapped.
macro_rules! attempt {
    ($instruction:literal, $value:ident, $address:expr) => {{
        let trapped: u64;
        asm!(
            "la {vector}, 2f",
            "csrrw {vector}, mtvec, {vector}",
            "li {trapped}, 1",
            $instruction,
            "li {trapped}, 0",
            ".balign 4",
            "2:",
            "csrw mtvec, {vector}",
            vector = out(reg) _,
            trapped = out(reg) trapped,
            value = inout(reg) $value,
            address = in(reg) $address,
        );
        trapped != 0
    }};
}

fn outcome(value: u64, trapped: bool) -> Result<u64, Trap> {
    if trapped { Err(Trap::last()) } else { Ok(value) }
}

/// Loads, zero-extended.
///
/// # Safety
/// The load must have no effect that the guest can't stand.
pub unsafe fn load(address: usize, width: Width) -> Result<u64, Trap> {
    let mut value = 0u64;
    // SAFETY: the caller's; a trap comes back here.
    let trapped = unsafe {
        match width {
            Width::Byte => attempt!("lbu {value}, 0({address})", value, address),
            Width::Half => attempt!("lhu {value}, 0({address})", value, address),
            Width::Word => attempt!("lwu {value}, 0({address})", value, address),
            Width::Double => attempt!("ld {value}, 0({address})", value, address),
        }
    };
    outcome(value, trapped)
}

/// Stores the low bits of `value`.
///
/// # Safety
/// The store must not hit what the guest needs.
pub unsafe fn store(address: usize, width: Width, value: u64) -> Result<(), Trap> {
    let mut value = value;
    // SAFETY: the caller's; a trap comes back here.
    let trapped = unsafe {
        match width {
            Width::Byte => attempt!("sb {value}, 0({address})", value, address),
            Width::Half => attempt!("sh {value}, 0({address})", value, address),
            Width::Word => attempt!("sw {value}, 0({address})", value, address),
            Width::Double => attempt!("sd {value}, 0({address})", value, address),
        }
    };
    outcome(value, trapped).map(|_| ())
}

/// An instruction on memory that reads and writes in one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    /// `lr.w`
    LoadReservedWord,
    /// `lr.d`
    LoadReservedDouble,
    /// `sc.w`
    StoreConditionalWord,
    /// `sc.d`
    StoreConditionalDouble,
    /// `amoadd.w`
    AddWord,
    /// `amomaxu.d`
    MaximumDouble,
    /// `amoswap.d`
    SwapDouble,
}

/// All of them.
pub const ATOMICS: [Atomic; 7] = [
    Atomic::LoadReservedWord,
    Atomic::LoadReservedDouble,
    Atomic::StoreConditionalWord,
    Atomic::StoreConditionalDouble,
    Atomic::AddWord,
    Atomic::MaximumDouble,
    Atomic::SwapDouble,
];

/// Executes an atomic instruction; the result is its destination register.
///
/// # Safety
/// The store must not hit what the guest needs.
pub unsafe fn atomic(address: usize, atomic: Atomic, value: u64) -> Result<u64, Trap> {
    let mut value = value;
    // SAFETY: the caller's; a trap comes back here.
    let trapped = unsafe {
        match atomic {
            Atomic::LoadReservedWord => attempt!("lr.w {value}, ({address})", value, address),
            Atomic::LoadReservedDouble => attempt!("lr.d {value}, ({address})", value, address),
            Atomic::StoreConditionalWord => attempt!("sc.w {value}, {value}, ({address})", value, address),
            Atomic::StoreConditionalDouble => attempt!("sc.d {value}, {value}, ({address})", value, address),
            Atomic::AddWord => attempt!("amoadd.w {value}, {value}, ({address})", value, address),
            Atomic::MaximumDouble => attempt!("amomaxu.d {value}, {value}, ({address})", value, address),
            Atomic::SwapDouble => attempt!("amoswap.d {value}, {value}, ({address})", value, address),
        }
    };
    outcome(value, trapped)
}

/// Loads a floating-point double.
///
/// # Safety
/// As for [`load`].
pub unsafe fn load_float(address: usize) -> Result<u64, Trap> {
    let mut value = 0u64;
    // SAFETY: the caller's; the register is one that Rust code here never uses.
    let trapped = unsafe { attempt!("fld ft11, 0({address})\nfmv.x.d {value}, ft11", value, address) };
    outcome(value, trapped)
}

/// Privilege modes, as `mstatus.MPP` holds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// U-mode.
    User = 0,
    /// S-mode.
    Supervisor = 1,
    /// M-mode.
    Machine = 3,
}

const PREVIOUS_MODE: u64 = 3 << 11;
const PREVIOUS_INTERRUPT_ENABLE: u64 = 1 << 7;
const INTERRUPT_ENABLE: u64 = 1 << 3;
const MODIFY_PRIVILEGE: u64 = 1 << 17;

/// Does `work` with loads and stores as `mode` would do them (`mstatus.MPRV`). The work must consist of
/// accesses that don't need the guest's own memory, or memory that is mapped to itself: one probe.
///
/// # Safety
/// As for the accesses that `address` and `store` say.
pub unsafe fn access_as(mode: Mode, address: usize, store: Option<u64>) -> Result<u64, Trap> {
    let mut value = store.unwrap_or(0);
    csr::write!("mstatus", csr::read!("mstatus") & !PREVIOUS_MODE | (mode as u64) << 11);
    // SAFETY: the caller's. MPRV is set for one instruction; a trap sets MPP to M, which ends its effect.
    let trapped = unsafe {
        if store.is_some() {
            attempt_modified_store(&mut value, address)
        } else {
            attempt_modified_load(&mut value, address)
        }
    };
    csr::write!("mstatus", csr::read!("mstatus") & !MODIFY_PRIVILEGE);
    outcome(value, trapped)
}

/// # Safety
/// As for [`access_as`].
unsafe fn attempt_modified_load(result: &mut u64, address: usize) -> bool {
    let mut value = MODIFY_PRIVILEGE;
    // SAFETY: the caller's.
    let trapped = unsafe {
        attempt!(
            "csrs mstatus, {value}\nld {value}, 0({address})\nli {trapped}, 1 << 17\ncsrc mstatus, {trapped}",
            value,
            address
        )
    };
    *result = value;
    trapped
}

/// # Safety
/// As for [`access_as`].
unsafe fn attempt_modified_store(result: &mut u64, address: usize) -> bool {
    let mut value = *result;
    // SAFETY: the caller's.
    let trapped = unsafe {
        attempt!(
            "li {trapped}, 1 << 17\ncsrs mstatus, {trapped}\nsd {value}, 0({address})\ncsrc mstatus, {trapped}",
            value,
            address
        )
    };
    *result = value;
    trapped
}

/// What a hart's registers hold when it enters another mode.
#[repr(C)]
#[derive(Clone)]
pub struct Registers {
    /// Program counter.
    pub program_counter: u64,
    /// `x1` to `x31`.
    pub integer: [u64; 31],
}

global_asm!(
    ".section .text",
    ".balign 4",
    // enter_until_trap(registers: a0): M-mode state lives on the stack, whose address waits in mscratch.
    "enter_until_trap:",
    "    addi sp, sp, -128",
    "    sd ra, 0(sp)",
    "    sd gp, 8(sp)",
    "    sd tp, 16(sp)",
    "    sd s0, 24(sp)",
    "    sd s1, 32(sp)",
    "    sd s2, 40(sp)",
    "    sd s3, 48(sp)",
    "    sd s4, 56(sp)",
    "    sd s5, 64(sp)",
    "    sd s6, 72(sp)",
    "    sd s7, 80(sp)",
    "    sd s8, 88(sp)",
    "    sd s9, 96(sp)",
    "    sd s10, 104(sp)",
    "    sd s11, 112(sp)",
    "    la t0, 1f",
    "    csrrw t0, mtvec, t0",
    "    sd t0, 120(sp)",
    "    csrw mscratch, sp",
    "    ld t0, 0(a0)",
    "    csrw mepc, t0",
    "    ld x1, 8(a0)",
    "    ld x2, 16(a0)",
    "    ld x3, 24(a0)",
    "    ld x4, 32(a0)",
    "    ld x5, 40(a0)",
    "    ld x6, 48(a0)",
    "    ld x7, 56(a0)",
    "    ld x8, 64(a0)",
    "    ld x9, 72(a0)",
    "    ld x11, 88(a0)",
    "    ld x12, 96(a0)",
    "    ld x13, 104(a0)",
    "    ld x14, 112(a0)",
    "    ld x15, 120(a0)",
    "    ld x16, 128(a0)",
    "    ld x17, 136(a0)",
    "    ld x18, 144(a0)",
    "    ld x19, 152(a0)",
    "    ld x20, 160(a0)",
    "    ld x21, 168(a0)",
    "    ld x22, 176(a0)",
    "    ld x23, 184(a0)",
    "    ld x24, 192(a0)",
    "    ld x25, 200(a0)",
    "    ld x26, 208(a0)",
    "    ld x27, 216(a0)",
    "    ld x28, 224(a0)",
    "    ld x29, 232(a0)",
    "    ld x30, 240(a0)",
    "    ld x31, 248(a0)",
    "    ld x10, 80(a0)",
    "    mret",
    ".balign 4",
    "1:  csrr sp, mscratch",
    "    ld t0, 120(sp)",
    "    csrw mtvec, t0",
    "    ld ra, 0(sp)",
    "    ld gp, 8(sp)",
    "    ld tp, 16(sp)",
    "    ld s0, 24(sp)",
    "    ld s1, 32(sp)",
    "    ld s2, 40(sp)",
    "    ld s3, 48(sp)",
    "    ld s4, 56(sp)",
    "    ld s5, 64(sp)",
    "    ld s6, 72(sp)",
    "    ld s7, 80(sp)",
    "    ld s8, 88(sp)",
    "    ld s9, 96(sp)",
    "    ld s10, 104(sp)",
    "    ld s11, 112(sp)",
    "    addi sp, sp, 128",
    "    ret",
);

unsafe extern "C" {
    fn enter_until_trap(registers: &Registers);
}

/// Goes to `mode` with these registers and returns the trap that brought the hart back to M-mode. Interrupts
/// that `mie` enables count as traps below M-mode.
///
/// # Safety
/// The code entered must trap some time, and leave alone what the guest needs.
pub unsafe fn enter(mode: Mode, registers: &Registers) -> Trap {
    let status = csr::read!("mstatus") & !(PREVIOUS_MODE | PREVIOUS_INTERRUPT_ENABLE | INTERRUPT_ENABLE);
    csr::write!("mstatus", status | (mode as u64) << 11);
    // SAFETY: the caller's.
    unsafe { enter_until_trap(registers) };
    Trap::last()
}

/// Goes to `address` in `mode`, all registers zero.
///
/// # Safety
/// As for [`enter`].
pub unsafe fn jump(mode: Mode, address: usize) -> Trap {
    let registers = Registers { program_counter: address as u64, integer: [0; 31] };
    // SAFETY: the caller's.
    unsafe { enter(mode, &registers) }
}

/// Sleeps in M-mode with interrupts on until one that `mie` enables is taken.
pub fn take_interrupt() -> Trap {
    // SAFETY: the trap comes back here, with interrupts off again.
    unsafe {
        asm!(
            "la {vector}, 2f",
            "csrrw {vector}, mtvec, {vector}",
            "csrsi mstatus, 8",
            "1: wfi",
            "j 1b",
            ".balign 4",
            "2:",
            "csrw mtvec, {vector}",
            vector = out(reg) _,
        );
    }
    Trap::last()
}
