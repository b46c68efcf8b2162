//! The monitor's command line: words that a boot loader gives it as `bootargs`.

use crate::shadow::StageMode;

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Hot privileged instructions are compiled: see [`crate::sequence`].
    pub sequences: bool,
    /// They are breakpoints, in copies of the guest's text: see [`crate::copies`]. Where nothing is said, the hardware decides.
    pub patching: Option<bool>,
    /// How many levels guests' memory is translated in, where the hardware does that.
    pub stage: StageMode,
    /// How the monitor itself fails, which is to be seen.
    pub failure: Option<Failure>,
}

/// A failure of the monitor's own, on the last hart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It finds something that can't be.
    Panic,
    /// It needs more stack than there is.
    Overrun,
}

impl Default for Options {
    fn default() -> Self {
        Self { sequences: true, patching: None, stage: StageMode::Sv39x4, failure: None }
    }
}

impl Options {
    /// Reads the words; `unknown` gets those that say nothing.
    pub fn read<'a>(words: &'a str, mut unknown: impl FnMut(&'a str)) -> Self {
        let mut options = Self::default();
        for word in words.split_ascii_whitespace() {
            match word {
                "sequences=on" => options.sequences = true,
                "sequences=off" => options.sequences = false,
                "patching=on" => options.patching = Some(true),
                "patching=off" => options.patching = Some(false),
                "patching=auto" => options.patching = None,
                "stage=sv39x4" => options.stage = StageMode::Sv39x4,
                "stage=sv48x4" => options.stage = StageMode::Sv48x4,
                "fail=panic" => options.failure = Some(Failure::Panic),
                "fail=stack" => options.failure = Some(Failure::Overrun),
                _ => unknown(word),
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_and_unknown_ones_told() {
        let mut unknown = alloc::vec::Vec::new();
        assert_eq!(Options::read("", |_| panic!()), Options::default());
        let words = "quiet sequences=off patching=on stage=sv48x4 fail=stack";
        let options = Options::read(words, |word| unknown.push(word));
        let (stage, failure) = (StageMode::Sv48x4, Some(Failure::Overrun));
        assert_eq!(options, Options { sequences: false, patching: Some(true), stage, failure });
        assert_eq!(Options::read("patching=on patching=off", |_| panic!()).patching, Some(false));
        assert_eq!(unknown, ["quiet"]);
    }
}
