//! Control and status registers: who may access which, and what their fields hold (Privileged ISA, "Control
//! and Status Registers" and the chapters of each privilege level; Sstc, Smstateen, Zicntr, Zihpm).
//!
//! WARL fields take the written value where it is legal. Where it isn't, what happens is written at the
//! register. Registers that are nothing but bits stand in one table, [`Csrs::plain`].

mod counter;
mod hypervisor;

use rvisor_isa::csr::*;
use rvisor_isa::{Exception, Privilege};

use crate::exit::Environment;
use crate::mmu::TranslationMode;
use crate::pmp::Pmp;
use crate::state::{Config, Hart};
use crate::trap::IllegalInstruction;
use counter::Counter;

/// `misa`: RV64 with these extensions. Read-only.
const MISA_VALUE: u64 = {
    let letters = b"ABCDFIMSU";
    let mut value = XLEN_64 << misa::MXL_SHIFT;
    let mut i = 0;
    while i < letters.len() {
        value |= misa::extension(letters[i]);
        i += 1;
    }
    value
};

/// What software may write in `sstatus` (Privileged ISA, "Supervisor Status (sstatus) Register").
pub const SSTATUS_WRITABLE: u64 =
    mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::VS | mstatus::FS | mstatus::SUM | mstatus::MXR;

/// What software may write in `mstatus`; MPP takes legal values only.
const MSTATUS_WRITABLE: u64 = SSTATUS_WRITABLE
    | mstatus::MIE
    | mstatus::MPIE
    | mstatus::MPP
    | mstatus::MPRV
    | mstatus::TVM
    | mstatus::TW
    | mstatus::TSR;

/// Interrupts of S-mode.
const SUPERVISOR_INTERRUPTS: u64 = mip::SSIP | mip::STIP | mip::SEIP;
/// Interrupts of M-mode; never delegated.
const MACHINE_INTERRUPTS: u64 = mip::MSIP | mip::MTIP | mip::MEIP;

/// What else software may write in `mstatus` with the hypervisor extension.
const MSTATUS_HYPERVISOR: u64 = mstatus::GVA | mstatus::MPV;

/// Exceptions that can be delegated: all but `ecall` from M-mode, those that don't exist included.
const MEDELEG_WRITABLE: u64 = !(1 << Exception::EnvironmentCallFromMachine.code());

/// What software may write in `senvcfg`.
const SENVCFG_WRITABLE: u64 = envcfg::FIOM | envcfg::CBIE | envcfg::CBCFE | envcfg::CBZE;
/// What software may write in `menvcfg`.
const MENVCFG_WRITABLE: u64 = SENVCFG_WRITABLE | envcfg::ADUE | envcfg::PBMTE | envcfg::STCE;

/// Counters that exist; the others are read-only zero and so are their bits in `mcounteren` and its like.
const COUNTERS: u64 = counters::CY | counters::TM | counters::IR;
/// Bits of `mcountinhibit`.
const INHIBITABLE: u64 = counters::CY | counters::IR;

// Ends of the numbered families.
const PMPCFG15: u16 = PMPCFG0 + 15;
const PMPADDR63: u16 = PMPADDR0 + 63;
const MHPMEVENT31: u16 = MHPMEVENT3 + 28;
const MHPMCOUNTER31: u16 = MHPMCOUNTER3 + 28;
const HPMCOUNTER31: u16 = HPMCOUNTER3 + 28;

/// How a CSR instruction combines its operand with the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CsrOperation {
    /// `csrrw`, `csrrwi`.
    Write,
    /// `csrrs`, `csrrsi`.
    Set,
    /// `csrrc`, `csrrci`.
    Clear,
}

/// Cache-block instructions, which `menvcfg` and `senvcfg` allow or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheBlock {
    /// `cbo.inval`.
    Invalidate,
    /// `cbo.clean` and `cbo.flush`.
    CleanOrFlush,
    /// `cbo.zero`.
    Zero,
}

/// The stored part of the CSRs, each always legal. Fields are named after the registers of the manual; those of
/// the hypervisor extension are zero without it.
///
/// The `vs` registers stand as far from each other as those that they stand in for, so that an engine reaches
/// either set through one base (see [`VIRTUAL_OFFSET`](Self::VIRTUAL_OFFSET)).
///
/// For saving and restoring a hart, and for whoever plays the firmware; instructions go through
/// [`Hart::csr_instruction`]. Whoever changes `satp`, `mstatus` or `menvcfg` here calls [`Hart::fence_vma`]
/// afterwards, because cached translations depend on them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub struct Csrs {
    /// Without SD, which follows from FS and VS.
    pub mstatus: u64,
    pub stvec: u64,
    pub sscratch: u64,
    pub sepc: u64,
    pub scause: u64,
    pub stval: u64,
    /// Without SD.
    pub vsstatus: u64,
    pub vstvec: u64,
    pub vsscratch: u64,
    pub vsepc: u64,
    pub vscause: u64,
    pub vstval: u64,
    pub mtvec: u64,
    pub medeleg: u64,
    pub mideleg: u64,
    pub mie: u64,
    /// The bits of `mip` that software sets: SSIP, SEIP, and STIP while `menvcfg.STCE` is clear.
    pub mip: u64,
    pub mscratch: u64,
    pub mepc: u64,
    pub mcause: u64,
    pub mtval: u64,
    pub mcounteren: u64,
    pub mcountinhibit: u64,
    pub menvcfg: u64,
    pub mstateen: [u64; 4],
    pub scounteren: u64,
    pub senvcfg: u64,
    pub stimecmp: u64,
    pub satp: u64,
    pub vstimecmp: u64,
    pub vsatp: u64,
    pub hstatus: u64,
    pub hedeleg: u64,
    pub hideleg: u64,
    /// The bits of `mip` of virtual machines that software sets.
    pub hvip: u64,
    pub hcounteren: u64,
    pub henvcfg: u64,
    /// As written: what `mstateen` doesn't let through reads as zero.
    pub hstateen: [u64; 4],
    pub htimedelta: u64,
    pub htval: u64,
    pub htinst: u64,
    pub hgatp: u64,
    pub mtval2: u64,
    pub mtinst: u64,
    pub tselect: u64,
    pub fflags: u8,
    pub frm: u8,
    /// Whether there is the hypervisor extension.
    pub(crate) hypervisor: bool,
    pub(crate) mcycle: Counter,
    pub(crate) minstret: Counter,
    pub(crate) pmp: Pmp,
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Csrs, vsscratch) - offset_of!(Csrs, sscratch) == Csrs::VIRTUAL_OFFSET);
    assert!(offset_of!(Csrs, vsepc) - offset_of!(Csrs, sepc) == Csrs::VIRTUAL_OFFSET);
    assert!(offset_of!(Csrs, vscause) - offset_of!(Csrs, scause) == Csrs::VIRTUAL_OFFSET);
    assert!(offset_of!(Csrs, vstval) - offset_of!(Csrs, stval) == Csrs::VIRTUAL_OFFSET);
};

impl Csrs {
    pub(crate) fn new(config: &Config) -> Self {
        let hypervisor = config.hypervisor;
        let mut csrs = Self {
            mstatus: XLEN_64 << mstatus::UXL_SHIFT | XLEN_64 << mstatus::SXL_SHIFT,
            vsstatus: if hypervisor { XLEN_64 << mstatus::UXL_SHIFT } else { 0 },
            vstvec: 0,
            vsscratch: 0,
            vsepc: 0,
            vscause: 0,
            vstval: 0,
            vstimecmp: if hypervisor { u64::MAX } else { 0 },
            vsatp: 0,
            hstatus: if hypervisor { XLEN_64 << hstatus::VSXL_SHIFT } else { 0 },
            hedeleg: 0,
            hideleg: 0,
            hvip: 0,
            hcounteren: 0,
            henvcfg: 0,
            hstateen: [0; 4],
            htimedelta: 0,
            htval: 0,
            htinst: 0,
            hgatp: 0,
            mtval2: 0,
            mtinst: 0,
            hypervisor,
            mtvec: 0,
            medeleg: 0,
            mideleg: if hypervisor { hypervisor::INTERRUPTS } else { 0 },
            mie: 0,
            mip: 0,
            mscratch: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            mcountinhibit: 0,
            menvcfg: 0,
            mstateen: [0; 4],
            stvec: 0,
            scounteren: 0,
            senvcfg: 0,
            sscratch: 0,
            sepc: 0,
            scause: 0,
            stval: 0,
            stimecmp: u64::MAX,
            satp: 0,
            tselect: 0,
            fflags: 0,
            frm: 0,
            mcycle: Counter::default(),
            minstret: Counter::default(),
            pmp: Pmp::new(config.pmp_entries),
        };
        if config.supervisor_only {
            csrs.set_up_as_firmware();
        }
        csrs
    }

    /// What an SBI implementation sets up before it starts a kernel in S-mode.
    fn set_up_as_firmware(&mut self) {
        self.medeleg = MEDELEG_WRITABLE & !(1 << Exception::EnvironmentCallFromSupervisor.code());
        self.mideleg |= SUPERVISOR_INTERRUPTS;
        self.mcounteren = COUNTERS;
        // Linux counts on it: without a PMU driver it never sets it, and programs read `time`.
        self.scounteren = COUNTERS;
        self.menvcfg = MENVCFG_WRITABLE & !envcfg::FIOM;
        self.mstateen = [stateen::SE0 | stateen::ENVCFG, stateen::SE0, stateen::SE0, stateen::SE0];
        self.pmp.open();
    }

    /// The registers that are nothing but bits: where they are stored, and which bits software may write.
    fn plain(&mut self, number: u16) -> Option<(&mut u64, u64)> {
        const ALL: u64 = u64::MAX;
        /// `mepc` and `sepc`: bit 0 is always zero.
        const EVEN: u64 = !1;
        let guests = if self.hypervisor { hypervisor::INTERRUPTS } else { 0 };
        Some(match number {
            SSCRATCH => (&mut self.sscratch, ALL),
            SEPC => (&mut self.sepc, EVEN),
            SCAUSE => (&mut self.scause, ALL),
            STVAL => (&mut self.stval, ALL),
            STIMECMP => (&mut self.stimecmp, ALL),
            SCOUNTEREN => (&mut self.scounteren, COUNTERS),
            MSCRATCH => (&mut self.mscratch, ALL),
            MEPC => (&mut self.mepc, EVEN),
            MCAUSE => (&mut self.mcause, ALL),
            MTVAL => (&mut self.mtval, ALL),
            MIE => (&mut self.mie, MACHINE_INTERRUPTS | SUPERVISOR_INTERRUPTS | guests),
            MEDELEG => (&mut self.medeleg, MEDELEG_WRITABLE),
            MIDELEG => (&mut self.mideleg, !(MACHINE_INTERRUPTS | guests)),
            MCOUNTEREN => (&mut self.mcounteren, COUNTERS),
            MSTATEEN0 => (&mut self.mstateen[0], stateen::SE0 | stateen::ENVCFG),
            MSTATEEN1..=MSTATEEN3 => (&mut self.mstateen[usize::from(number - MSTATEEN0)], stateen::SE0),
            _ => return self.plain_hypervisor(number),
        })
    }

    /// Whether `stimecmp` drives `mip.STIP`.
    pub(crate) fn has_stimecmp(&self) -> bool {
        self.menvcfg & envcfg::STCE != 0
    }

    /// Writes `mstatus` or `sstatus`. The reserved value of MPP becomes U.
    fn write_mstatus(&mut self, value: u64, writable: u64) {
        let mut new = merge(self.mstatus, value, writable);
        if new & mstatus::MPP == 2 << mstatus::MPP_SHIFT {
            new &= !mstatus::MPP;
        }
        self.mstatus = new;
    }

    /// `mstatus.MPP`.
    pub(crate) fn previous_privilege(&self) -> Privilege {
        Privilege::from_bits((self.mstatus & mstatus::MPP) >> mstatus::MPP_SHIFT).unwrap_or(Privilege::User)
    }

    fn write_fcsr(&mut self, frm: u8, fflags: u8) {
        self.frm = frm & 7;
        self.fflags = fflags & fcsr::FLAGS as u8;
        self.mstatus |= mstatus::FS;
    }
}

/// `mstatus` or `vsstatus` with SD: whether FS or VS is Dirty.
fn with_dirty(status: u64) -> u64 {
    let is_dirty = |field| status & field == field;
    let sd = if is_dirty(mstatus::FS) || is_dirty(mstatus::VS) { mstatus::SD } else { 0 };
    status | sd
}

/// Takes the writable bits from `value` and the others from `old`.
fn merge(old: u64, value: u64, writable: u64) -> u64 {
    old & !writable | value & writable
}

/// `mtvec` and `stvec`: a reserved mode leaves the mode as it was.
fn legal_tvec(old: u64, value: u64) -> u64 {
    if value & mtvec::MODE <= mtvec::VECTORED { value } else { value & mtvec::BASE | old & mtvec::MODE }
}

/// `menvcfg` and `senvcfg`: the reserved value of CBIE becomes zero.
fn legal_envcfg(old: u64, value: u64, writable: u64) -> u64 {
    let new = merge(old, value, writable);
    if new & envcfg::CBIE == 2 << envcfg::CBIE_SHIFT { new & !envcfg::CBIE } else { new }
}

impl Hart {
    /// The CSR instructions. `operand` is `None` where the instruction doesn't write (`csrrs` and `csrrc`
    /// with `x0` or zero). Returns the old value, for `rd`. No CSR has side effects on reading, so it doesn't
    /// matter whether `rd` is `x0`.
    pub fn csr_instruction<E: Environment>(
        &mut self,
        env: &E,
        number: u16,
        operation: CsrOperation,
        operand: Option<u64>,
    ) -> Result<u64, IllegalInstruction> {
        self.check_csr(number, operand.is_some())?;
        let number = if self.virtualized { hypervisor::stand_in(number) } else { number };
        let old = self.csr_value(env, number)?;
        if let Some(operand) = operand {
            // A wire that holds SEIP must not be written back into the bit that software controls.
            let base = if number == MIP { self.csr.mip | self.csr.hvip & mip::VSSIP } else { old };
            let new = match operation {
                CsrOperation::Write => operand,
                CsrOperation::Set => base | operand,
                CsrOperation::Clear => base & !operand,
            };
            self.set_csr(number, new);
        }
        Ok(old)
    }

    /// Reads a CSR as `csrr` in the current mode.
    pub fn read_csr<E: Environment>(&mut self, env: &E, number: u16) -> Result<u64, IllegalInstruction> {
        self.csr_instruction(env, number, CsrOperation::Set, None)
    }

    /// Writes a CSR as `csrw` in the current mode.
    pub fn write_csr<E: Environment>(
        &mut self,
        env: &E,
        number: u16,
        value: u64,
    ) -> Result<(), IllegalInstruction> {
        self.csr_instruction(env, number, CsrOperation::Write, Some(value)).map(drop)
    }

    /// Whether the current mode may access the CSR. Whether it exists is found when it is read.
    pub(crate) fn check_csr(&self, number: u16, writes: bool) -> Result<(), IllegalInstruction> {
        let csr = &self.csr;
        let supervisor = self.privilege == Privilege::Supervisor;
        let machine = self.privilege == Privilege::Machine;
        let allowed = match number {
            FFLAGS | FRM | FCSR => self.float_enabled(),
            SATP | HGATP if !self.virtualized => !supervisor || csr.mstatus & mstatus::TVM == 0,
            STIMECMP | VSTIMECMP => {
                machine || csr.menvcfg & envcfg::STCE != 0 && csr.mcounteren & counters::TM != 0
            }
            SENVCFG | HENVCFG => machine || csr.mstateen[0] & stateen::ENVCFG != 0,
            SSTATEEN0..=SSTATEEN3 => {
                machine || csr.mstateen[usize::from(number - SSTATEEN0)] & stateen::SE0 != 0
            }
            HSTATEEN0..=HSTATEEN3 => {
                machine || csr.mstateen[usize::from(number - HSTATEEN0)] & stateen::SE0 != 0
            }
            CYCLE..=HPMCOUNTER31 => {
                let bit = 1 << (number - CYCLE);
                let enabled = match self.privilege {
                    Privilege::Machine => u64::MAX,
                    Privilege::Supervisor => csr.mcounteren,
                    Privilege::User => csr.mcounteren & csr.scounteren,
                };
                enabled & bit != 0
            }
            _ => true,
        };
        // The hypervisor's registers are HS-mode's, and don't exist in a virtual machine.
        let needed = match number >> 8 & 3 {
            2 if csr.hypervisor && !self.virtualized => Privilege::Supervisor,
            _ => privilege(number),
        };
        let permitted = self.privilege >= needed && !(writes && is_read_only(number));
        let allowed = allowed && (!self.virtualized || self.may_guest_access(number));
        if allowed && permitted { Ok(()) } else { Err(IllegalInstruction) }
    }

    /// The value of a CSR, whoever asks. Refuses those that don't exist.
    pub(crate) fn csr_value<E: Environment>(
        &mut self,
        env: &E,
        number: u16,
    ) -> Result<u64, IllegalInstruction> {
        if let Some((stored, _)) = self.csr.plain(number) {
            return Ok(*stored);
        }
        Ok(match number {
            FFLAGS => u64::from(self.csr.fflags),
            FRM => u64::from(self.csr.frm),
            FCSR => u64::from(self.csr.frm) << fcsr::FRM_SHIFT | u64::from(self.csr.fflags),
            CYCLE | MCYCLE => self.csr.mcycle.value(self.retired),
            TIME if self.virtualized => env.ticks().wrapping_add(self.csr.htimedelta),
            TIME => env.ticks(),
            INSTRET | MINSTRET => self.csr.minstret.value(self.retired),
            SSTATUS => with_dirty(self.csr.mstatus) & SSTATUS_MASK,
            SIE => self.csr.mie & self.csr.mideleg & SUPERVISOR_INTERRUPTS,
            SIP => self.interrupts_pending(env) & self.csr.mideleg & SUPERVISOR_INTERRUPTS,
            STVEC => self.csr.stvec,
            SENVCFG => self.csr.senvcfg,
            SATP => self.csr.satp,
            MSTATUS => with_dirty(self.csr.mstatus),
            MISA if self.csr.hypervisor => MISA_VALUE | misa::extension(b'H'),
            MISA => MISA_VALUE,
            MTVEC => self.csr.mtvec,
            MENVCFG => self.csr.menvcfg,
            MCOUNTINHIBIT => self.csr.mcountinhibit,
            MIP => self.interrupts_pending(env),
            // No triggers: what is written reads back inverted, so that no trigger can be selected.
            TSELECT => !self.csr.tselect,
            MHARTID => self.config.hart_id,
            PMPCFG0..=PMPCFG15 => self.csr.pmp.config(number - PMPCFG0).ok_or(IllegalInstruction)?,
            PMPADDR0..=PMPADDR63 => self.csr.pmp.address(number - PMPADDR0).ok_or(IllegalInstruction)?,
            MVENDORID | MARCHID | MIMPID | MCONFIGPTR => 0,
            SSTATEEN0..=SSTATEEN3 => 0,
            HPMCOUNTER3..=HPMCOUNTER31 | MHPMCOUNTER3..=MHPMCOUNTER31 | MHPMEVENT3..=MHPMEVENT31 => 0,
            _ if self.csr.hypervisor => return self.hypervisor_csr_value(env, number),
            _ => return Err(IllegalInstruction),
        })
    }

    /// Gives a CSR a legal value made from `value`, whoever asks. Ignored by those that can't be written.
    pub(crate) fn set_csr(&mut self, number: u16, value: u64) {
        let csr = &mut self.csr;
        if let Some((stored, writable)) = csr.plain(number) {
            *stored = merge(*stored, value, writable);
            return;
        }
        match number {
            FFLAGS => csr.write_fcsr(csr.frm, value as u8),
            FRM => csr.write_fcsr(value as u8, csr.fflags),
            FCSR => csr.write_fcsr((value >> fcsr::FRM_SHIFT) as u8, value as u8),
            MCYCLE => csr.mcycle.write(value, self.retired),
            MINSTRET => csr.minstret.write(value, self.retired),
            MCOUNTINHIBIT => {
                csr.mcountinhibit = value & INHIBITABLE;
                csr.mcycle.inhibit(value & counters::CY != 0, self.retired);
                csr.minstret.inhibit(value & counters::IR != 0, self.retired);
            }
            SIE => csr.mie = merge(csr.mie, value, csr.mideleg & SUPERVISOR_INTERRUPTS),
            SIP => csr.mip = merge(csr.mip, value, csr.mideleg & mip::SSIP),
            MIP => {
                let timer = if csr.menvcfg & envcfg::STCE == 0 { mip::STIP } else { 0 };
                csr.mip = merge(csr.mip, value, mip::SSIP | mip::SEIP | timer);
                if csr.hypervisor {
                    csr.hvip = merge(csr.hvip, value, mip::VSSIP);
                }
            }
            STVEC => csr.stvec = legal_tvec(csr.stvec, value),
            MTVEC => csr.mtvec = legal_tvec(csr.mtvec, value),
            SENVCFG => csr.senvcfg = legal_envcfg(csr.senvcfg, value, SENVCFG_WRITABLE),
            TSELECT => csr.tselect = value,
            _ if csr.hypervisor && self.set_hypervisor_csr(number, value) => {}
            _ => return self.set_translation_csr(number, value),
        }
        if self.virtualized && matches!(number, FFLAGS | FRM | FCSR) {
            self.mark_float_dirty();
        }
    }

    /// The registers that decide where an access goes and whether it is allowed.
    fn set_translation_csr(&mut self, number: u16, value: u64) {
        let csr = &mut self.csr;
        match number {
            MSTATUS if csr.hypervisor => csr.write_mstatus(value, MSTATUS_WRITABLE | MSTATUS_HYPERVISOR),
            MSTATUS => csr.write_mstatus(value, MSTATUS_WRITABLE),
            SSTATUS => csr.write_mstatus(value, SSTATUS_WRITABLE),
            SATP => {
                if TranslationMode::of_satp(value).is_some_and(|mode| mode <= self.config.translation) {
                    csr.satp = value;
                }
            }
            VSSTATUS => csr.vsstatus = merge(csr.vsstatus, value, SSTATUS_WRITABLE),
            VSATP => {
                if TranslationMode::of_satp(value).is_some_and(|mode| mode <= self.config.translation) {
                    csr.vsatp = value;
                }
            }
            HGATP => csr.write_hgatp(value, self.config.translation),
            _ => return self.set_protection_csr(number, value),
        }
        self.tlb.context_changed();
    }

    /// The registers that nothing in a [`TranslationContext`](crate::TranslationContext) stands for.
    fn set_protection_csr(&mut self, number: u16, value: u64) {
        let csr = &mut self.csr;
        match number {
            MENVCFG => {
                csr.menvcfg = legal_envcfg(csr.menvcfg, value, MENVCFG_WRITABLE);
                csr.henvcfg &= csr.menvcfg | !hypervisor::ENVIRONMENT;
            }
            HENVCFG => {
                let writable = SENVCFG_WRITABLE | hypervisor::ENVIRONMENT & csr.menvcfg;
                csr.henvcfg = legal_envcfg(csr.henvcfg, value, writable);
            }
            PMPCFG0..=PMPCFG15 => csr.pmp.set_config(number - PMPCFG0, value),
            PMPADDR0..=PMPADDR63 => csr.pmp.set_address(number - PMPADDR0, value),
            _ => return,
        }
        self.tlb.flush(None, None);
    }

    /// Whether a cache-block instruction may be executed now (Zicbom, Zicboz; `menvcfg` and `senvcfg`).
    pub fn check_cache_block(&self, operation: CacheBlock) -> Result<(), IllegalInstruction> {
        let field = match operation {
            CacheBlock::Invalidate => envcfg::CBIE,
            CacheBlock::CleanOrFlush => envcfg::CBCFE,
            CacheBlock::Zero => envcfg::CBZE,
        };
        let csr = &self.csr;
        let supervisor = csr.menvcfg & field != 0 && (!self.virtualized || csr.henvcfg & field != 0);
        let allowed = match self.privilege {
            Privilege::Machine => true,
            Privilege::Supervisor => supervisor,
            Privilege::User => supervisor && csr.senvcfg & field != 0,
        };
        if allowed { Ok(()) } else { Err(IllegalInstruction) }
    }

    /// Whether floating-point instructions may be executed (`mstatus.FS` isn't Off, and in a
    /// virtual machine `vsstatus.FS` isn't either).
    #[inline]
    #[must_use]
    pub fn float_enabled(&self) -> bool {
        self.csr.mstatus & mstatus::FS != 0 && (!self.virtualized || self.csr.vsstatus & mstatus::FS != 0)
    }

    /// The dynamic rounding mode, the field `frm` of `fcsr`: 0..=7.
    #[inline]
    #[must_use]
    pub fn rounding_mode(&self) -> u8 {
        self.csr.frm
    }

    /// Notes that an instruction wrote an `f` register: `mstatus.FS` becomes Dirty; in a virtual machine
    /// `vsstatus.FS` too.
    #[inline]
    pub fn mark_float_dirty(&mut self) {
        self.csr.mstatus |= mstatus::FS;
        if self.virtualized {
            self.csr.vsstatus |= mstatus::FS;
        }
    }

    /// Whether nothing is left for [`mark_float_dirty`](Self::mark_float_dirty) to do.
    #[must_use]
    pub fn is_float_dirty(&self) -> bool {
        let is_dirty = |status| status & mstatus::FS == mstatus::FS;
        is_dirty(self.csr.mstatus) && (!self.virtualized || is_dirty(self.csr.vsstatus))
    }

    /// Ors the exceptions that an instruction raised into `fflags` (NV 16, DZ 8, OF 4, UF 2, NX 1).
    /// `mstatus.FS` becomes Dirty if that changes them.
    #[inline]
    pub fn raise_float_flags(&mut self, flags: u8) {
        if self.csr.fflags | flags != self.csr.fflags {
            self.csr.fflags |= flags;
            self.mark_float_dirty();
        }
    }
}

#[cfg(test)]
mod tests;
