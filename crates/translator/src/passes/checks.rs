//! One look-up for all accesses off a base register, which may be moved or advanced by constants in between; before
//! the loop, where it isn't written in the loop at all.

use rvisor_isa::{Instruction, Op};

use crate::frontend::is_branch;
use crate::ir::{Access, Check, End, Plan, SLOTS, Slot, Step, Superblock, access, effect};

/// More bytes than this too often span two pages.
const SPAN: i32 = 512;

/// What a register holds: a value that the pass has given a number, plus a constant.
#[derive(Clone, Copy)]
struct Value {
    number: usize,
    offset: i32,
}

/// Accesses that one look-up can serve, all off the same value.
struct Group {
    /// Displacements are from the value.
    check: Check,
    /// What the base register of the first access holds beyond the value.
    ahead: i32,
    /// Node and displacement.
    members: Vec<(usize, i32)>,
}

/// Plans the look-ups.
pub fn checks(trace: &Superblock, plan: &mut Plan) {
    // Where the trace starts, the value of each register has the register's number.
    let mut held: [Value; 32] = std::array::from_fn(|number| Value { number, offset: 0 });
    let mut groups: Vec<Group> = Vec::new();
    // The group of each value that still takes members.
    let mut open: Vec<Option<usize>> = vec![None; 32];
    let (mut written, mut has_barrier) = (0u32, false);
    for (number, node) in trace.nodes.iter().enumerate() {
        let i = &node.instruction;
        if let Some(access) = access(i)
            && i.rs1 != 0
        {
            let Value { number: value, offset } = held[usize::from(i.rs1)];
            let displacement = offset.wrapping_add(i.imm);
            if !open[value].is_some_and(|group| groups[group].add(number, displacement, &access)) {
                open[value] = Some(groups.len());
                groups.push(Group::new(number, i.rs1, offset, displacement, &access));
            }
        }
        let effect = effect(i);
        has_barrier |= effect.is_barrier;
        written |= effect.writes;
        if effect.is_barrier {
            open.fill(None);
        }
        let derived = derived(i, &held);
        for (_, held) in
            held.iter_mut().enumerate().filter(|(register, _)| effect.writes & 1 << register != 0)
        {
            *held = derived.unwrap_or(Value { number: open.len(), offset: 0 });
            open.resize(open.len().max(held.number + 1), None);
        }
    }
    let may_hoist = is_loop(trace) && !has_barrier;
    let mut slots = 0..SLOTS as Slot;
    for Group { mut check, ahead, members } in groups {
        let is_hoisted = may_hoist && written & 1 << check.base == 0;
        if members.len() < 2 && !is_hoisted {
            continue;
        }
        let Some(slot) = slots.next() else { return };
        check.slot = slot;
        let start = check.first;
        check.first -= ahead;
        check.last -= ahead;
        for &(member, displacement) in &members {
            plan.steps[member] = Step::Checked(slot, displacement - start);
        }
        if is_hoisted {
            plan.hoisted.push(check);
        } else {
            plan.steps[members[0].0] = Step::Check(check, members[0].1 - start);
        }
    }
}

/// What an instruction leaves in its register, if that is what another holds plus a constant.
fn derived(i: &Instruction, held: &[Value; 32]) -> Option<Value> {
    /// Further than this no access shares a look-up.
    const FAR: i32 = 1 << 20;
    let (from, offset) = match i.op {
        Op::Addi => (i.rs1, i.imm),
        Op::Add if i.rs1 == 0 => (i.rs2, 0),
        Op::Add if i.rs2 == 0 => (i.rs1, 0),
        _ => return None,
    };
    let Value { number, offset: before } = held[usize::from(from)];
    let offset = before + offset;
    (from != 0 && offset.abs() < FAR).then_some(Value { number, offset })
}

/// Whether a trace leads back to its start.
pub(super) fn is_loop(trace: &Superblock) -> bool {
    let branches_back = trace.nodes.last().is_some_and(|node| {
        is_branch(node.instruction.op) && node.offset + node.instruction.imm == trace.entry
    });
    branches_back || trace.end == End::Fall(trace.entry)
}

impl Group {
    fn new(number: usize, base: u8, ahead: i32, displacement: i32, access: &Access) -> Self {
        let last = displacement + i32::from(access.bytes);
        let check = Check { slot: 0, base, first: displacement, last, stores: access.is_store };
        Self { check, ahead, members: vec![(number, displacement)] }
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
        self.members.push((number, displacement));
        true
    }
}

#[cfg(test)]
mod tests;
