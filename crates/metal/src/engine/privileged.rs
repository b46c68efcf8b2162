//! The guest's privileged state on its way to the trampoline, which serves the commonest traps by itself, and back.

use rvisor_hart::{Hart, SSTATUS_WRITABLE};
use rvisor_isa::Privilege;
use rvisor_isa::csr::{mstatus, mtvec};

use super::Outside;
use crate::copies::SLOTS;
use crate::processor::{Plain, Privileged, Shortcuts};
use crate::sequence;

/// Whether the trampoline's short ways hold: they know nothing of vectors.
pub fn may_be_lent(hart: &Hart) -> bool {
    hart.csr.mstatus & mstatus::VS == 0
}

/// The state for the trampoline. `roots` are the spaces of the guest's address space, `tag` is the
/// virtual hart's, `places` where it executes copies.
#[inline]
pub fn lend(
    hart: &mut Hart,
    outside: &Outside<'_>,
    roots: [u64; 3],
    tag: u64,
    places: (&[u64; SLOTS], u64),
    float_live: bool,
    privileged: &mut Privileged,
) {
    privileged.held = hart.is_interrupt_held_back(outside).into();
    let csr = &hart.csr;
    privileged.status = csr.mstatus & privileged.status_visible & !mstatus::FS;
    privileged.supervisor = if hart.privilege == Privilege::Supervisor { tag } else { 0 };
    privileged.vector = csr.stvec & mtvec::BASE;
    privileged.tag = tag;
    privileged.call_key = sequence::key(tag, privileged.vector, true);
    privileged.call_entry = sequence::entry_offset(privileged.vector, true);
    privileged.plain[Plain::Scratch as usize] = csr.sscratch;
    privileged.plain[Plain::Epc as usize] = csr.sepc;
    privileged.plain[Plain::Cause as usize] = csr.scause;
    privileged.plain[Plain::Value as usize] = csr.stval;
    privileged.roots = roots;
    privileged.float_live = float_live.into();
    privileged.counts = Shortcuts::default();
    let (numbers, version) = places;
    if privileged.places_version != version {
        privileged.places_version = version;
        privileged.places = *numbers;
    }
}

/// Takes the state back; `status` is the hardware's `sstatus`.
#[inline]
pub fn take_back(hart: &mut Hart, privileged: &Privileged, status: u64) {
    let csr = &mut hart.csr;
    let bits = SSTATUS_WRITABLE & !mstatus::FS;
    csr.mstatus = csr.mstatus & !SSTATUS_WRITABLE | privileged.status & bits | status & mstatus::FS;
    csr.sscratch = privileged.plain[Plain::Scratch as usize];
    csr.sepc = privileged.plain[Plain::Epc as usize];
    csr.scause = privileged.plain[Plain::Cause as usize];
    csr.stval = privileged.plain[Plain::Value as usize];
    hart.privilege = if privileged.supervisor != 0 { Privilege::Supervisor } else { Privilege::User };
    hart.context_changed();
}
