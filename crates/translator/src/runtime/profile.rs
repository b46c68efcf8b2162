//! Where the time goes that isn't spent in translated code: how often it was left, why, and for how long.

use std::fmt;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use rvisor_isa::Op;

/// What the monitor does while translated code waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Making code.
    Translation,
    /// Finding and linking code.
    Linking,
    /// Loads, stores and atomics that the TLB doesn't answer.
    Memory,
    /// System instructions.
    System,
    /// Instructions left to the interpreter.
    Interpretation,
}

impl Part {
    const ALL: [(Self, &str); 5] = [
        (Self::Translation, "translation"),
        (Self::Linking, "finding and linking code"),
        (Self::Memory, "TLB misses"),
        (Self::System, "system instructions"),
        (Self::Interpretation, "interpreted instructions"),
    ];
}

/// When something started.
pub struct Start {
    moment: Instant,
    /// What was counted by then.
    counted: Duration,
}

/// Counts of one hart, or of several.
#[derive(Clone, Default)]
pub struct Profile {
    /// Whether time is measured, which costs some itself.
    pub is_timed: bool,
    times: [Duration; Part::ALL.len()],
    /// From entering translated code to leaving it, helpers included.
    pub inside: Duration,
    /// Entries from the loop around translated code.
    pub entries: u64,
    /// Jumps whose target the jump cache didn't have.
    pub lookups: u64,
    /// Jumps linked, or tried to.
    pub links: u64,
    /// Loads that the TLB didn't answer.
    pub load_misses: u64,
    /// Stores that the TLB didn't answer.
    pub store_misses: u64,
    /// Atomics that the TLB didn't answer.
    pub atomic_misses: u64,
    /// Traps taken in the middle of a block.
    pub traps: u64,
    /// Instructions left to helpers, by operation.
    pub instructions: FxHashMap<Op, u64>,
}

impl Profile {
    /// Nothing counted yet.
    pub fn new(is_timed: bool) -> Self {
        Self { is_timed, ..Self::default() }
    }

    /// Counts an instruction that was left to a helper.
    pub fn count(&mut self, op: Op) {
        if self.is_timed {
            *self.instructions.entry(op).or_default() += 1;
        }
    }

    /// The moment, if time is measured.
    pub fn start(&self) -> Option<Start> {
        self.is_timed.then(|| Start { moment: Instant::now(), counted: self.times.iter().sum() })
    }

    /// Adds the time since `start`, but for what was added meanwhile.
    pub fn stop(&mut self, part: Part, start: Option<Start>) {
        if let Some(Start { moment, counted }) = start {
            let inner = self.times.iter().sum::<Duration>().saturating_sub(counted);
            self.times[part as usize] += moment.elapsed().saturating_sub(inner);
        }
    }

    /// Adds another hart's counts.
    pub fn add(&mut self, other: &Self) {
        for (time, more) in self.times.iter_mut().zip(other.times) {
            *time += more;
        }
        self.inside += other.inside;
        self.entries += other.entries;
        self.lookups += other.lookups;
        self.links += other.links;
        self.load_misses += other.load_misses;
        self.store_misses += other.store_misses;
        self.atomic_misses += other.atomic_misses;
        self.traps += other.traps;
        for (op, count) in &other.instructions {
            *self.instructions.entry(*op).or_default() += count;
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let helpers: Duration = self.times.iter().sum();
        let code = self.inside.saturating_sub(helpers);
        writeln!(f, "{:10.3} s  translated code", code.as_secs_f64())?;
        for ((_, name), time) in Part::ALL.iter().zip(self.times) {
            writeln!(f, "{:10.3} s  {name}", time.as_secs_f64())?;
        }
        for (count, name) in [
            (self.entries, "entries from the monitor"),
            (self.lookups, "jumps that the jump cache didn't know"),
            (self.links, "jumps linked"),
            (self.load_misses, "loads that missed the TLB"),
            (self.store_misses, "stores that missed the TLB"),
            (self.atomic_misses, "atomics that missed the TLB"),
            (self.traps, "traps of loads and stores"),
        ] {
            writeln!(f, "{count:12}  {name}")?;
        }
        let mut instructions: Vec<_> = self.instructions.iter().collect();
        instructions.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        for (op, count) in instructions {
            writeln!(f, "{count:12}  {} by a helper", op.mnemonic())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_harts_add_up_and_time_is_taken_only_if_asked() {
        let mut profile = Profile::default();
        profile.count(Op::Sret);
        profile.stop(Part::System, profile.start());
        assert!(profile.instructions.is_empty() && profile.times[Part::System as usize].is_zero());
        let mut timed = Profile { is_timed: true, lookups: 3, ..Profile::default() };
        timed.count(Op::Sret);
        profile.add(&timed);
        profile.add(&timed);
        assert_eq!((profile.lookups, profile.instructions[&Op::Sret]), (6, 2));
    }
}
