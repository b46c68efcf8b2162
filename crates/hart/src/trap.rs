//! Traps: taking them and returning from them (Privileged ISA, "Machine-Level ISA", "Supervisor-Level ISA" and
//! "Hypervisor Extension", sections on trap handling). Which refused instructions are a hypervisor's business is
//! [`refused`]'s.

mod refused;

use rvisor_isa::csr::{hstatus, mcause, mstatus, mtvec};
use rvisor_isa::{Exception, Interrupt, Privilege};

use crate::mmu::Access;
use crate::state::Hart;

/// Why a trap is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// An instruction's doing.
    Exception(Exception),
    /// From outside.
    Interrupt(Interrupt),
}

/// A trap about to be taken. `mepc` is the hart's program counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// Why.
    pub cause: Cause,
    /// For `mtval` or `stval`.
    pub value: u64,
    /// Of guest-page faults, the guest physical address; else zero.
    pub guest_address: u64,
    /// For `mtinst` or `htinst`: zero, or what the instruction is without its address.
    pub instruction: u64,
    /// Whether `value` is an address of a virtual machine although the hart isn't in it: `hlv` and its like.
    pub is_guest: bool,
}

impl Trap {
    /// The trap of an exception.
    #[must_use]
    pub const fn exception(exception: Exception, value: u64) -> Self {
        Self { cause: Cause::Exception(exception), value, guest_address: 0, instruction: 0, is_guest: false }
    }

    /// The trap of an interrupt.
    #[must_use]
    pub const fn interrupt(interrupt: Interrupt) -> Self {
        Self {
            cause: Cause::Interrupt(interrupt),
            ..Self::exception(Exception::InstructionAddressMisaligned, 0)
        }
    }
}

/// The instruction isn't allowed or doesn't exist: whoever has its bits raises the exception with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IllegalInstruction;

impl Hart {
    /// Takes a trap: the program counter must stand at the instruction that trapped, or that the interrupt
    /// precedes. It stands at the handler afterwards.
    pub fn take_trap(&mut self, trap: Trap) {
        let (pc, from) = (self.pc, self.privilege);
        let csr = &self.csr;
        let (code, delegated, delegated_again) = match trap.cause {
            Cause::Exception(exception) => {
                let code = exception.code();
                (code, csr.medeleg >> code & 1 != 0, csr.hedeleg >> code & 1 != 0)
            }
            Cause::Interrupt(interrupt) => {
                let bit = interrupt.bit();
                (mcause::INTERRUPT | interrupt.code(), csr.mideleg & bit != 0, csr.hideleg & bit != 0)
            }
        };
        if !delegated || self.privilege == Privilege::Machine {
            self.enter_machine(code, &trap);
        } else if self.virtualized && delegated_again {
            self.enter_virtual_supervisor(code, trap.value);
        } else {
            self.enter_supervisor(code, &trap);
        }
        self.tlb.context_changed();
        self.tell_trap(trap, pc, from);
    }

    /// Whether the value of a trap is an address of a virtual machine.
    fn is_guest_virtual(&self, trap: &Trap) -> bool {
        let Cause::Exception(exception) = trap.cause else { return false };
        match exception {
            Exception::InstructionAddressMisaligned
            | Exception::InstructionAccessFault
            | Exception::InstructionPageFault
            | Exception::InstructionGuestPageFault
            | Exception::Breakpoint => self.virtualized,
            exception if exception.is_of_data() => trap.is_guest || self.accessor(Access::Load).guest,
            _ => false,
        }
    }

    fn enter_virtual_supervisor(&mut self, code: u64, value: u64) {
        let csr = &mut self.csr;
        // The interrupts of a virtual machine are in its own view what a machine's are, one place lower.
        csr.vscause = if code & mcause::INTERRUPT != 0 { code - 1 } else { code };
        csr.vstval = value;
        csr.vsepc = self.pc;
        push_supervisor(&mut csr.vsstatus, self.privilege);
        self.privilege = Privilege::Supervisor;
        self.pc = vector(csr.vstvec, csr.vscause);
    }

    fn enter_supervisor(&mut self, code: u64, trap: &Trap) {
        let is_guest_virtual = self.is_guest_virtual(trap);
        let csr = &mut self.csr;
        csr.scause = code;
        csr.stval = trap.value;
        csr.sepc = self.pc;
        if self.config.hypervisor {
            csr.htval = trap.guest_address >> 2;
            csr.htinst = trap.instruction;
            csr.hstatus &= !(hstatus::SPV | hstatus::GVA);
            if is_guest_virtual {
                csr.hstatus |= hstatus::GVA;
            }
            if self.virtualized {
                csr.hstatus = csr.hstatus & !hstatus::SPVP | hstatus::SPV;
                if self.privilege == Privilege::Supervisor {
                    csr.hstatus |= hstatus::SPVP;
                }
            }
        }
        push_supervisor(&mut csr.mstatus, self.privilege);
        self.privilege = Privilege::Supervisor;
        self.virtualized = false;
        self.pc = vector(csr.stvec, code);
    }

    fn enter_machine(&mut self, code: u64, trap: &Trap) {
        let is_guest_virtual = self.is_guest_virtual(trap);
        let csr = &mut self.csr;
        csr.mcause = code;
        csr.mtval = trap.value;
        csr.mepc = self.pc;
        if self.config.hypervisor {
            csr.mtval2 = trap.guest_address >> 2;
            csr.mtinst = trap.instruction;
            csr.mstatus &= !(mstatus::MPV | mstatus::GVA);
            if is_guest_virtual {
                csr.mstatus |= mstatus::GVA;
            }
            if self.virtualized {
                csr.mstatus |= mstatus::MPV;
            }
        }
        let enabled = csr.mstatus & mstatus::MIE != 0;
        csr.mstatus &= !(mstatus::MIE | mstatus::MPIE | mstatus::MPP);
        if enabled {
            csr.mstatus |= mstatus::MPIE;
        }
        csr.mstatus |= (self.privilege as u64) << mstatus::MPP_SHIFT;
        self.privilege = Privilege::Machine;
        self.virtualized = false;
        self.pc = vector(csr.mtvec, code);
    }

    /// `mret`: leaves the program counter at `mepc`.
    pub fn mret(&mut self) -> Result<(), IllegalInstruction> {
        if self.privilege != Privilege::Machine {
            return Err(IllegalInstruction);
        }
        let csr = &mut self.csr;
        self.privilege = csr.previous_privilege();
        self.virtualized = self.privilege != Privilege::Machine && csr.mstatus & mstatus::MPV != 0;
        let enable = csr.mstatus & mstatus::MPIE != 0;
        csr.mstatus &= !(mstatus::MIE | mstatus::MPP | mstatus::MPV);
        csr.mstatus |= mstatus::MPIE;
        if enable {
            csr.mstatus |= mstatus::MIE;
        }
        if self.privilege != Privilege::Machine {
            csr.mstatus &= !mstatus::MPRV;
        }
        self.pc = csr.mepc;
        self.tlb.context_changed();
        self.tell_return(Privilege::Machine);
        Ok(())
    }

    /// `sret`: leaves the program counter at `sepc`.
    pub fn sret(&mut self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(mstatus::TSR, hstatus::VTSR)?;
        let from = self.privilege;
        let csr = &mut self.csr;
        if self.virtualized {
            self.privilege = pop_supervisor(&mut csr.vsstatus);
            self.pc = csr.vsepc;
        } else {
            self.privilege = pop_supervisor(&mut csr.mstatus);
            csr.mstatus &= !mstatus::MPRV;
            self.virtualized = csr.hstatus & hstatus::SPV != 0;
            csr.hstatus &= !hstatus::SPV;
            self.pc = csr.sepc;
        }
        self.tlb.context_changed();
        self.tell_return(from);
        Ok(())
    }

    /// Called after `mstatus` was changed from outside, where that has changed what accesses may do.
    pub fn context_changed(&mut self) {
        self.tlb.context_changed();
    }

    /// Whether `wfi` may be executed now (`mstatus.TW`, `hstatus.VTW`; never in U-mode).
    pub fn check_wfi(&self) -> Result<(), IllegalInstruction> {
        if self.virtualized && self.csr.mstatus & mstatus::TW != 0 {
            return Err(IllegalInstruction);
        }
        self.check_supervisor(mstatus::TW, hstatus::VTW)
    }

    /// Whether `sfence.vma` and `sinval.vma` may be executed now (`mstatus.TVM`, `hstatus.VTVM`; never in U-mode).
    pub fn check_fence_vma(&self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(mstatus::TVM, hstatus::VTVM)
    }

    /// Whether `sfence.w.inval` and `sfence.inval.ir` may be executed now (never in U-mode).
    pub fn check_fence_invalidate(&self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(0, 0)
    }

    /// Whether `hfence.vvma` and `hinval.vvma` may be executed now (in M- and HS-mode).
    pub fn check_fence_guest(&self) -> Result<(), IllegalInstruction> {
        self.check_hypervisor(0)
    }

    /// Whether `hfence.gvma` and `hinval.gvma` may be executed now (in M-mode, and in HS-mode by `mstatus.TVM`).
    pub fn check_fence_second_stage(&self) -> Result<(), IllegalInstruction> {
        self.check_hypervisor(mstatus::TVM)
    }

    fn check_hypervisor(&self, trapped_by: u64) -> Result<(), IllegalInstruction> {
        if self.config.hypervisor && !self.virtualized {
            self.check_supervisor(trapped_by, 0)
        } else {
            Err(IllegalInstruction)
        }
    }

    /// Whether `hlv`, `hlvx` and `hsv` may be executed now (in M- and HS-mode; in U-mode by `hstatus.HU`).
    pub fn check_guest_access(&self) -> Result<(), IllegalInstruction> {
        let right_mode = self.privilege != Privilege::User || self.csr.hstatus & hstatus::HU != 0;
        let allowed = self.config.hypervisor && !self.virtualized && right_mode;
        if allowed { Ok(()) } else { Err(IllegalInstruction) }
    }

    /// Allows M-mode always, HS-mode unless the bit of `mstatus` that traps it is set, VS-mode unless that of
    /// `hstatus` is, U-mode never.
    fn check_supervisor(&self, trapped_by: u64, trapped_in_guest_by: u64) -> Result<(), IllegalInstruction> {
        let csr = &self.csr;
        let traps = if self.virtualized {
            csr.hstatus & trapped_in_guest_by != 0
        } else {
            csr.mstatus & trapped_by != 0
        };
        match self.privilege {
            Privilege::Machine => Ok(()),
            Privilege::Supervisor if !traps => Ok(()),
            Privilege::Supervisor | Privilege::User => Err(IllegalInstruction),
        }
    }
}

/// What a trap to S-mode does to `sstatus`, or to `vsstatus`.
fn push_supervisor(status: &mut u64, privilege: Privilege) {
    let enabled = *status & mstatus::SIE != 0;
    *status &= !(mstatus::SIE | mstatus::SPIE | mstatus::SPP);
    if enabled {
        *status |= mstatus::SPIE;
    }
    if privilege == Privilege::Supervisor {
        *status |= mstatus::SPP;
    }
}

/// What `sret` does to it, and the mode that it returns to.
fn pop_supervisor(status: &mut u64) -> Privilege {
    let privilege = if *status & mstatus::SPP != 0 { Privilege::Supervisor } else { Privilege::User };
    let enable = *status & mstatus::SPIE != 0;
    *status &= !(mstatus::SIE | mstatus::SPP);
    *status |= mstatus::SPIE;
    if enable {
        *status |= mstatus::SIE;
    }
    privilege
}

/// Where a trap enters: the base of `mtvec` or `stvec`; in vectored mode, an interrupt's own slot.
fn vector(tvec: u64, code: u64) -> u64 {
    let base = tvec & mtvec::BASE;
    let vectored = tvec & mtvec::MODE == mtvec::VECTORED && code & mcause::INTERRUPT != 0;
    if vectored { base.wrapping_add(4 * (code & !mcause::INTERRUPT)) } else { base }
}

#[cfg(test)]
mod precise;
#[cfg(test)]
mod tests;
