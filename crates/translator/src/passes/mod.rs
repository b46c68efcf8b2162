//! What the optimizing tier does to a trace before it goes to the back end.
//!
//! `fuse` makes one computation of several; `extend` leaves sign extensions out; `checks` lets one look-up in the TLB serve accesses that stand apart;
//! `allocate` chooses which guest registers are in host registers.
//! Whatever a pass leaves out must be made up for where the trace is left early: see
//! [`Step::Deferred`](crate::ir::Step::Deferred).

mod allocate;
mod checks;
mod extend;
mod fuse;

use crate::ir::{Plan, Step, Superblock};

/// The plan for a trace. Registers are allocated where that gains something, or `always`.
pub fn plan(trace: &Superblock, always: bool) -> Plan {
    let mut plan = Plan { steps: vec![Step::Plain; trace.nodes.len()], ..Plan::default() };
    fuse::fuse(&trace.nodes, &mut plan);
    extend::extend(&trace.nodes, &mut plan);
    checks::checks(trace, &mut plan);
    allocate::allocate(trace, &mut plan, always);
    plan
}
