//! A hart's architectural state in a snapshot. Caches of translations aren't part of it: a restored hart begins without
//! any, as after `fence.i` and `sfence.vma`. Nor is a reservation: `sc` may fail.

use rvisor_isa::Privilege;
use rvisor_isa::csr::*;
use rvisor_waist::{StateError, StateReader, StateWriter};

use crate::exit::Environment;
use crate::state::Hart;

/// Numbers of the fields.
mod field {
    /// The integer registers from `x0` on.
    pub const X: u16 = 1;
    /// The floating-point registers.
    pub const F: u16 = 2;
    pub const PC: u16 = 3;
    /// As in `mstatus.MPP`.
    pub const PRIVILEGE: u16 = 4;
    pub const RETIRED: u16 = 5;
    /// Numbers of CSRs, each followed by its value, in the order in which they are to be written.
    pub const CSRS: u16 = 6;
    /// The virtualization mode; left out by harts without the hypervisor extension.
    pub const VIRTUALIZED: u16 = 7;
}

/// The CSRs that hold state, in an order in which each can be written: what decides about others comes first, and
/// `mstatus` after what makes it dirty. Those that show parts of others aren't listed, nor those of the PMP, which
/// depend on the configuration. A CSR that is added here is written down, and restored, without more ado.
const CSRS: [u16; 29] = [
    MENVCFG,
    SENVCFG,
    MSTATEEN0,
    MSTATEEN1,
    MSTATEEN2,
    MSTATEEN3,
    MEDELEG,
    MIDELEG,
    MCOUNTEREN,
    SCOUNTEREN,
    MCOUNTINHIBIT,
    MCYCLE,
    MINSTRET,
    MIE,
    MIP,
    MTVEC,
    MSCRATCH,
    MEPC,
    MCAUSE,
    MTVAL,
    STVEC,
    SSCRATCH,
    SEPC,
    SCAUSE,
    STVAL,
    STIMECMP,
    TSELECT,
    FCSR,
    SATP,
];

/// The same of the hypervisor extension, of harts that have it.
const HYPERVISOR_CSRS: [u16; 24] = [
    HENVCFG, HSTATEEN0, HSTATEEN1, HSTATEEN2, HSTATEEN3, HEDELEG, HIDELEG, HVIP, HCOUNTEREN, HTIMEDELTA,
    HSTATUS, HTVAL, HTINST, HGATP, MTVAL2, MTINST, VSSTATUS, VSTVEC, VSSCRATCH, VSEPC, VSCAUSE, VSTVAL,
    VSTIMECMP, VSATP,
];

/// All `pmpaddr` come before all `pmpcfg`, whose locks they would meet.
fn pmp(entries: usize) -> impl Iterator<Item = u16> {
    let entries = entries as u16;
    (0..entries).map(|entry| PMPADDR0 + entry).chain((0..entries / 4).step_by(2).map(|entry| PMPCFG0 + entry))
}

impl Hart {
    /// The numbers of all CSRs that are written down.
    fn saved_csrs(&self) -> impl Iterator<Item = u16> + use<> {
        let hypervisor = if self.config.hypervisor { &HYPERVISOR_CSRS[..] } else { &[] };
        let csrs = CSRS.into_iter().chain(hypervisor.iter().copied());
        csrs.chain(pmp(self.config.pmp_entries)).chain([MSTATUS])
    }

    /// A CSR as it is written down: without what wires add, and as it has to be written to be the same again.
    fn saved_csr<E: Environment>(&mut self, env: &E, number: u16) -> Result<u64, StateError> {
        match number {
            MIP => {
                // What a pulse asked for is in `mip` from here on.
                let _ = self.csr_value(env, MIP);
                Ok(self.csr.mip)
            }
            TSELECT => Ok(self.csr.tselect),
            number => self.csr_value(env, number).map_err(|_| StateError::Unsupported("a CSR")),
        }
    }

    /// Writes the hart's state down.
    ///
    /// # Errors
    /// If a CSR can't be.
    pub fn save<E: Environment>(&mut self, env: &E, writer: &mut StateWriter) -> Result<(), StateError> {
        writer.numbers(field::X, self.x);
        writer.numbers(field::F, self.f);
        writer.number(field::PC, self.pc);
        writer.number(field::PRIVILEGE, self.privilege as u64);
        writer.number(field::RETIRED, self.retired);
        let mut csrs = alloc::vec::Vec::new();
        for number in self.saved_csrs() {
            csrs.extend([number.into(), self.saved_csr(env, number)?]);
        }
        writer.numbers(field::CSRS, csrs);
        if self.config.hypervisor {
            writer.number(field::VIRTUALIZED, self.virtualized.into());
        }
        Ok(())
    }

    /// Takes over what a hart of the same configuration has written down. Each CSR takes a legal value, whatever is
    /// there.
    ///
    /// # Errors
    /// If that makes no sense.
    pub fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.reset();
        self.x = registers(reader, field::X)?;
        self.x[0] = 0;
        self.f = registers(reader, field::F)?;
        self.pc = reader.number(field::PC)? & !1;
        let privilege = Privilege::from_bits(reader.number(field::PRIVILEGE)?);
        self.privilege = privilege.ok_or(StateError::Invalid("privilege mode"))?;
        if self.config.supervisor_only && self.privilege == Privilege::Machine {
            return Err(StateError::Invalid("privilege mode"));
        }
        self.retired = reader.number(field::RETIRED)?;
        let csrs = reader.numbers(field::CSRS)?;
        let (csrs, rest) = csrs.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(StateError::Malformed);
        }
        for &[number, value] in csrs {
            let known = self.saved_csrs().find(|&known| u64::from(known) == number);
            self.restore_csr(known.ok_or(StateError::Invalid("CSR number"))?, value)?;
        }
        if self.config.hypervisor {
            self.virtualized = reader.flag(field::VIRTUALIZED)? && self.privilege != Privilege::Machine;
        }
        Ok(())
    }

    fn restore_csr(&mut self, number: u16, value: u64) -> Result<(), StateError> {
        // The counters are written as the next instruction is to see them.
        let next = match number {
            MCYCLE | MINSTRET => value.wrapping_add(u64::from(!self.is_inhibited(number))),
            _ => value,
        };
        if !self.config.supervisor_only || !is_machine_level(number) {
            self.set_csr(number, next);
            return Ok(());
        }
        // No software runs in M-mode that could have changed anything but what S-mode sees of these.
        let before = self.csr.clone();
        self.set_csr(number, next);
        let changed = match number {
            MSTATUS => (self.csr.mstatus ^ before.mstatus) & !SSTATUS_MASK,
            MIE => self.csr.mie & !self.csr.mideleg,
            MIP => self.csr.mip & !self.csr.mideleg,
            MCYCLE | MINSTRET => 0,
            _ => (self.csr != before).into(),
        };
        if changed == 0 { Ok(()) } else { Err(StateError::Invalid("CSR of M-mode")) }
    }

    fn is_inhibited(&self, number: u16) -> bool {
        self.csr.mcountinhibit & (1 << (number - MCYCLE)) != 0
    }
}

/// Bits 9 and 8 of a CSR's number are the lowest mode that may access it.
const fn is_machine_level(number: u16) -> bool {
    number >> 8 & 3 == 3
}

fn registers(reader: &mut StateReader<'_>, number: u16) -> Result<[u64; 32], StateError> {
    reader.numbers(number)?.try_into().map_err(|_| StateError::Invalid("number of registers"))
}

#[cfg(test)]
mod tests;
