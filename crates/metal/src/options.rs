//! The monitor's command line: words that a boot loader gives it as `bootargs`.

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Hot privileged instructions are compiled: see [`crate::sequence`].
    pub sequences: bool,
    /// They are breakpoints, in copies of the guest's text: see [`crate::copies`]. Where nothing is said, the hardware decides.
    pub patching: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self { sequences: true, patching: None }
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
        assert_eq!(Options::read("", |_| panic!()), Options { sequences: true, patching: None });
        let options = Options::read("quiet sequences=off patching=on", |word| unknown.push(word));
        assert_eq!(options, Options { sequences: false, patching: Some(true) });
        assert_eq!(Options::read("patching=on patching=off", |_| panic!()).patching, Some(false));
        assert_eq!(unknown, ["quiet"]);
    }
}
