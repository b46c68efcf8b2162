//! Guest registers in host registers: in a trace, those that it uses, while elsewhere the same ten are.
//!
//! Each result that is read again soon takes the host register whose guest register is needed last; that one goes to
//! the frame, if the frame doesn't have its value. A loop starts and ends with the same ones in place. Guest registers
//! that have a host register of their own live there or in the frame, so that nothing has to be exchanged where
//! the trace is left.
//!
//! The rule is Belady's (*A study of replacement algorithms for a virtual-storage computer*, 1966), applied to
//! straight-line code, where all that will be needed is known.

use super::checks::is_loop;
use crate::backend::x64::registers::{HELD_AT_HOME, home_of};
use crate::ir::{Allocation, HOSTS, Holding, Move, Plan, Step, Superblock, effect};

/// How far ahead uses are counted, and how far behind a trace's end the code after it needs its registers.
const AHEAD: usize = 64;
const AFTER_END: u16 = 24;
/// Not read again before it is written.
const NEVER: u16 = u16::MAX;
/// Bytes of code that leaves the trace, at most: for each host register that has to be put right.
const PUT_RIGHT: usize = 24;
const MOST_PUT_RIGHT: usize = 24 << 10;

/// What a node wants of registers.
#[derive(Clone, Copy, Default)]
struct Demand {
    /// A bit for each guest register.
    reads: u32,
    /// The guest register of its result, or 0.
    writes: u8,
    /// Whether everything must be in its usual place.
    at_home: bool,
    /// Whether the trace may be left there.
    leaves: bool,
}

impl Demand {
    fn touches(&self, guest: u8) -> bool {
        self.reads & 1 << guest != 0 || self.writes == guest
    }
}

/// Plans the registers of a trace, if that gains something, or `always`.
pub fn allocate(trace: &Superblock, plan: &mut Plan, always: bool) {
    let demands = demands(trace, plan);
    let is_loop = is_loop(trace);
    let future = Future::of(&demands, is_loop);
    let simulate = |start: Holding, may_move: bool| Simulation::run(&demands, &future, start, may_move);
    let unmoved = simulate(HELD_AT_HOME, false);
    let from_home = simulate(HELD_AT_HOME, true);
    let chosen = if is_loop {
        // What is in place at the end is what the next round wants.
        let steady = simulate(from_home.held, true);
        let start = from_home.held;
        let (home, steady) = (from_home.closed(HELD_AT_HOME), steady.closed(start));
        if steady.cost < home.cost { steady } else { home }
    } else {
        from_home.closed(HELD_AT_HOME)
    };
    let gain = unmoved.cost.saturating_sub(chosen.cost);
    let is_worth_it = 5 * gain >= unmoved.cost && (is_loop || gain >= 6);
    let has_moves = chosen.moves.iter().any(|moves| !moves.is_empty()) || chosen.start != HELD_AT_HOME;
    if has_moves && (always || is_worth_it) && chosen.put_right <= MOST_PUT_RIGHT {
        plan.allocation = Some(Allocation { start: chosen.start, moves: chosen.moves });
    }
}

fn demands(trace: &Superblock, plan: &Plan) -> Vec<Demand> {
    let nodes = &trace.nodes[..trace.plain()];
    let demand = |(node, step): (&crate::ir::Node, &Step)| {
        let instruction = match step {
            Step::Nothing | Step::Deferred(_) => return Demand::default(),
            Step::Instead(instruction) => instruction,
            _ => &node.instruction,
        };
        let effect = effect(instruction);
        if effect.is_barrier {
            return Demand { at_home: true, leaves: true, ..Demand::default() };
        }
        let mut reads = effect.reads;
        if matches!(step, Step::Checked(..)) {
            // The base's place isn't asked for. It may hold what is stored, though.
            reads &= !(1 << instruction.rs1);
            let stores_base = effect.writes == 0 && instruction.rs1 == instruction.rs2;
            reads |= if stores_base { effect.reads & 1 << instruction.rs1 } else { 0 };
        }
        let writes = if effect.writes == 0 { 0 } else { effect.writes.trailing_zeros() as u8 };
        Demand { reads, writes, at_home: false, leaves: effect.leaves }
    };
    nodes.iter().zip(&plan.steps).map(demand).collect()
}

/// When each register's value is read next.
struct Future {
    /// Before each node, and at the end: the number of the reading node.
    next: Vec<[u16; 32]>,
}

impl Future {
    fn of(demands: &[Demand], is_loop: bool) -> Self {
        let length = demands.len() as u16;
        let mut at_end = [NEVER; 32];
        if is_loop {
            // The first round finds what the loop's start needs.
            let first = Self::back_from(demands, at_end);
            at_end = first.next[0].map(|next| next.saturating_add(if next == NEVER { 0 } else { length }));
        } else {
            for guest in HELD_AT_HOME {
                at_end[usize::from(guest)] = length + AFTER_END;
            }
        }
        Self::back_from(demands, at_end)
    }

    fn back_from(demands: &[Demand], at_end: [u16; 32]) -> Self {
        let mut next = vec![at_end; demands.len() + 1];
        for (number, demand) in demands.iter().enumerate().rev() {
            let mut at = next[number + 1];
            at[usize::from(demand.writes)] = NEVER;
            if demand.at_home {
                at = [NEVER; 32];
                HELD_AT_HOME.iter().for_each(|&guest| at[usize::from(guest)] = number as u16);
            }
            for (guest, at) in at.iter_mut().enumerate() {
                if demand.reads & 1 << guest != 0 {
                    *at = number as u16;
                }
            }
            next[number] = at;
        }
        Self { next }
    }

    fn after(&self, number: usize, guest: u8) -> u16 {
        if guest == 0 { NEVER } else { self.next[number + 1][usize::from(guest)] }
    }
}

/// What a trace would do.
struct Simulation<'a> {
    demands: &'a [Demand],
    future: &'a Future,
    start: Holding,
    held: Holding,
    /// Hosts whose value the frame doesn't have, a bit for each.
    changed: u16,
    moves: Vec<Vec<Move>>,
    /// Accesses to the frame.
    cost: u32,
    put_right: usize,
}

impl<'a> Simulation<'a> {
    fn run(demands: &'a [Demand], future: &'a Future, start: Holding, may_move: bool) -> Self {
        let moves = vec![Vec::new(); demands.len()];
        let mut all =
            Self { demands, future, start, held: start, changed: u16::MAX, moves, cost: 0, put_right: 0 };
        for number in 0..demands.len() {
            all.node(number, may_move);
        }
        all
    }

    fn node(&mut self, number: usize, may_move: bool) {
        let demand = self.demands[number];
        if demand.at_home {
            for (host, guest) in HELD_AT_HOME.into_iter().enumerate() {
                if self.held[host] != guest {
                    self.take(number, host, guest, true);
                }
            }
            self.changed = u16::MAX;
        }
        for guest in (1..32).filter(|guest| demand.reads & 1 << guest != 0) {
            self.want(number, guest, may_move, true);
        }
        if demand.writes != 0 {
            self.want(number, demand.writes, may_move, false);
            if let Some(host) = self.held.iter().position(|&held| held == demand.writes) {
                self.changed |= 1 << host;
            }
        }
        if demand.leaves {
            let away = (0..HOSTS).filter(|&host| self.held[host] != HELD_AT_HOME[host]).count();
            self.put_right += PUT_RIGHT * away;
        }
    }

    /// A guest register is read or written: in a host register, or else in the frame.
    fn want(&mut self, number: usize, guest: u8, may_move: bool, is_read: bool) {
        let is_held = self.held.contains(&guest) || may_move && self.place(number, guest, is_read);
        self.cost += u32::from(!is_held);
    }

    /// Finds a host register for a guest register that the node reads or writes, if that is worth it.
    fn place(&mut self, number: usize, guest: u8, is_read: bool) -> bool {
        let again = self.future.after(number, guest);
        if again == NEVER {
            return false;
        }
        let demand = self.demands[number];
        let home = home_of(guest);
        let needed_last = (0..HOSTS)
            .filter(|&host| home.is_none_or(|home| home == host) && !demand.touches(self.held[host]))
            .max_by_key(|&host| self.future.after(number, self.held[host]));
        let Some(host) = needed_last else { return false };
        let until = self.future.after(number, self.held[host]);
        let wanted = if until == NEVER { 1 } else { 2 };
        if until <= again || self.uses(number, guest, until) < wanted {
            return false;
        }
        self.take(number, host, guest, is_read);
        true
    }

    /// How often a guest register is used from behind a node to another, at most so far ahead.
    fn uses(&self, number: usize, guest: u8, until: u16) -> usize {
        let until = usize::from(until).min(number + AHEAD);
        let following = self.demands.iter().cycle().skip(number + 1);
        following
            .take(until.saturating_sub(number + 1))
            .map(|demand| usize::from(demand.reads & 1 << guest != 0) + usize::from(demand.writes == guest))
            .sum()
    }

    fn take(&mut self, number: usize, host: usize, guest: u8, fills: bool) {
        self.cost += u32::from(self.changed & 1 << host != 0) + u32::from(fills);
        self.changed &= !(1 << host);
        self.held[host] = guest;
        self.moves[number].push(Move { host: host as u8, guest, fills });
    }

    /// Adds what it costs to hold something else at the end.
    fn closed(mut self, at_end: Holding) -> Self {
        for (host, (held, wanted)) in self.held.iter().zip(at_end).enumerate() {
            if *held != wanted {
                self.cost += 1 + u32::from(self.changed & 1 << host != 0);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests;
