//! What a hart needs from outside, and why it hands control back.

use rvisor_isa::Exception;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, OutOfRange, Width};

use crate::state::Hart;
use crate::trap::Trap;

/// The world around a hart while it runs.
pub trait Environment {
    /// The VM's RAM.
    type Memory: GuestMemory;

    /// The VM's RAM.
    fn memory(&self) -> &Self::Memory;

    /// The `time` counter, in ticks of [`rvisor_waist::TIMEBASE_FREQUENCY`].
    fn ticks(&self) -> u64;

    /// The bits of `mip` that wires from outside drive now (MSIP, MTIP, MEIP, SEIP; and SSIP as a pulse that
    /// the hart takes over with [`take_software_interrupt`](Self::take_software_interrupt)). STIP is not
    /// among them where Sstc drives it.
    fn interrupt_lines(&self) -> u64;

    /// Whether a write to the ACLINT SSWI asked for `mip.SSIP` to be set since the last call.
    fn take_software_interrupt(&self) -> bool;

    /// Whether something outside wants the hart to look at its wires or to leave `Hart::run`:
    /// cheap enough to be asked at every block. Cleared by the caller of `run`, not by the hart.
    fn attention(&self) -> bool;
}

/// Why a hart handed control back. The program counter and all registers are exact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The instruction budget is used up, or the environment asked for attention.
    Budget,
    /// A load or store outside RAM. Perform it, then call
    /// [`finish_device_access`](crate::Hart::finish_device_access); the program counter still stands at the
    /// instruction.
    Device(DeviceAccess),
    /// `ecall` from S-mode while the monitor itself is the SBI implementation. The program counter stands at
    /// the `ecall`.
    SbiCall,
    /// `wfi` (or `wrs.nto`) with nothing pending. The program counter stands behind it.
    WaitForInterrupt,
}

/// One load or store that only the board can finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceAccess {
    /// Where on the board.
    pub address: GuestPhysical,
    /// The effective address the instruction named, for `stval`.
    pub virtual_address: GuestVirtual,
    /// Whether that is an address of a virtual machine that the hart isn't in (`hlv` and its like).
    pub is_guest: bool,
    /// How wide.
    pub width: Width,
    /// Which way.
    pub kind: AccessKind,
    /// Length of the instruction in bytes (2 or 4).
    pub instruction_length: u8,
}

/// Direction of a device access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// A load into a register.
    Load {
        /// Which register gets the value.
        target: Target,
        /// Whether an integer load sign-extends.
        signed: bool,
    },
    /// A store of a value.
    Store {
        /// The value, zero-extended.
        value: u64,
    },
}

/// Register that a device load fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Integer register number.
    Integer(u8),
    /// Floating-point register number; NaN-boxed to the access width.
    Float(u8),
}

impl Hart {
    /// Ends the instruction that left `Hart::run` with [`Exit::Device`]: fills the register of a load
    /// from `result` and retires the instruction, or raises the access fault.
    pub fn finish_device_access(&mut self, access: &DeviceAccess, result: Result<u64, OutOfRange>) {
        let Ok(value) = result else {
            let exception = match access.kind {
                AccessKind::Load { .. } => Exception::LoadAccessFault,
                AccessKind::Store { .. } => Exception::StoreAccessFault,
            };
            let trap = Trap::exception(exception, access.virtual_address.0);
            self.take_trap(Trap { is_guest: access.is_guest, ..trap });
            return;
        };
        if let AccessKind::Load { target, signed } = access.kind {
            let unused = 64 - 8 * access.width.bytes();
            let value = access.width.truncate(value);
            match target {
                Target::Integer(0) => {}
                Target::Integer(register) => {
                    let extended = if signed { ((value << unused) as i64 >> unused) as u64 } else { value };
                    self.x[usize::from(register & 31)] = extended;
                }
                Target::Float(register) => {
                    let boxed = if unused == 0 { value } else { value | u64::MAX << (64 - unused) };
                    self.f[usize::from(register & 31)] = boxed;
                    self.mark_float_dirty();
                }
            }
        }
        self.pc = self.pc.wrapping_add(u64::from(access.instruction_length));
        self.retired = self.retired.wrapping_add(1);
    }
}
