//! What a debugger needs of a hart: breakpoints and watchpoints, steps that no interrupt gets in the way of, every
//! CSR, and where the page tables lead without any access being made.
//!
//! Breakpoints go by address: guest memory isn't changed for them. An engine that keeps prepared code asks
//! [`Hart::debugs_code`] before it enters a page, and leaves pages with breakpoints to [`Hart::step_to_point`]. The
//! TLBs never hold a page with a watchpoint, so that each access to one takes the slow way, where it is seen.
//!
//! This is the monitor's, not the guest's: the triggers of the Debug specification (`tselect`) don't exist.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_isa::Privilege;
use rvisor_isa::csr::satp;
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE};

use crate::exit::{Environment, Exit};
use crate::mmu::{Access, TranslationMode};
use crate::state::Hart;

/// Which accesses meet a watchpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WatchKind {
    /// Loads.
    Read,
    /// Stores and atomics.
    Write,
    /// Both.
    Access,
}

/// Bytes to watch, by guest virtual address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Watchpoint {
    /// First byte.
    pub start: u64,
    /// Number of bytes, 1 or more.
    pub length: u64,
    /// Which accesses count.
    pub kind: WatchKind,
}

impl Watchpoint {
    /// Whether two ranges of bytes have one in common. Either may end at the last address.
    fn overlaps(&self, start: u64, length: u64) -> bool {
        let last = |start: u64, length: u64| start.saturating_add(length.max(1) - 1);
        self.start <= last(start, length) && start <= last(self.start, self.length)
    }

    fn counts(&self, access: Access) -> bool {
        match self.kind {
            WatchKind::Read => access == Access::Load,
            WatchKind::Write => access == Access::Store,
            WatchKind::Access => access != Access::Execute,
        }
    }
}

/// All points of a machine.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DebugPoints {
    /// Addresses of instructions to stop before.
    pub breakpoints: BTreeSet<u64>,
    /// Data to stop behind accesses to.
    pub watchpoints: Vec<Watchpoint>,
}

impl DebugPoints {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.breakpoints.is_empty() && self.watchpoints.is_empty()
    }
}

/// A point that a hart has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugHit {
    /// The instruction at the program counter, which isn't executed yet.
    Breakpoint,
    /// An access of the instruction that was executed last.
    Watchpoint {
        /// The watchpoint's first byte.
        start: u64,
        /// Its kind.
        kind: WatchKind,
    },
}

/// What a hart knows about its debugger.
#[derive(Default)]
pub(crate) struct Debug {
    points: Option<Arc<DebugPoints>>,
    epoch: u64,
    hit: Option<DebugHit>,
}

impl Debug {
    /// Looks whether an access meets a watchpoint. True where the page has one at all: its translation must not be
    /// remembered.
    #[inline]
    pub fn watch(&mut self, address: u64, access: Access, size: u64) -> bool {
        if self.points.is_none() { false } else { self.watch_points(address, access, size) }
    }

    #[cold]
    fn watch_points(&mut self, address: u64, access: Access, size: u64) -> bool {
        let Some(points) = &self.points else { return false };
        let met =
            points.watchpoints.iter().find(|point| point.overlaps(address, size) && point.counts(access));
        if let Some(&Watchpoint { start, kind, .. }) = met {
            self.hit.get_or_insert(DebugHit::Watchpoint { start, kind });
        }
        let page = address & !(PAGE_SIZE - 1);
        points.watchpoints.iter().any(|point| point.overlaps(page, PAGE_SIZE))
    }
}

/// One page-table entry on the way from a guest virtual to a guest physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkStep {
    /// Level of the table, 0 for the last one.
    pub level: u32,
    /// Where the entry stands.
    pub entry: GuestPhysical,
    /// The entry.
    pub pte: u64,
}

/// Where the page tables lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The entries that were read; none where addresses aren't translated.
    pub steps: Vec<WalkStep>,
    /// The guest physical address and the size of the page, where the address is mapped.
    pub physical: Option<(GuestPhysical, u64)>,
}

impl Hart {
    /// Makes these points the hart's; `epoch` is a number that has not been used for others, and not 0.
    pub fn set_debug_points(&mut self, points: Option<Arc<DebugPoints>>, epoch: u64) {
        self.debug = Debug { points: points.filter(|points| !points.is_empty()), epoch, hit: self.debug.hit };
        // Pages that are watched now may be remembered, and engines have to look again.
        self.fence_vma(None, None);
    }

    /// Which points are the hart's; 0 since it was reset.
    #[must_use]
    pub fn debug_epoch(&self) -> u64 {
        self.debug.epoch
    }

    /// Whether there are any points.
    #[must_use]
    pub fn is_debugged(&self) -> bool {
        self.debug.points.is_some()
    }

    /// Whether the page around a virtual address has a breakpoint.
    #[inline]
    #[must_use]
    pub fn debugs_code(&self, address: u64) -> bool {
        let page = address & !(PAGE_SIZE - 1);
        let last = page | (PAGE_SIZE - 1);
        self.debug
            .points
            .as_ref()
            .is_some_and(|points| points.breakpoints.range(page..=last).next().is_some())
    }

    /// Whether the page around a virtual address has a watchpoint.
    #[inline]
    #[must_use]
    pub fn debugs_data(&self, address: u64) -> bool {
        let page = address & !(PAGE_SIZE - 1);
        let has_page = |point: &Watchpoint| point.overlaps(page, PAGE_SIZE);
        self.debug.points.as_ref().is_some_and(|points| points.watchpoints.iter().any(has_page))
    }

    /// Whether the hart has come to a point. Whoever runs it leaves with [`Exit::Budget`] then.
    #[inline]
    #[must_use]
    pub fn has_debug_hit(&self) -> bool {
        self.debug.hit.is_some()
    }

    /// The point that the hart has come to, which is forgotten.
    pub fn take_debug_hit(&mut self) -> Option<DebugHit> {
        self.debug.hit.take()
    }

    /// Does what [`step`](Self::step) does, unless there is a breakpoint at the program counter.
    pub fn step_to_point<E: Environment>(&mut self, env: &E) -> Exit {
        let pc = self.pc;
        if self.debug.points.as_ref().is_some_and(|points| points.breakpoints.contains(&pc)) {
            self.debug.hit = Some(DebugHit::Breakpoint);
            return Exit::Budget;
        }
        self.step(env)
    }

    /// Does what [`run`](Self::run) does, and stops at points: one instruction after the other.
    pub fn run_to_point<E: Environment>(&mut self, env: &E, budget: u64) -> Exit {
        for _ in 0..budget {
            if env.attention() {
                break;
            }
            let exit = self.step_to_point(env);
            if exit != Exit::Budget || self.has_debug_hit() {
                return exit;
            }
        }
        Exit::Budget
    }

    /// The value of a CSR, whatever the current mode may read; `None` where the hart has none of this number.
    pub fn inspect_csr<E: Environment>(&mut self, env: &E, number: u16) -> Option<u64> {
        self.csr_value(env, number).ok()
    }

    /// Writes a CSR, whatever the current mode may write; a value that isn't legal becomes one that is.
    pub fn change_csr(&mut self, number: u16, value: u64) {
        self.set_csr(number, value);
    }

    /// Puts the hart into another privilege mode; out of a virtual machine, if it is in one.
    pub fn change_privilege(&mut self, privilege: Privilege) {
        self.privilege = privilege;
        self.virtualized = false;
        self.fence_vma(None, None);
    }

    /// Where the page tables lead from an address now, whatever the access would be allowed to do. Changes nothing.
    /// In a virtual machine, whose tables are two on top of each other, the answer is empty.
    pub fn inspect_translation<M: GuestMemory>(&self, memory: &M, address: GuestVirtual) -> Walk {
        if self.virtualized {
            return Walk { steps: Vec::new(), physical: None };
        }
        let bare = self.privilege == Privilege::Machine;
        walk_tables(memory, if bare { 0 } else { self.csr.satp }, address)
    }
}

/// Where the page tables that a value of `satp` names lead from an address. Changes nothing.
pub fn walk_tables<M: GuestMemory>(memory: &M, root: u64, address: GuestVirtual) -> Walk {
    let mode = TranslationMode::of_satp(root).unwrap_or(TranslationMode::Bare);
    let mut walk = Walk { steps: Vec::new(), physical: None };
    if mode == TranslationMode::Bare {
        walk.physical = Some((GuestPhysical(address.0), PAGE_SIZE));
        return walk;
    }
    let unused = 64 - (12 + 9 * mode.levels());
    if ((address.0 << unused) as i64 >> unused) as u64 != address.0 {
        return walk;
    }
    let mut table = (root & satp::PPN) * PAGE_SIZE;
    for level in (0..mode.levels()).rev() {
        let entry = GuestPhysical(table).offset(8 * (address.0 >> (12 + 9 * level) & 0x1ff));
        let Ok(pte) = memory.load::<u64>(entry) else { return walk };
        walk.steps.push(WalkStep { level, entry, pte });
        let next = (pte >> 10 & satp::PPN) * PAGE_SIZE;
        match pte & 0b1111 {
            // Not valid, or what only a later extension gives a meaning.
            bits if bits & 1 == 0 || bits & 0b110 == 0b100 => return walk,
            1 => table = next,
            _ => {
                let is_napot = pte >> 63 != 0 && level == 0;
                let size = if is_napot { 16 * PAGE_SIZE } else { PAGE_SIZE << (9 * level) };
                let physical = next & !(size - 1) | address.0 & (size - 1);
                walk.physical = Some((GuestPhysical(physical), size));
                return walk;
            }
        }
    }
    walk
}

#[cfg(test)]
mod tests;
