//! One look-up for all accesses off a base register that isn't written in between; before the loop, where it isn't
//! written in the loop at all.

use crate::frontend::is_branch;
use crate::ir::{Access, Check, End, Plan, SLOTS, Slot, Step, Superblock, access, effect};

/// More bytes than this too often span two pages.
const SPAN: i32 = 512;

/// Accesses that one look-up can serve.
struct Group {
    check: Check,
    members: Vec<usize>,
    /// The base holds the value that it has where the trace starts.
    is_first: bool,
}

/// Plans the look-ups.
pub fn checks(trace: &Superblock, plan: &mut Plan) {
    let mut done: Vec<Group> = Vec::new();
    let mut open: [Option<Group>; 32] = [const { None }; 32];
    let (mut written, mut has_barrier) = (0u32, false);
    for (number, node) in trace.nodes.iter().enumerate() {
        let i = &node.instruction;
        if let Some(access) = access(i)
            && i.rs1 != 0
        {
            let group = &mut open[usize::from(i.rs1)];
            if !group.as_mut().is_some_and(|group| group.add(number, i.imm, &access)) {
                done.extend(group.take());
                *group = Some(Group::new(number, i.rs1, i.imm, &access, written & 1 << i.rs1 == 0));
            }
        }
        let effect = effect(i);
        has_barrier |= effect.is_barrier;
        written |= effect.writes;
        for (register, group) in open.iter_mut().enumerate() {
            if effect.is_barrier || effect.writes & 1 << register != 0 {
                done.extend(group.take());
            }
        }
    }
    done.extend(open.into_iter().flatten());
    let may_hoist = is_loop(trace) && !has_barrier;
    done.sort_by_key(|group| group.members[0]);
    let mut slots = 0..SLOTS as Slot;
    for Group { mut check, members, is_first } in done {
        let is_hoisted = may_hoist && is_first && written & 1 << check.base == 0;
        if members.len() < 2 && !is_hoisted {
            continue;
        }
        let Some(slot) = slots.next() else { return };
        check.slot = slot;
        for &member in &members {
            plan.steps[member] = Step::Checked(slot, check.first);
        }
        if is_hoisted {
            plan.hoisted.push(check);
        } else {
            plan.steps[members[0]] = Step::Check(check);
        }
    }
}

/// Whether a trace leads back to its start.
fn is_loop(trace: &Superblock) -> bool {
    let branches_back = trace.nodes.last().is_some_and(|node| {
        is_branch(node.instruction.op) && node.offset + node.instruction.imm == trace.entry
    });
    branches_back || trace.end == End::Fall(trace.entry)
}

impl Group {
    fn new(number: usize, base: u8, displacement: i32, access: &Access, is_first: bool) -> Self {
        let last = displacement + i32::from(access.bytes);
        let check = Check { slot: 0, base, first: displacement, last, stores: access.is_store };
        Self { check, members: vec![number], is_first }
    }

    /// Adds an access, if it is close enough.
    fn add(&mut self, number: usize, displacement: i32, access: &Access) -> bool {
        let first = self.check.first.min(displacement);
        let last = self.check.last.max(displacement + i32::from(access.bytes));
        if last - first > SPAN {
            return false;
        }
        self.check.stores |= access.is_store;
        (self.check.first, self.check.last) = (first, last);
        self.members.push(number);
        true
    }
}

#[cfg(test)]
mod tests;
