//! Recipes: what goes into an image, in TOML. The book's chapter "Recipes" is the reference.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, IoContext, Result};
use crate::hex;
use sha2::{Digest, Sha256};

/// The recipes that Rvisor carries.
const BUILT_IN: [(&str, &str); 2] = [
    ("debian", include_str!("../recipes/debian.toml")),
    ("busybox", include_str!("../recipes/busybox.toml")),
];

/// An image to be built.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What the system is.
    pub base: Base,
    /// Name of the package that has the kernel or depends on it.
    #[serde(default = "default_kernel")]
    pub kernel: String,
    /// Size of the disk.
    #[serde(default = "default_size")]
    pub size: Size,
    /// Memory that the image's machines need at least.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// The machine's name for itself.
    #[serde(default = "default_hostname")]
    pub hostname: String,
    /// Names of packages beside the essential and required ones.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Which of the packages' files are left out: patterns for dpkg, the last that matches decides.
    #[serde(default)]
    pub paths: Vec<PathRule>,
    /// Files that are added; they are there before packages are configured.
    #[serde(default, rename = "file")]
    pub files: Vec<FileEntry>,
    /// Shell commands run as root in the guest, after the packages have been configured.
    #[serde(default)]
    pub commands: Vec<String>,
    /// SHA-256 of the recipe's text.
    #[serde(skip)]
    pub digest: String,
    /// Directory that relative paths of the host start from.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// What an image's system is, and the Debian suite that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Base {
    /// A Debian system on a disk.
    Debian(String),
    /// Debian's kernel and busybox, without a disk.
    Busybox(String),
}

/// A size in bytes, written as `512M` or `4G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

/// One pattern of [`Recipe::paths`], written as `-/usr/share/doc/*` or `+/usr/share/doc/*/copyright`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PathRule {
    /// Whether matching files are kept.
    pub keep: bool,
    /// An absolute path where `*` stands for any text, slashes included.
    pub pattern: String,
}

/// A file that a recipe adds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Absolute path in the guest.
    pub path: String,
    /// Its text.
    pub content: Option<String>,
    /// Or: the file of the host that it is a copy of.
    pub source: Option<PathBuf>,
    /// Or: what it is a symbolic link to.
    pub link: Option<String>,
    /// Permission bits, as `0755`.
    #[serde(default)]
    pub mode: Mode,
    /// User and group by number, as `1000:1000`.
    #[serde(default)]
    pub owner: Owner,
}

/// Permission bits, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mode(pub u32);

/// User and group numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Owner {
    /// User.
    pub user: u64,
    /// Group.
    pub group: u64,
}

fn default_kernel() -> String {
    "linux-image-riscv64".to_owned()
}

fn default_size() -> Size {
    Size(4 << 30)
}

fn default_memory() -> Size {
    Size(512 << 20)
}

fn default_hostname() -> String {
    "rvisor".to_owned()
}

impl Default for Mode {
    fn default() -> Self {
        Self(0o644)
    }
}

impl TryFrom<String> for Base {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let sound =
            |suite: &str| !suite.is_empty() && suite.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
        match text.split_once(':') {
            Some(("debian", suite)) if sound(suite) => Ok(Self::Debian(suite.to_owned())),
            Some(("busybox", suite)) if sound(suite) => Ok(Self::Busybox(suite.to_owned())),
            _ => Err(format!("base {text:?} isn't known: use \"debian:trixie\" or \"busybox:trixie\"")),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let (number, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text.as_str(), 0),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| format!("{text:?} isn't a size: write it as \"512M\" or \"4G\""))
    }
}

impl TryFrom<String> for PathRule {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let (keep, pattern) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(pattern), _) => (true, pattern),
            (_, Some(pattern)) => (false, pattern),
            _ => return Err(format!("path rule {text:?} begins with neither + nor -")),
        };
        if !pattern.starts_with('/') || pattern.contains('\n') {
            return Err(format!("path rule {text:?} isn't an absolute path"));
        }
        Ok(Self { keep, pattern: pattern.to_owned() })
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let bits = u32::from_str_radix(&text, 8).ok().filter(|bits| *bits <= 0o7777);
        bits.map(Self).ok_or_else(|| format!("mode {text:?} isn't octal: write it as \"0644\""))
    }
}

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let numbers =
            text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        let (user, group) = numbers.ok_or_else(|| format!("owner {text:?} isn't USER:GROUP in numbers"))?;
        Ok(Self { user, group })
    }
}

impl PathRule {
    /// Whether a path matches the pattern.
    fn matches(&self, path: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = path.strip_prefix(first) else { return false };
        let Some(last) = self.pattern.rsplit_once('*').map(|(_, last)| last) else { return rest.is_empty() };
        let middle = self.pattern.matches('*').count() - 1;
        for part in parts.take(middle) {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl Recipe {
    /// The recipe that Rvisor carries under this name.
    pub fn built_in(name: &str) -> Option<Result<Self>> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text, name, Path::new("/")))
    }

    /// Names of the recipes that Rvisor carries.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Reads a recipe's file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context("read", path)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, &path.display().to_string(), directory)
    }

    /// Reads a recipe's text. `name` stands in errors; relative paths of the host start from `directory`.
    pub fn parse(text: &str, name: &str, directory: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::Recipe { name: name.to_owned(), reason };
        let mut recipe: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            wrong(format!("{line}{}", error.message().replace('\n', " ")))
        })?;
        recipe.check().map_err(wrong)?;
        recipe.digest = hex(&Sha256::digest(text.as_bytes()));
        recipe.directory = directory.to_owned();
        Ok(recipe)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let is_label = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
        if self.hostname.is_empty() || self.hostname.len() > 63 || !self.hostname.bytes().all(is_label) {
            return Err(format!("hostname {:?} isn't one: use letters, digits and -", self.hostname));
        }
        for file in &self.files {
            let path = &file.path;
            if !path.starts_with('/') || path.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
                return Err(format!("file {path:?} isn't an absolute path of a file"));
            }
            let kinds = [file.content.is_some(), file.source.is_some(), file.link.is_some()];
            if kinds.iter().filter(|given| **given).count() != 1 {
                return Err(format!("file {path:?} needs one of content, source and link"));
            }
        }
        match self.base {
            Base::Debian(_) if self.size < Size(512 << 20) => {
                Err("a Debian system needs a size of 512M or more".into())
            }
            Base::Busybox(_)
                if !(self.packages.is_empty() && self.files.is_empty() && self.commands.is_empty()) =>
            {
                Err("a busybox image has no disk: it takes no packages, files or commands".into())
            }
            _ => Ok(()),
        }
    }

    /// Whether a packages' file at an absolute path is left out.
    #[must_use]
    pub fn leaves_out(&self, path: &str) -> bool {
        self.paths.iter().rev().find(|rule| rule.matches(path)).is_some_and(|rule| !rule.keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Recipe, String> {
        Recipe::parse(text, "test.toml", Path::new("/")).map_err(|error| error.to_string())
    }

    #[test]
    fn built_in_recipes_can_be_read() {
        for name in Recipe::built_in_names() {
            let recipe = Recipe::built_in(name).unwrap().unwrap();
            assert!(!recipe.description.is_empty(), "{name}");
        }
        assert!(Recipe::built_in("plan9").is_none());
    }

    #[test]
    fn smallest_recipe_has_defaults() {
        let recipe = parse("base = \"debian:trixie\"").unwrap();
        assert_eq!(recipe.base, Base::Debian("trixie".into()));
        assert_eq!((recipe.size, recipe.memory), (Size(4 << 30), Size(512 << 20)));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let cases = [
            ("base = \"debian:trixie\"\npakages = []", "line 2: unknown field `pakages`"),
            ("base = \"arch\"", "base \"arch\" isn't known"),
            ("base = \"debian:trixie\"\nsize = \"4 GB\"", "line 2: \"4 GB\" isn't a size"),
            ("base = \"debian:trixie\"\n[[file]]\npath = \"/a\"\n", "needs one of content, source and link"),
            (
                "base = \"debian:trixie\"\n[[file]]\npath = \"a/../b\"\ncontent = \"\"",
                "isn't an absolute path",
            ),
            (
                "base = \"debian:trixie\"\n[[file]]\npath = \"/a\"\ncontent = \"\"\nmode = \"9\"",
                "isn't octal",
            ),
            ("base = \"busybox:trixie\"\npackages = [\"vim\"]", "has no disk"),
            ("base = \"debian:trixie\"\nhostname = \"a b\"", "hostname"),
            ("", "missing field `base`"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn last_matching_path_rule_decides() {
        let recipe = parse(
            "base = \"debian:trixie\"\npaths = [\"-/usr/share/doc/*\", \"+/usr/share/doc/*/copyright\", \"-/a/*/c/*.ko\"]",
        )
        .unwrap();
        assert!(recipe.leaves_out("/usr/share/doc/x/README"));
        assert!(!recipe.leaves_out("/usr/share/doc/x/copyright"));
        assert!(!recipe.leaves_out("/usr/share/doc"));
        assert!(recipe.leaves_out("/a/b/b2/c/d/e.ko"));
        assert!(!recipe.leaves_out("/a/b/c/d.txt"));
    }
}
