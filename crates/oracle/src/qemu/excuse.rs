//! The differences from QEMU that are no mistakes of the hart's, each with its reason.

use rvisor_isa::csr::{self, hstatus, mip, mstatus};
use rvisor_isa::{Extension, Instruction, Op, decode};

use super::batch::double;
use super::case::Case;
use super::guest::{AFTER, Guest};
use super::layout::field;

/// The accessed and the dirty bit of a page-table entry.
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;

/// What one side made of a case.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// Its memory.
    pub memory: &'a [u8],
    /// Where the case is.
    pub address: u64,
}

impl Side<'_> {
    fn field(self, offset: u64) -> u64 {
        double(self.memory, self.address + offset)
    }

    fn csr(self, number: u16) -> u64 {
        let place = AFTER.iter().position(|&other| other == number).unwrap_or(0);
        self.field(field::AFTER + 8 * place as u64)
    }

    /// Whether a trap went to HS-mode. `scause` is zero before.
    fn trapped_to_hypervisor(self, case: &Case) -> bool {
        case.guest.is_some() && self.csr(csr::SCAUSE) != 0
    }

    /// Whether a trap went to VS-mode, whose handler is a breakpoint.
    fn trapped_to_guest(self, case: &Case) -> bool {
        let Some(guest) = &case.guest else { return false };
        let handler = guest.csr(csr::VSTVEC) & !3;
        let epc = self.field(field::OUT_MEPC);
        self.field(field::OUT_MSTATUS) & mstatus::MPV != 0 && (handler..handler + 64).contains(&epc)
    }

    /// The cause of the first trap: M-mode's, unless its is the breakpoint of another mode's handler.
    fn cause(self, case: &Case) -> u64 {
        if self.trapped_to_hypervisor(case) {
            self.csr(csr::SCAUSE)
        } else if self.trapped_to_guest(case) {
            self.csr(csr::VSCAUSE)
        } else {
            self.field(field::OUT_X)
        }
    }
}

/// Why the two sides may trap differently, given what they put into `mcause`, if they may.
pub fn excused(case: &Case, sides: [Side; 2]) -> Option<&'static str> {
    let causes = sides.map(|side| side.cause(case));
    let Instruction { op, imm, .. } = decode(*case.instructions.last()?)?;
    if let Some(guest) = &case.guest
        && let Some(reason) = excused_with_hypervisor(case, guest, op, imm as u16, causes)
    {
        return Some(reason);
    }
    let is_amo = is_amo(case);
    match (op, causes) {
        (Op::ScW | Op::ScD, [6 | 7 | 15 | 23, 3]) => {
            Some("an sc without a reservation fails in QEMU before it looks at memory")
        }
        (_, [6, 4]) if is_amo => Some("QEMU reports a misaligned AMO as a load"),
        (_, [15, 7 | 23] | [23, 7]) if is_amo => {
            Some("QEMU checks all of an AMO's load, PMP included, before it translates the store")
        }
        (_, [7, 3]) if op.extension() == Extension::Zicbom => {
            Some("QEMU doesn't ask whether a cache block is memory")
        }
        (Op::SfenceWInval | Op::SfenceInvalIr, [2 | 22, 3]) => {
            Some("QEMU lets U-mode execute sfence.w.inval and .ir")
        }
        _ => None,
    }
}

fn is_amo(case: &Case) -> bool {
    let op = case.instructions.last().and_then(|&bits| decode(bits)).map(|instruction| instruction.op);
    op.is_some_and(|op| matches!(op.extension(), Extension::A | Extension::Zacas))
}

/// Why the two sides may differ in one place, if they may.
pub fn allowed(case: &Case, sides: [Side; 2], name: &str, hart: u64, qemu: u64) -> Option<&'static str> {
    let dirty = mstatus::FS | mstatus::SD;
    let was_dirty = case.mstatus & mstatus::FS == mstatus::FS;
    let is_block = decode(case.instructions[0])
        .is_some_and(|i| matches!(i.op.extension(), Extension::Zicbom | Extension::Zicboz));
    let is_sc =
        case.instructions.iter().filter_map(|&bits| decode(bits)).any(|i| matches!(i.op, Op::ScW | Op::ScD));
    if case.guest.is_some()
        && let Some(reason) = allowed_with_hypervisor(case, sides, name, hart, qemu)
    {
        return Some(reason);
    }
    match name {
        "entry0" | "entry1" | "second0" | "second1" if (hart ^ qemu) & !ACCESSED == 0 => {
            Some("an access that traps may have set the accessed bit of its page")
        }
        "entry0" | "entry1" | "second0" | "second1"
            if hart >> 63 != 0 && (hart ^ qemu) & !(ACCESSED | DIRTY) == 0 =>
        {
            Some("QEMU sets A and D of an entry that it then rejects for its NAPOT encoding")
        }
        "entry0" | "entry1" | "second0" | "second1" if (hart ^ qemu) & !(ACCESSED | DIRTY) == 0 && is_sc => {
            Some("an sc without a reservation fails in QEMU before it looks at memory")
        }
        "entry0" | "entry1" | "second0" | "second1"
            if (hart ^ qemu) & !(ACCESSED | DIRTY) == 0 && is_amo(case) =>
        {
            Some("QEMU checks all of an AMO's load, PMP included, before it translates the store")
        }
        "mstatus" if (hart ^ qemu) & !dirty == 0 && !was_dirty => {
            Some("mstatus.FS becomes dirty where the floating-point state might have changed")
        }
        "mtval" | "stval" | "vstval" if is_block && qemu == hart & !63 => {
            Some("QEMU reports the start of the cache block, not the address in the register")
        }
        "mtval" | "stval" | "vstval" if is_block && qemu == 0 && hart as u32 == case.instructions[0] => {
            Some("QEMU doesn't report the bits of an illegal cbo instruction")
        }
        _ => None,
    }
}

fn excused_with_hypervisor(
    case: &Case,
    guest: &Guest,
    op: Op,
    number: u16,
    causes: [u64; 2],
) -> Option<&'static str> {
    let is_supervisor_csr = op.extension() == Extension::Zicsr && number >> 8 & 3 == 1;
    match (op, causes) {
        (_, [22, 2]) if is_supervisor_csr => {
            Some("QEMU before 10.1 raises illegal instruction where VU-mode names a supervisor's CSR")
        }
        (_, [2, 22])
            if guest.virtualized && matches!(number, csr::HENVCFG | csr::HSTATEEN0 | csr::VSTIMECMP) =>
        {
            Some("QEMU raises virtual instruction for a hypervisor's CSR that HS-mode couldn't access either")
        }
        (Op::HlvxHu | Op::HlvxWu, [ours, theirs]) if ours != theirs => {
            Some("QEMU makes the accesses of hlvx as if they were fetches, PMP and faults included")
        }
        (_, [ours, theirs]) if (theirs & ours) >> 63 != 0 && theirs < ours => {
            Some("QEMU without AIA takes the interrupt of the lowest number first")
        }
        (Op::Sret, [22, 2]) => Some("QEMU raises illegal instruction for sret in VU-mode"),
        (Op::Sret, [_, 2]) if guest.virtualized && case.mstatus & mstatus::TSR != 0 => {
            Some("QEMU applies mstatus.TSR to VS-mode")
        }
        _ => None,
    }
}

fn names(case: &Case, number: u16) -> bool {
    decode(case.instructions[0])
        .is_some_and(|i| i.op.extension() == Extension::Zicsr && i.imm as u16 == number)
}

fn allowed_with_hypervisor(
    case: &Case,
    sides: [Side; 2],
    name: &str,
    hart: u64,
    qemu: u64,
) -> Option<&'static str> {
    let [ours, _] = sides;
    let guest = case.guest.as_ref()?;
    let dirty = mstatus::FS | mstatus::SD;
    let status = ours.field(field::OUT_MSTATUS);
    let difference = hart ^ qemu;
    match name {
        "vsstatus" if difference == mstatus::SD => Some("QEMU shows no vsstatus.SD"),
        _ if difference == mstatus::SD && names(case, csr::VSSTATUS) => Some("QEMU shows no vsstatus.SD"),
        "sstatus" | "vsstatus" if difference & !dirty == 0 => {
            Some("mstatus.FS becomes dirty where the floating-point state might have changed")
        }
        "mstatus" if difference & !(mstatus::GVA | dirty) == 0 && status & mstatus::MPV != 0 => {
            Some("QEMU sets mstatus.GVA for every trap from a virtual machine with a value")
        }
        "mstatus" if difference == mstatus::GVA && qemu & mstatus::GVA == 0 => {
            Some("QEMU sets mstatus.GVA for no trap from elsewhere: those of hlv and hsv")
        }
        "mtinst" | "htinst" if hart == 0 && [5, 7].contains(&ours.cause(case)) => {
            Some("zero stands for any instruction: here one whose address nothing answers")
        }
        "mtinst" | "htinst" if qemu == 0 && hart & 3 == 1 => Some("QEMU describes no instruction of Zcb"),
        _ if names(case, csr::HTINST) => Some("QEMU keeps nothing that is written to htinst"),
        "htinst" if hart == 0 || !ours.trapped_to_hypervisor(case) => {
            Some("QEMU keeps nothing that is written to htinst")
        }
        "htval" if qemu == 0 && ours.trapped_to_guest(case) => {
            Some("QEMU clears htval and hstatus.GVA on a trap to VS-mode")
        }
        "hstatus" if difference == hstatus::GVA && ours.trapped_to_guest(case) => {
            Some("QEMU clears htval and hstatus.GVA on a trap to VS-mode")
        }
        "mtinst" | "htinst" if [hart, qemu] == [0x3020, 0x3000] => {
            Some("QEMU describes a write of a page table as a read")
        }
        "second1" if difference == DIRTY && hart & DIRTY != 0 && guest.maps_tables() => Some(
            "QEMU doesn't set the dirty bit of a page of tables in which it sets the accessed bit of an entry",
        ),
        "hvip" if difference == mip::SSIP => Some("QEMU shows SSIP in hvip"),
        "hvip" | "mip" if difference == mip::VSTIP => {
            Some("QEMU has one bit for hvip.VSTIP and what vstimecmp makes pending")
        }
        _ => None,
    }
}
