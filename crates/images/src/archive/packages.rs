//! The archive's index of binary packages (`Packages`), and relations between packages (Debian Policy,
//! chapter 7 "Declaring relationships between packages").

use std::cmp::Ordering;
use std::collections::HashMap;

use super::control::{Stanza, stanzas};
use super::version;
use crate::error::{Error, Result};

/// One package of the index: the fields that installing it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// `Package`.
    pub name: String,
    /// `Version`.
    pub version: String,
    /// `Essential: yes`.
    pub essential: bool,
    /// `Priority`.
    pub priority: Priority,
    /// `Pre-Depends` and `Depends`.
    pub depends: Vec<Vec<Relation>>,
    /// `Conflicts` and `Breaks`.
    pub conflicts: Vec<Vec<Relation>>,
    /// `Provides`.
    pub provides: Vec<Relation>,
    /// `Filename`, below the mirror's root.
    pub filename: String,
    /// `Size` of the file in bytes.
    pub size: u64,
    /// `SHA256` of the file, lowercase hexadecimal.
    pub sha256: String,
}

/// How much a package belongs to every system (Debian Policy, 2.5 "Priorities").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// `required`.
    Required,
    /// `important`.
    Important,
    /// `standard`.
    Standard,
    /// `optional` and everything else.
    #[default]
    Optional,
}

/// One alternative of a dependency: a package name, perhaps with a bound on its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Name of a real or virtual package.
    pub name: String,
    /// Comparison and version.
    pub bound: Option<(Comparison, String)>,
}

/// A comparison in a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

impl Relation {
    /// Whether a package of this name in `version` is meant.
    #[must_use]
    pub fn admits(&self, version: &str) -> bool {
        self.bound
            .as_ref()
            .is_none_or(|(comparison, bound)| comparison.holds(version::compare(version, bound)))
    }

    /// Whether `package` is meant, by its own name or by one that it provides. A bound is only met by a
    /// provided name that has a version (`Provides: name (= version)`).
    #[must_use]
    pub fn is_met_by(&self, package: &Package) -> bool {
        if package.name == self.name {
            return self.admits(&package.version);
        }
        package.provides.iter().filter(|provided| provided.name == self.name).any(|provided| {
            match (&self.bound, &provided.bound) {
                (None, _) => true,
                (Some(_), Some((_, version))) => self.admits(version),
                (Some(_), None) => false,
            }
        })
    }

    /// Reads `name[:qualifier] [(comparison version)]`. `None` for another architecture's package or nonsense.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, rest) = text.split_at(text.find([' ', '(', '[', '<']).unwrap_or(text.len()));
        let (name, qualifier) = name.split_once(':').unwrap_or((name, "any"));
        if name.is_empty() || !matches!(qualifier, "any" | "native" | "riscv64") {
            return None;
        }
        let rest = rest.trim();
        let bound = match rest.strip_prefix('(') {
            None if rest.is_empty() => None,
            None => return None,
            Some(inner) => {
                let inner = inner.strip_suffix(')')?.trim();
                let at = inner.find(|c| !matches!(c, '<' | '=' | '>'))?;
                let comparison = match &inner[..at] {
                    "<<" => Comparison::Earlier,
                    "<=" | "<" => Comparison::EarlierOrEqual,
                    "=" => Comparison::Equal,
                    ">=" | ">" => Comparison::LaterOrEqual,
                    ">>" => Comparison::Later,
                    _ => return None,
                };
                Some((comparison, inner[at..].trim().to_owned()))
            }
        };
        Some(Self { name: name.to_owned(), bound })
    }

    /// Reads a relation field: groups separated by commas, each of alternatives separated by bars. An
    /// alternative that can't be met on this architecture is left out; a group may end up empty.
    #[must_use]
    pub fn parse_field(field: &str) -> Vec<Vec<Self>> {
        let groups = field.split(',').filter(|group| !group.trim().is_empty());
        groups.map(|group| group.split('|').filter_map(Self::parse).collect()).collect()
    }
}

impl Package {
    fn parse(stanza: Stanza<'_>) -> std::result::Result<Self, String> {
        let mut package = Self::default();
        for (name, value) in stanza.fields() {
            match name {
                "Package" => package.name = value.to_owned(),
                "Version" => package.version = value.to_owned(),
                "Essential" => package.essential = value == "yes",
                "Priority" => {
                    package.priority = match value {
                        "required" => Priority::Required,
                        "important" => Priority::Important,
                        "standard" => Priority::Standard,
                        _ => Priority::Optional,
                    }
                }
                "Pre-Depends" | "Depends" => package.depends.extend(Relation::parse_field(value)),
                "Conflicts" | "Breaks" => package.conflicts.extend(Relation::parse_field(value)),
                "Provides" => package.provides = Relation::parse_field(value).into_iter().flatten().collect(),
                "Filename" => package.filename = value.to_owned(),
                "Size" => package.size = value.parse().map_err(|_| format!("Size: {value}"))?,
                "SHA256" => package.sha256 = value.to_ascii_lowercase(),
                _ => {}
            }
        }
        let safe_path = package.filename.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if package.name.is_empty() || package.version.is_empty() || !safe_path {
            return Err(format!("package {:?} lacks a name, a version or a sound Filename", package.name));
        }
        if !is_sha256(&package.sha256) {
            return Err(format!("package {} has no SHA256", package.name));
        }
        Ok(package)
    }
}

/// Whether `text` is a SHA-256 digest in lowercase hexadecimal.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// The packages of an archive, newest version of each, and who provides what.
#[derive(Debug, Default)]
pub struct Index {
    packages: Vec<Package>,
    by_name: HashMap<String, usize>,
    providers: HashMap<String, Vec<usize>>,
}

impl Index {
    /// Reads a `Packages` file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut index = Self::default();
        for stanza in stanzas(text) {
            let package = Package::parse(stanza).map_err(|reason| Error::malformed("Packages", reason))?;
            index.add(package);
        }
        for (position, package) in index.packages.iter().enumerate() {
            for provided in &package.provides {
                index.providers.entry(provided.name.clone()).or_default().push(position);
            }
        }
        Ok(index)
    }

    fn add(&mut self, package: Package) {
        match self.by_name.get(&package.name) {
            Some(&at) if version::compare(&self.packages[at].version, &package.version).is_lt() => {
                self.packages[at] = package;
            }
            Some(_) => {}
            None => {
                self.by_name.insert(package.name.clone(), self.packages.len());
                self.packages.push(package);
            }
        }
    }

    /// The package of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Package> {
        self.by_name.get(name).map(|&at| &self.packages[at])
    }

    /// Every package.
    pub fn iter(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// The packages that provide a virtual name, in the index's order.
    pub fn providers(&self, name: &str) -> impl Iterator<Item = &Package> {
        self.providers.get(name).into_iter().flatten().map(|&at| &self.packages[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(text: &str) -> Relation {
        Relation::parse(text).unwrap()
    }

    #[test]
    fn relations_are_read_with_qualifier_and_bound() {
        assert_eq!(relation("a:any").name, "a");
        assert_eq!(relation("a (>= 1.0-1)").bound, Some((Comparison::LaterOrEqual, "1.0-1".to_owned())));
        assert_eq!(relation("a(<<2)").bound, Some((Comparison::Earlier, "2".to_owned())));
        assert_eq!(Relation::parse("a:amd64"), None);
        assert_eq!(Relation::parse("a (~ 1)"), None);
    }

    #[test]
    fn field_keeps_groups_whose_alternatives_are_all_foreign() {
        let groups = Relation::parse_field("a | b (= 1), c:armhf,");
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].len(), 2);
        assert!(groups[1].is_empty());
    }

    #[test]
    fn virtual_package_meets_a_bound_only_with_a_version() {
        let package = Package {
            name: "real".into(),
            version: "9".into(),
            provides: vec![relation("plain"), relation("versioned (= 2)")],
            ..Package::default()
        };
        assert!(relation("plain").is_met_by(&package));
        assert!(!relation("plain (>= 1)").is_met_by(&package));
        assert!(relation("versioned (>= 1)").is_met_by(&package));
        assert!(!relation("versioned (>= 3)").is_met_by(&package));
        assert!(relation("real (>> 8)").is_met_by(&package));
    }

    fn entry(name: &str, version: &str, more: &str) -> String {
        let digest = "0".repeat(64);
        format!(
            "Package: {name}\nVersion: {version}\n{more}Filename: p/{name}.deb\nSize: 1\nSHA256: {digest}\n\n"
        )
    }

    #[test]
    fn index_keeps_the_newest_version() {
        let text = [entry("a", "1.9", ""), entry("a", "1.10", ""), entry("a", "1.2", "")].concat();
        assert_eq!(Index::parse(&text).unwrap().get("a").unwrap().version, "1.10");
    }

    #[test]
    fn stanza_without_digest_or_with_escaping_path_returns_error() {
        assert!(Index::parse("Package: a\nVersion: 1\nFilename: a.deb\nSize: 1\n").is_err());
        let escaping = entry("a", "1", "").replace("p/a.deb", "../a.deb");
        assert!(Index::parse(&escaping).is_err());
    }
}
