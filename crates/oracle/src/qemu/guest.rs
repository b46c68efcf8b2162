//! What the hypervisor extension adds to a case: the state of a virtual machine, its page tables, and CSR
//! instructions that the program survives.

use rvisor_isa::csr::*;
use rvisor_isa::{Extension, Instruction, Op, Privilege, encode};

use super::layout::*;
use crate::random::Random;
use crate::world::RAM;

/// CSRs that are set before a case, in this order.
pub const BEFORE: [u16; 26] = [
    MEDELEG, MIE, MCOUNTEREN, SCOUNTEREN, MSTATEEN0, STVEC, SEPC, HSTATUS, HEDELEG, HIDELEG, HCOUNTEREN,
    HENVCFG, HSTATEEN0, HTIMEDELTA, HGATP, HTVAL, HTINST, VSSTATUS, VSTVEC, VSSCRATCH, VSEPC, VSCAUSE,
    VSTVAL, VSTIMECMP, VSATP, HVIP,
];

/// CSRs that are looked at after a case.
pub const AFTER: [u16; 31] = [
    MTVAL2, MTINST, MIE, MIP, SSTATUS, STVEC, SEPC, SCAUSE, STVAL, SATP, SCOUNTEREN, HSTATUS, HEDELEG,
    HIDELEG, HIE, HVIP, HCOUNTEREN, HENVCFG, HSTATEEN0, HTIMEDELTA, HGATP, HTVAL, HTINST, VSSTATUS, VSTVEC,
    VSSCRATCH, VSEPC, VSCAUSE, VSTVAL, VSTIMECMP, VSATP,
];

/// CSRs that instructions name. `stimecmp`, `sscratch` and what M-mode needs are the program's.
const NAMED: &[u16] = &[
    SSTATUS, SIE, STVEC, SSCRATCH, SEPC, SCAUSE, STVAL, SIP, SATP, SCOUNTEREN, SENVCFG, STIMECMP, HSTATUS,
    HEDELEG, HIDELEG, HIE, HTIMEDELTA, HCOUNTEREN, HGEIE, HENVCFG, HTVAL, HIP, HVIP, HTINST, HGATP, HGEIP,
    VSSTATUS, VSIE, VSTVEC, VSSCRATCH, VSEPC, VSCAUSE, VSTVAL, VSIP, VSTIMECMP, VSATP, HSTATEEN0, SSTATEEN0,
    CYCLE, TIME, INSTRET, MTVAL2, MTINST, MIP, MIE, MEPC, MISA, MHARTID, MCYCLE,
];

/// The part of `hstatus` that can be written, and what else it always has.
const HSTATUS_FIELDS: u64 =
    hstatus::GVA | hstatus::SPV | hstatus::SPVP | hstatus::HU | hstatus::VTVM | hstatus::VTW | hstatus::VTSR;
const HSTATUS_FIXED: u64 = XLEN_64 << hstatus::VSXL_SHIFT;
/// The same of `vsstatus`.
const VSSTATUS_FIELDS: u64 =
    mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::FS | mstatus::SUM | mstatus::MXR;
const VSSTATUS_FIXED: u64 = XLEN_64 << mstatus::UXL_SHIFT;
/// What is an exception of either, but a breakpoint, which is how cases end.
const DELEGABLE: u64 = 0xb1f7;
const FOR_HYPERVISOR: u64 = 0xf0_0600;
const VIRTUAL_INTERRUPTS: u64 = mip::VSSIP | mip::VSTIP | mip::VSEIP;
const SUPERVISOR_INTERRUPTS: u64 = mip::SSIP | mip::STIP | mip::SEIP;
/// Counters that both sides have.
const COUNTERS: u64 = counters::CY | counters::TM | counters::IR;

/// Where the entries are of which the second maps the page of tables behind [`TABLE_WINDOW`].
const TABLE_ENTRIES: u64 = SECOND_TABLES + 0xd000 + 8 * 510;

/// What a case has besides.
#[derive(Clone)]
pub struct Guest {
    /// Whether the case runs in VS- or VU-mode.
    pub virtualized: bool,
    /// Values of [`BEFORE`].
    pub csrs: [u64; BEFORE.len()],
    /// Where two entries of the second stage's tables are that the case sets up for itself.
    pub entries_at: u64,
    /// Their values.
    pub entries: [u64; 2],
}

impl Guest {
    /// Draws the state of a virtual machine, and whether the case is in it.
    pub fn random(random: &mut Random, mode: Privilege, environment: u64) -> Self {
        let mut csrs = BEFORE.map(|number| legal(random, number));
        // `henvcfg` has what `menvcfg` lets through.
        let through = envcfg::ADUE | envcfg::PBMTE | envcfg::STCE;
        csrs[place(HENVCFG)] &= environment | !through;
        // QEMU has one VSTIP for `hvip` and the timer, and lets nobody write it in M-mode while there may be a timer.
        if environment & envcfg::STCE != 0 {
            csrs[place(HVIP)] &= !mip::VSTIP;
        }
        if csrs[place(HENVCFG)] & envcfg::STCE == 0 {
            csrs[place(VSTIMECMP)] = u64::MAX;
        }
        Self {
            virtualized: mode != Privilege::Machine && random.chance(60),
            csrs,
            entries_at: NO_ENTRIES,
            entries: [0; 2],
        }
    }

    /// The value of one of [`BEFORE`].
    pub fn csr(&self, number: u16) -> u64 {
        self.csrs[place(number)]
    }

    /// Makes the first stage's tables obey `menvcfg` alone: QEMU asks `henvcfg` only while V is 1, not for `hlv`.
    pub fn obey(&mut self, environment: u64) {
        const TABLES: u64 = envcfg::ADUE | envcfg::PBMTE;
        let henvcfg = &mut self.csrs[place(HENVCFG)];
        *henvcfg = *henvcfg & !TABLES | environment & TABLES;
    }

    /// Whether the first stage translates.
    pub fn translates(&self) -> bool {
        self.csr(VSATP) != 0
    }

    /// A guest physical address whose entry in the second stage, of the last level or the one above, is drawn for
    /// this case, and the one behind it too; and the memory to look at afterwards.
    pub fn window(&mut self, random: &mut Random) -> (u64, u64) {
        if random.chance(70) {
            let offset = random.below(511 << 12);
            let page = offset >> 12;
            self.entries_at = SECOND_TABLES + 0xd000 + 8 * page;
            self.entries = [0, 1].map(|next| second_entry(random, DATA + (((page + next) % 16) << 12)));
            (WINDOW + offset, DATA + ((page % 16) << 12) + (offset & 0xfc0))
        } else {
            let offset = (random.below(500) + 1) << 21 | random.below(1 << 21);
            self.entries_at = SECOND_TABLES + 0xc000 + 8 * (offset >> 21);
            self.entries = [0, 1].map(|_| second_entry(random, SUPER_DATA));
            (WINDOW + offset, SUPER_DATA + (offset & 0x1f_ffc0))
        }
    }

    /// Whether the second entry is that of a page of tables.
    pub fn maps_tables(&self) -> bool {
        self.entries_at == TABLE_ENTRIES
    }

    /// Draws the second stage's entry for the page of tables behind [`TABLE_WINDOW`].
    pub fn map_tables(&mut self, random: &mut Random) {
        self.entries_at = TABLE_ENTRIES;
        self.entries = [0, second_entry(random, TABLES + 0x3000)];
    }
}

fn place(number: u16) -> usize {
    BEFORE.iter().position(|&other| other == number).unwrap_or(0)
}

/// A leaf of the second stage that is often legal.
fn second_entry(random: &mut Random, physical: u64) -> u64 {
    let user = if random.chance(85) { 0x10 } else { 0 };
    let mostly = if random.chance(60) { 0x0e } else { 0 };
    super::case::entry(random, physical) | user | mostly
}

/// A value that a CSR can hold, and that the program survives.
fn legal(random: &mut Random, number: u16) -> u64 {
    let bits = random.bits();
    let landing = LANDING + 0x1000 + (random.below(0x1000) << 2);
    let sometimes = |random: &mut Random, mask: u64| if random.chance(50) { bits & mask } else { 0 };
    match number {
        MEDELEG => sometimes(random, DELEGABLE | FOR_HYPERVISOR),
        HEDELEG => sometimes(random, DELEGABLE & !FOR_HYPERVISOR),
        HIDELEG => bits & VIRTUAL_INTERRUPTS,
        HVIP => {
            if random.chance(20) {
                bits & VIRTUAL_INTERRUPTS
            } else {
                0
            }
        }
        MIE | HIE => {
            if random.chance(40) {
                bits & VIRTUAL_INTERRUPTS
            } else {
                0
            }
        }
        // A bit of another interrupt, written to `vsip`, sets VSSIP in QEMU.
        SIE | SIP | VSIE | VSIP => bits & SUPERVISOR_INTERRUPTS,
        STVEC | VSTVEC => landing | bits & 1,
        SEPC | VSEPC => match random.below(3) {
            0 => landing - RAM + USER_ALIAS,
            _ => landing,
        },
        MCOUNTEREN | SCOUNTEREN | HCOUNTEREN => bits & COUNTERS,
        MSTATEEN0 | HSTATEEN0 => bits & (stateen::SE0 | stateen::ENVCFG),
        HSTATUS => bits & HSTATUS_FIELDS | HSTATUS_FIXED,
        HENVCFG => {
            bits & (envcfg::ADUE | envcfg::PBMTE | envcfg::STCE | envcfg::CBCFE | envcfg::CBZE | envcfg::FIOM)
                | random.pick(&[0, 1, 3]) << envcfg::CBIE_SHIFT
        }
        // QEMU ignores what is written to `htinst`.
        HTIMEDELTA | HTINST => 0,
        VSSTATUS | SSTATUS => {
            let fs = random.pick(&[3, 3, 3, 3, 0, 1, 2]) << mstatus::FS_SHIFT;
            bits & VSSTATUS_FIELDS & !mstatus::FS | fs | VSSTATUS_FIXED
        }
        SATP | VSATP => {
            let mode = random.pick(&[satp::BARE, satp::SV39, satp::SV39, satp::SV48, satp::SV57]);
            let root = match mode {
                satp::BARE => return 0,
                satp::SV48 => TABLES + 0x1000,
                satp::SV57 => TABLES + 0x2000,
                _ => TABLES,
            };
            mode << satp::MODE_SHIFT | random.below(4) << satp::ASID_SHIFT | root >> 12
        }
        HGATP => {
            let mode = random.pick(&[satp::BARE, satp::SV39, satp::SV39, satp::SV48, satp::SV57]);
            let root = match mode {
                satp::BARE => return 0,
                satp::SV48 => SECOND_TABLES + 0x4000,
                satp::SV57 => SECOND_TABLES + 0x8000,
                _ => SECOND_TABLES,
            };
            mode << satp::MODE_SHIFT | random.below(4) << hgatp::VMID_SHIFT | root >> 12
        }
        // In the past, or never.
        VSTIMECMP | STIMECMP => random.pick(&[0, u64::MAX, u64::MAX]),
        SENVCFG => {
            bits & (envcfg::CBCFE | envcfg::CBZE | envcfg::FIOM)
                | random.pick(&[0, 1, 3]) << envcfg::CBIE_SHIFT
        }
        _ => random.value() & !1,
    }
}

/// Draws a CSR instruction; `x` is made to hold what it writes.
pub fn csr_instruction(random: &mut Random, x: &mut [u64; 32]) -> u32 {
    let number = random.pick(NAMED);
    let only_read = is_read_only(number) || matches!(number, MIP | MIE | MEPC | MISA | MCYCLE | STIMECMP);
    let op = random.pick(&[Op::Csrrw, Op::Csrrs, Op::Csrrc, Op::Csrrsi]);
    let op = if only_read { random.pick(&[Op::Csrrs, Op::Csrrsi]) } else { op };
    let writes = !only_read && random.chance(70);
    // What isn't replaced as a whole might become something that nobody survives.
    let is_whole = !matches!(
        number,
        SSCRATCH
            | SCAUSE
            | STVAL
            | HIE
            | HIP
            | HVIP
            | VSSCRATCH
            | VSCAUSE
            | VSTVAL
            | HTIMEDELTA
            | HTVAL
            | MTVAL2
            | MTINST
            | HIDELEG
    );
    let op = if writes && is_whole { Op::Csrrw } else { op };
    let op = if !writes && op == Op::Csrrw { Op::Csrrs } else { op };
    let rs1 = if writes || op == Op::Csrrw { random.below(31) as u8 + 1 } else { 0 };
    // Their values differ from run to run; QEMU keeps what has no meaning in `sstateen0`.
    let is_counter = matches!(number, CYCLE | TIME | INSTRET | MCYCLE | SSTATEEN0);
    let rd = if is_counter { 0 } else { random.below(32) as u8 };
    x[usize::from(rs1)] = legal(random, number);
    x[0] = 0;
    let instruction = Instruction { rd, rs1, imm: number.into(), ..Instruction::new(op, 4) };
    encode(&instruction).unwrap_or(0)
}

/// Whether an instruction is one that only cases with the extension draw.
pub fn is_of_hypervisor(op: Op) -> bool {
    op.extension() == Extension::H || matches!(op, Op::HinvalVvma | Op::HinvalGvma)
}

/// The second stage's tables: identity for all of RAM, and the window that cases fill.
pub fn second_tables() -> Vec<[u64; 512]> {
    const VALID: u64 = 1;
    const RWXUAD: u64 = 0xde;
    let pointer = |page: u64| (SECOND_TABLES + 0x1000 * page) >> 12 << 10 | VALID;
    let mut tables = vec![[0; 512]; SECOND_TABLE_PAGES as usize];
    tables[0][2] = RAM >> 12 << 10 | VALID | RWXUAD;
    tables[0][5] = pointer(12);
    tables[4][0] = pointer(0);
    tables[8][0] = pointer(4);
    tables[12][0] = pointer(13);
    tables
}
