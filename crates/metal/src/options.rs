//! The monitor's command line: words that a boot loader gives it as `bootargs`.

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Hot privileged instructions are compiled: see [`crate::sequence`].
    pub sequences: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { sequences: true }
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
        assert!(Options::read("", |_| panic!()).sequences);
        assert!(!Options::read("quiet sequences=off", |word| unknown.push(word)).sequences);
        assert_eq!(unknown, ["quiet"]);
    }
}
