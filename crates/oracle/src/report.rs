//! What a comparison found.

use std::collections::BTreeMap;
use std::fmt;

/// One place in which the two sides came to differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Register, CSR, `pc` or `privilege`.
    pub place: String,
    /// Before the instruction.
    pub before: u64,
    /// After it, on Rvisor's hart.
    pub hart: u64,
    /// After it, in the model.
    pub model: u64,
}

/// Counts and findings.
#[derive(Default, Debug)]
pub struct Report {
    /// Instructions compared in full, by mnemonic: how many retired, and how many there were.
    pub compared: BTreeMap<&'static str, (u64, u64)>,
    /// Instructions not compared, by mnemonic and what the model says it lacks.
    pub lacking: BTreeMap<(&'static str, String), u64>,
    /// Places where a difference is a choice that the architecture allows, by reason.
    pub allowed: BTreeMap<&'static str, u64>,
    /// Traps taken on both sides, by cause.
    pub traps: BTreeMap<String, u64>,
    /// Cases that differed, each a text with everything needed to reproduce it.
    pub findings: Vec<String>,
    /// Number of cases that differed, by mnemonic and place.
    pub differing: BTreeMap<(&'static str, String), u64>,
}

impl Report {
    /// How many instructions were compared.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.compared.values().map(|(_, all)| all).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Compared, by instruction, those that retired / all:")?;
        for (row, counts) in self.compared.iter().collect::<Vec<_>>().chunks(4).enumerate() {
            let separator = if row == 0 { "" } else { "\n" };
            f.write_str(separator)?;
            for (mnemonic, (retired, all)) in counts {
                write!(f, "  {mnemonic:<14}{retired:>8}/{all:<8}")?;
            }
        }
        writeln!(f, "\nTraps taken on both sides:")?;
        for (cause, count) in &self.traps {
            writeln!(f, "  {count:>10}  {cause}")?;
        }
        writeln!(f, "Differences that the architecture allows:")?;
        for (reason, count) in &self.allowed {
            writeln!(f, "  {count:>10}  {reason}")?;
        }
        writeln!(f, "Not compared, and why:")?;
        let mut reasons = BTreeMap::<&str, (u64, Vec<&str>)>::new();
        for ((mnemonic, reason), count) in &self.lacking {
            let entry = reasons.entry(reason).or_default();
            entry.0 += count;
            entry.1.push(mnemonic);
        }
        for (reason, (count, mnemonics)) in reasons {
            writeln!(f, "  {count:>10}  {reason}: {}", mnemonics.join(" "))?;
        }
        for ((mnemonic, place), count) in &self.differing {
            writeln!(f, "DIFFERENT {count:>8}  {mnemonic}: {place}")?;
        }
        for finding in &self.findings {
            writeln!(f, "\n{finding}")?;
        }
        write!(f, "{} instructions compared, {} differ", self.total(), self.differing.values().sum::<u64>())
    }
}
