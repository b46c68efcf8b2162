//! The Supervisor Binary Interface that the monitor gives to a kernel started in S-mode, as firmware would
//! (RISC-V SBI specification 2.0).
//!
//! Function numbers stand in one table for each extension. What isn't listed is answered with
//! `SBI_ERR_NOT_SUPPORTED`.

mod console;
mod fence;
mod state;
mod steal_time;
#[cfg(test)]
mod tests;

use rvisor_devices::finisher::PowerRequest;
use rvisor_hart::Access;
use rvisor_isa::csr;
use rvisor_waist::{GuestMemory, GuestVirtual};

use crate::{VirtualHart, Vm};

pub(crate) use steal_time::StealTime;

/// Version 2.0 (chapter "Base Extension", `sbi_get_spec_version`).
const SPECIFICATION_VERSION: u64 = 2 << 24;
/// `sbi_get_impl_id`: no number is registered for Rvisor; this one ("RV") is above the registered ones.
const IMPLEMENTATION_ID: u64 = 0x5256;

/// Extension ids.
mod eid {
    pub const SET_TIMER: u64 = 0;
    pub const CONSOLE_PUTCHAR: u64 = 1;
    pub const CONSOLE_GETCHAR: u64 = 2;
    pub const CLEAR_IPI: u64 = 3;
    pub const SEND_IPI: u64 = 4;
    pub const REMOTE_FENCE_I: u64 = 5;
    pub const REMOTE_SFENCE_VMA: u64 = 6;
    pub const REMOTE_SFENCE_VMA_ASID: u64 = 7;
    pub const SHUTDOWN: u64 = 8;
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x73_5049;
    pub const RFENCE: u64 = 0x5246_4e43;
    pub const HSM: u64 = 0x48_534d;
    pub const SRST: u64 = 0x5352_5354;
    pub const DBCN: u64 = 0x4442_434e;
    pub const SUSP: u64 = 0x5355_5350;
    pub const STA: u64 = 0x53_5441;

    /// What `sbi_probe_extension` answers 1 for.
    pub const ALL: [u64; 18] = [
        SET_TIMER,
        CONSOLE_PUTCHAR,
        CONSOLE_GETCHAR,
        CLEAR_IPI,
        SEND_IPI,
        REMOTE_FENCE_I,
        REMOTE_SFENCE_VMA,
        REMOTE_SFENCE_VMA_ASID,
        SHUTDOWN,
        BASE,
        TIME,
        IPI,
        RFENCE,
        HSM,
        SRST,
        DBCN,
        SUSP,
        STA,
    ];
}

/// Error codes (chapter "Binary Encoding").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Error {
    Failed = -1,
    NotSupported = -2,
    InvalidParameter = -3,
    Denied = -4,
    InvalidAddress = -5,
    AlreadyAvailable = -6,
}

/// How a call ends.
enum Outcome {
    /// `sbiret`: error and value.
    Return(Result<u64, Error>),
    /// Legacy calls return one value, in `a0`.
    Legacy(i64),
    /// The hart doesn't come back from the call by itself: it was stopped or suspended for good.
    Away,
}

/// Numbers and arguments of a call.
struct Call {
    extension: u64,
    function: u64,
    arguments: [u64; 6],
}

const A0: usize = 10;
const A6: usize = 16;
const A7: usize = 17;

/// Carries out the call at which `hart` stands and moves it behind the `ecall`.
pub(crate) fn handle<M: GuestMemory>(hart: &mut VirtualHart, vm: &Vm<M>) {
    let x = &hart.hart.x;
    let call = Call { extension: x[A7], function: x[A6], arguments: core::array::from_fn(|i| x[A0 + i]) };
    let behind = hart.hart.pc.wrapping_add(4);
    hart.hart.retired = hart.hart.retired.wrapping_add(1);
    let outcome = dispatch(&call, hart, vm);
    let x = &mut hart.hart.x;
    match outcome {
        Outcome::Return(result) => {
            (x[A0], x[A0 + 1]) = match result {
                Ok(value) => (0, value),
                Err(error) => (error as i64 as u64, 0),
            };
            hart.hart.pc = behind;
        }
        Outcome::Legacy(value) => {
            x[A0] = value as u64;
            hart.hart.pc = behind;
        }
        Outcome::Away => {}
    }
}

fn dispatch<M: GuestMemory>(call: &Call, hart: &mut VirtualHart, vm: &Vm<M>) -> Outcome {
    let [a0, ..] = call.arguments;
    match call.extension {
        eid::SET_TIMER => {
            set_timer(hart, vm, a0);
            Outcome::Legacy(0)
        }
        eid::CONSOLE_PUTCHAR => console::putchar(vm, a0),
        eid::CONSOLE_GETCHAR => console::getchar(vm),
        eid::CLEAR_IPI => {
            clear_ipi(hart, vm);
            Outcome::Legacy(0)
        }
        eid::SEND_IPI => {
            let sent = legacy_mask(hart, vm, a0).and_then(|mask| send_ipi(vm, mask, legacy_base(mask)));
            legacy_result(sent)
        }
        eid::REMOTE_FENCE_I | eid::REMOTE_SFENCE_VMA | eid::REMOTE_SFENCE_VMA_ASID => {
            fence::legacy(call, hart, vm)
        }
        eid::SHUTDOWN => {
            vm.request_power(PowerRequest::PowerOff);
            Outcome::Legacy(0)
        }
        eid::BASE => Outcome::Return(base(call)),
        eid::TIME if call.function == 0 => {
            set_timer(hart, vm, a0);
            Outcome::Return(Ok(0))
        }
        eid::IPI if call.function == 0 => Outcome::Return(send_ipi(vm, a0, call.arguments[1])),
        eid::RFENCE => Outcome::Return(fence::call(call, hart, vm)),
        eid::HSM => state::hart_state(call, hart, vm),
        eid::SUSP if call.function == 0 => state::system_suspend(call, hart, vm),
        eid::SRST if call.function == 0 => Outcome::Return(system_reset(a0, call.arguments[1], vm)),
        eid::STA => Outcome::Return(steal_time::call(call, hart, vm)),
        eid::DBCN => Outcome::Return(console::debug_console(call, vm)),
        _ => Outcome::Return(Err(Error::NotSupported)),
    }
}

/// Chapter "Base Extension". The machine ids read as the hart's own CSRs do: zero.
fn base(call: &Call) -> Result<u64, Error> {
    match call.function {
        0 => Ok(SPECIFICATION_VERSION),
        1 => Ok(IMPLEMENTATION_ID),
        2 => Ok(implementation_version()),
        3 => Ok(u64::from(eid::ALL.contains(&call.arguments[0]))),
        4..=6 => Ok(0),
        _ => Err(Error::NotSupported),
    }
}

/// `major << 16 | minor` of this crate.
fn implementation_version() -> u64 {
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap_or(0));
    let (major, minor): (u64, u64) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    major << 16 | minor
}

/// Sets `stimecmp`, which also clears a pending supervisor timer interrupt (chapter "Timer Extension").
fn set_timer<M: GuestMemory>(hart: &mut VirtualHart, vm: &Vm<M>, deadline: u64) {
    let environment = vm.environment(&hart.signals);
    let written = hart.hart.write_csr(&environment, csr::STIMECMP, deadline);
    debug_assert!(written.is_ok(), "stimecmp exists where the monitor is the SBI");
}

fn clear_ipi<M: GuestMemory>(hart: &mut VirtualHart, vm: &Vm<M>) {
    const SSIP: u64 = 1 << 1;
    hart.signals.take_software_interrupt();
    let environment = vm.environment(&hart.signals);
    let pending = hart.hart.read_csr(&environment, csr::SIP).unwrap_or(0);
    let written = hart.hart.write_csr(&environment, csr::SIP, pending & !SSIP);
    debug_assert!(written.is_ok(), "sip always exists");
}

/// Chapter "IPI Extension".
fn send_ipi<M: GuestMemory>(vm: &Vm<M>, mask: u64, base: u64) -> Result<u64, Error> {
    for index in harts(vm, mask, base)? {
        vm.harts()[index].post_software_interrupt();
    }
    Ok(0)
}

/// Chapter "System Reset Extension".
fn system_reset<M: GuestMemory>(kind: u64, reason: u64, vm: &Vm<M>) -> Result<u64, Error> {
    const NO_REASON: u64 = 0;
    const SYSTEM_FAILURE: u64 = 1;
    if reason > SYSTEM_FAILURE {
        return Err(Error::InvalidParameter);
    }
    vm.request_power(match (kind, reason) {
        (0, NO_REASON) => PowerRequest::PowerOff,
        (0, _) => PowerRequest::Fail(1),
        // Cold and warm reboot are the same on this board.
        (1 | 2, _) => PowerRequest::Reset,
        _ => return Err(Error::InvalidParameter),
    });
    Ok(0)
}

/// The harts that a mask and its base select (chapter "Binary Encoding", "Hart list parameter").
fn harts<M: GuestMemory>(
    vm: &Vm<M>,
    mask: u64,
    base: u64,
) -> Result<impl Iterator<Item = usize> + Clone + use<M>, Error> {
    let count = vm.harts().len() as u64;
    let (mask, base) = if base == u64::MAX { (u64::MAX, 0) } else { (mask, base) };
    let everything = base == 0 && mask == u64::MAX;
    if !everything {
        let highest = 64 - u64::from(mask.leading_zeros());
        if base.checked_add(highest).is_none_or(|end| end > count && mask != 0) {
            return Err(Error::InvalidParameter);
        }
    }
    Ok((0..64u64)
        .filter(move |bit| mask >> bit & 1 == 1)
        .map(move |bit| base.wrapping_add(bit))
        .take_while(move |index| *index < count)
        .map(|index| index as usize))
}

/// Base for a legacy mask: all harts, or counted from hart 0.
fn legacy_base(mask: u64) -> u64 {
    if mask == u64::MAX { u64::MAX } else { 0 }
}

/// The hart mask of a legacy call: `pointer` is its guest virtual address, or zero for all harts (chapter
/// "Legacy Extensions").
fn legacy_mask<M: GuestMemory>(hart: &mut VirtualHart, vm: &Vm<M>, pointer: u64) -> Result<u64, Error> {
    if pointer == 0 {
        return Ok(u64::MAX);
    }
    if !pointer.is_multiple_of(8) {
        return Err(Error::InvalidAddress);
    }
    let environment = vm.environment(&hart.signals);
    let physical = hart
        .hart
        .translate(&environment, GuestVirtual(pointer), Access::Load, 8)
        .map_err(|_| Error::InvalidAddress)?
        .physical;
    vm.memory().load(physical).map_err(|_| Error::InvalidAddress)
}

fn legacy_result(result: Result<u64, Error>) -> Outcome {
    Outcome::Legacy(match result {
        Ok(_) => 0,
        Err(error) => error as i64,
    })
}
