//! Extensions of the instruction set that a machine's harts have, as its guest is told: the board's, or fewer where a home
//! or its hardware hasn't got all of them.
//!
//! The H extension isn't one of these: it comes with registers of its own ([`VmConfig`](crate::VmConfig)).

use alloc::string::String;
use alloc::vec::Vec;

/// All of them but the single letters, in the canonical order of ISA strings.
pub const EXTENSIONS: [&str; 31] = [
    "zicbom",
    "zicbop",
    "zicboz",
    "zicntr",
    "zicond",
    "zicsr",
    "zifencei",
    "zihintpause",
    "zihpm",
    "zmmul",
    "zaamo",
    "zacas",
    "zalrsc",
    "zawrs",
    "zfa",
    "zfh",
    "zfhmin",
    "zca",
    "zcb",
    "zcd",
    "zba",
    "zbb",
    "zbc",
    "zbs",
    "smstateen",
    "sstc",
    "svadu",
    "svinval",
    "svnapot",
    "svpbmt",
    "svvptc",
];

/// Those of [`Extensions::portable`].
const PORTABLE: [&str; 5] = ["zicntr", "zicsr", "zifencei", "zihpm", "sstc"];

/// A set of [`EXTENSIONS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extensions(u32);

impl Extensions {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX >> (32 - EXTENSIONS.len()));

    /// Those for which `has` says so.
    pub fn of(has: impl Fn(&str) -> bool) -> Self {
        let all = EXTENSIONS.iter().enumerate();
        Self(all.filter(|(_, name)| has(name)).fold(0, |set, (index, _)| set | 1 << index))
    }

    /// What machines have on any hardware, in any home.
    #[must_use]
    pub fn portable() -> Self {
        Self::of(|name| PORTABLE.contains(&name))
    }

    /// The set that [`to_text`](Self::to_text) has written; `None` if it has a name that isn't known here.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let names: Vec<_> = core::str::from_utf8(text).ok()?.split_ascii_whitespace().collect();
        let is_known = |name: &&str| EXTENSIONS.contains(name);
        names.iter().all(is_known).then(|| Self::of(|name| names.contains(&name)))
    }

    /// The names, with spaces between them.
    #[must_use]
    pub fn to_text(self) -> String {
        self.names().collect::<Vec<_>>().join(" ")
    }

    /// Whether it has the extension of this name.
    #[must_use]
    pub fn contains(self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// The names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        EXTENSIONS
            .into_iter()
            .enumerate()
            .filter(move |(index, _)| self.0 >> index & 1 == 1)
            .map(|(_, name)| name)
    }

    /// Names of those that aren't in it.
    pub fn lacking(self) -> impl Iterator<Item = &'static str> {
        Self(Self::ALL.0 & !self.0).names()
    }

    /// The first that isn't in the other set.
    #[must_use]
    pub fn first_beyond(self, other: Self) -> Option<&'static str> {
        Self(self.0 & !other.0).names().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_what_is_in_the_set() {
        assert_eq!(Extensions::portable().to_text(), "zicntr zicsr zifencei zihpm sstc");
        for set in [Extensions::ALL, Extensions::portable(), Extensions::of(|_| false)] {
            assert_eq!(Extensions::from_text(set.to_text().as_bytes()), Some(set));
        }
        assert_eq!(Extensions::ALL.names().count(), EXTENSIONS.len());
        assert_eq!(Extensions::from_text(b"sstc xyz"), None);
        assert_eq!(Extensions::from_text(&[0xff]), None);
    }

    #[test]
    fn what_is_beyond_another_set_is_named() {
        let few = Extensions::of(|name| name == "zba" || name == "zbb");
        assert_eq!(few.first_beyond(Extensions::ALL), None);
        assert_eq!(few.first_beyond(Extensions::of(|name| name == "zba")), Some("zbb"));
        assert!(!few.lacking().any(|name| name == "zba") && few.lacking().count() == EXTENSIONS.len() - 2);
    }
}
