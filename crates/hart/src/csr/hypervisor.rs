//! The registers of the hypervisor extension and of its virtual machines (Privileged ISA, "Hypervisor
//! Extension", sections "Hypervisor and Virtual Supervisor CSRs" and "Machine-Level CSRs"; Sstc, Smstateen,
//! Svadu, Svpbmt for their parts). No guest external interrupts: GEILEN is 0.

use rvisor_isa::Privilege;
use rvisor_isa::csr::*;

use super::{COUNTERS, Csrs, SUPERVISOR_INTERRUPTS, legal_tvec, merge, with_dirty};
use crate::exit::Environment;
use crate::mmu::TranslationMode;
use crate::state::Hart;
use crate::trap::IllegalInstruction;

/// Interrupts of virtual machines, and the one of their hypervisor: always delegated to HS-mode.
pub const INTERRUPTS: u64 = VIRTUAL | mip::SGEIP;
/// Those of virtual machines, which can be delegated to them. One place lower they are what the machine sees.
const VIRTUAL: u64 = mip::VSSIP | mip::VSTIP | mip::VSEIP;

/// Exceptions that can be delegated to virtual machines: not calls to a hypervisor or firmware, nor what only a
/// hypervisor can mend.
const HEDELEG_WRITABLE: u64 = 0xc_b1ff;
/// What software may write in `hstatus`.
const HSTATUS_WRITABLE: u64 =
    hstatus::GVA | hstatus::SPV | hstatus::SPVP | hstatus::HU | hstatus::VTVM | hstatus::VTW | hstatus::VTSR;
/// The fields of `henvcfg` that are read-only zero unless `menvcfg` has them set.
pub const ENVIRONMENT: u64 = envcfg::ADUE | envcfg::PBMTE | envcfg::STCE;

/// The register that an access from VS-mode is to.
pub const fn stand_in(number: u16) -> u16 {
    match number {
        SSTATUS | SIE | STVEC | SSCRATCH | SEPC | SCAUSE | STVAL | SIP | STIMECMP | SATP => {
            number - SSTATUS + VSSTATUS
        }
        _ => number,
    }
}

impl Csrs {
    /// Bytes from `mstatus`, `stvec`, `sscratch`, `sepc`, `scause` and `stval` to those that stand in for them in
    /// VS-mode.
    pub const VIRTUAL_OFFSET: usize =
        core::mem::offset_of!(Self, vsstatus) - core::mem::offset_of!(Self, mstatus);

    /// See [`plain`](Self::plain).
    pub(super) fn plain_hypervisor(&mut self, number: u16) -> Option<(&mut u64, u64)> {
        const ALL: u64 = u64::MAX;
        if !self.hypervisor {
            return None;
        }
        Some(match number {
            HSTATUS => (&mut self.hstatus, HSTATUS_WRITABLE),
            HEDELEG => (&mut self.hedeleg, HEDELEG_WRITABLE),
            HIDELEG => (&mut self.hideleg, VIRTUAL),
            HVIP => (&mut self.hvip, VIRTUAL),
            HCOUNTEREN => (&mut self.hcounteren, COUNTERS),
            HTIMEDELTA => (&mut self.htimedelta, ALL),
            HTVAL => (&mut self.htval, ALL),
            HTINST => (&mut self.htinst, ALL),
            MTVAL2 => (&mut self.mtval2, ALL),
            MTINST => (&mut self.mtinst, ALL),
            VSSCRATCH => (&mut self.vsscratch, ALL),
            VSEPC => (&mut self.vsepc, !1),
            VSCAUSE => (&mut self.vscause, ALL),
            VSTVAL => (&mut self.vstval, ALL),
            VSTIMECMP => (&mut self.vstimecmp, ALL),
            _ => return None,
        })
    }

    /// `hgatp.VMID`.
    pub(crate) fn vmid(&self) -> u16 {
        ((self.hgatp & hgatp::VMID) >> hgatp::VMID_SHIFT) as u16
    }

    /// Whether `vstimecmp` drives `mip.VSTIP`.
    pub(crate) fn has_vstimecmp(&self) -> bool {
        self.henvcfg & envcfg::STCE != 0
    }

    /// Writes `hgatp`: an unknown mode leaves the mode as it was.
    pub(super) fn write_hgatp(&mut self, value: u64, most: TranslationMode) {
        let is_known = TranslationMode::of_satp(value).is_some_and(|mode| mode <= most);
        let mode = if is_known { hgatp::MODE } else { 0 };
        self.hgatp = merge(self.hgatp, value, hgatp::PPN | hgatp::VMID | mode);
    }

    /// `hstateen` as it takes effect: what `mstateen` keeps from HS-mode isn't there for virtual machines.
    fn virtual_state(&self, index: usize) -> u64 {
        self.hstateen[index] & self.mstateen[index]
    }
}

impl Hart {
    /// Whether a virtual machine may access a CSR, where HS-mode may.
    pub(super) fn may_guest_access(&self, number: u16) -> bool {
        let csr = &self.csr;
        let is_user = self.privilege == Privilege::User;
        match number {
            SATP => csr.hstatus & hstatus::VTVM == 0,
            STIMECMP => csr.hcounteren & counters::TM != 0 && csr.henvcfg & envcfg::STCE != 0,
            SENVCFG => csr.virtual_state(0) & stateen::ENVCFG != 0,
            SSTATEEN0..=SSTATEEN3 => csr.virtual_state(usize::from(number - SSTATEEN0)) & stateen::SE0 != 0,
            CYCLE..=0xc1f => {
                let enabled = if is_user { csr.hcounteren & csr.scounteren } else { csr.hcounteren };
                enabled >> (number - CYCLE) & 1 != 0
            }
            // Theirs are reached by the numbers of those that they stand in for.
            _ => number >> 8 & 3 != 2,
        }
    }

    /// The value of a register of the extension. Refuses those that don't exist.
    pub(super) fn hypervisor_csr_value<E: Environment>(
        &mut self,
        env: &E,
        number: u16,
    ) -> Result<u64, IllegalInstruction> {
        let delegated = self.csr.hideleg & VIRTUAL;
        Ok(match number {
            HIE => self.csr.mie & INTERRUPTS,
            HIP => self.interrupts_pending(env) & INTERRUPTS,
            VSIE => (self.csr.mie & delegated) >> 1,
            VSIP => (self.interrupts_pending(env) & delegated) >> 1,
            HENVCFG => self.csr.henvcfg,
            HSTATEEN0..=HSTATEEN3 => self.csr.virtual_state(usize::from(number - HSTATEEN0)),
            HGATP => self.csr.hgatp,
            HGEIE | HGEIP => 0,
            VSSTATUS => with_dirty(self.csr.vsstatus),
            VSTVEC => self.csr.vstvec,
            VSATP => self.csr.vsatp,
            _ => return Err(IllegalInstruction),
        })
    }

    /// Writes a register of the extension that decides nothing about translation; false for others.
    pub(super) fn set_hypervisor_csr(&mut self, number: u16, value: u64) -> bool {
        let csr = &mut self.csr;
        match number {
            HIE => csr.mie = merge(csr.mie, value, INTERRUPTS),
            HIP => csr.hvip = merge(csr.hvip, value, mip::VSSIP),
            VSIE => {
                csr.mie = merge(csr.mie, (value & SUPERVISOR_INTERRUPTS) << 1, csr.hideleg & VIRTUAL);
            }
            VSIP => csr.hvip = merge(csr.hvip, value << 1, csr.hideleg & mip::VSSIP),
            HSTATEEN0..=HSTATEEN3 => {
                let index = usize::from(number - HSTATEEN0);
                let writable = csr.mstateen[index]
                    & if index == 0 { stateen::SE0 | stateen::ENVCFG } else { stateen::SE0 };
                csr.hstateen[index] = merge(csr.hstateen[index], value, writable);
            }
            VSTVEC => csr.vstvec = legal_tvec(csr.vstvec, value),
            _ => return false,
        }
        true
    }
}
