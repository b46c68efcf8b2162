//! Where the time goes that isn't spent in translated code: how often it was left, and why.

use std::fmt;

use rustc_hash::FxHashMap;
use rvisor_isa::Op;

/// Counts of one hart.
#[derive(Default)]
pub struct Profile {
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
    /// Instructions that stand across pages, or that aren't any.
    pub odd: u64,
}

impl Profile {
    /// Counts an instruction that was left to a helper.
    pub fn count(&mut self, op: Op) {
        *self.instructions.entry(op).or_default() += 1;
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "entries       {:12}", self.entries)?;
        writeln!(f, "lookups       {:12}", self.lookups)?;
        writeln!(f, "links         {:12}", self.links)?;
        writeln!(f, "load misses   {:12}", self.load_misses)?;
        writeln!(f, "store misses  {:12}", self.store_misses)?;
        writeln!(f, "atomic misses {:12}", self.atomic_misses)?;
        writeln!(f, "traps         {:12}", self.traps)?;
        writeln!(f, "odd           {:12}", self.odd)?;
        let mut instructions: Vec<_> = self.instructions.iter().collect();
        instructions.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        for (op, count) in instructions {
            writeln!(f, "{:13} {count:12}", op.mnemonic())?;
        }
        Ok(())
    }
}
