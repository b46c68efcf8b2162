//! What is to be shared, as it stands on a command line: `HOST:GUEST[:OPTIONS]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// A directory or file of the host, and where the guest sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareOptions {
    /// On the host.
    pub host: PathBuf,
    /// An absolute path in the guest; for a device of its own, the tag that the guest finds it by.
    pub guest: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Who owns the host user's files, as the guest sees it.
    pub user: u32,
    /// Their group, as the guest sees it.
    pub group: u32,
}

/// Why a description of a share can't be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{text:?}: {reason}")]
pub struct WrongShare {
    text: String,
    reason: &'static str,
}

impl FromStr for ShareOptions {
    type Err = WrongShare;

    fn from_str(text: &str) -> Result<Self, WrongShare> {
        let options = parse(text).map_err(|reason| WrongShare { text: text.into(), reason })?;
        check_guest_path(&options.guest).map_err(|reason| WrongShare { text: text.into(), reason })?;
        Ok(options)
    }
}

/// As it is read back, whatever colons the host's path has.
impl fmt::Display for ShareOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "ro" } else { "rw" };
        write!(f, "{}:{}:{mode}", self.host.display(), self.guest)?;
        if (self.user, self.group) != (0, 0) {
            write!(f, ",uid={},gid={}", self.user, self.group)?;
        }
        Ok(())
    }
}

impl ShareOptions {
    /// `HOST:TAG[:OPTIONS]`, for a device of its own.
    ///
    /// # Errors
    /// If it isn't written so.
    pub fn with_tag(text: &str) -> Result<Self, WrongShare> {
        let wrong = |reason| WrongShare { text: text.into(), reason };
        let options = parse(text).map_err(wrong)?;
        let is_tag = |c: u8| c.is_ascii_graphic() && c != b'/' && c != b',';
        if options.guest.len() > 31 || !options.guest.bytes().all(is_tag) {
            return Err(wrong("a tag has up to 31 letters, digits and signs; write HOST:TAG[:ro]"));
        }
        Ok(options)
    }
}

fn parse(text: &str) -> Result<ShareOptions, &'static str> {
    const USAGE: &str = "write HOST:GUEST or HOST:GUEST:ro";
    let (before, last) = text.rsplit_once(':').ok_or(USAGE)?;
    let words = last.split(',').map(option).collect::<Option<Vec<_>>>();
    let (before, words) = match words {
        Some(words) if before.contains(':') => (before, words),
        _ => (text, Vec::new()),
    };
    let (host, guest) = before.rsplit_once(':').ok_or(USAGE)?;
    if host.is_empty() || guest.is_empty() {
        return Err(USAGE);
    }
    let mut options =
        ShareOptions { host: host.into(), guest: guest.into(), read_only: false, user: 0, group: 0 };
    for word in words {
        match word {
            Word::ReadOnly(read_only) => options.read_only = read_only,
            Word::User(user) => options.user = user,
            Word::Group(group) => options.group = group,
        }
    }
    Ok(options)
}

enum Word {
    ReadOnly(bool),
    User(u32),
    Group(u32),
}

fn option(word: &str) -> Option<Word> {
    match word.split_once('=') {
        None if word == "ro" => Some(Word::ReadOnly(true)),
        None if word == "rw" => Some(Word::ReadOnly(false)),
        Some(("uid", number)) => number.parse().ok().map(Word::User),
        Some(("gid", number)) => number.parse().ok().map(Word::Group),
        _ => None,
    }
}

fn check_guest_path(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("the path in the guest is absolute; write HOST:/PATH or HOST:/PATH:ro");
    }
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) || path.contains(['\n', '\\']) {
        return Err("the path in the guest has neither . nor .. nor line breaks nor backslashes");
    }
    match parts.first() {
        None => Err("a share can't take the place of the guest's root directory; choose another path"),
        Some(&("proc" | "sys" | "dev")) => {
            Err("/proc, /sys and /dev are the guest's kernel's; choose another path")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ShareOptions, String> {
        text.parse::<ShareOptions>().map_err(|error| error.to_string())
    }

    #[test]
    fn descriptions_are_taken_apart_from_their_end() {
        let share = parse("/a/b:/c").unwrap();
        assert_eq!((share.host, share.guest, share.read_only), ("/a/b".into(), "/c".into(), false));
        let share = parse("x:y:/c d:ro,uid=1000,gid=5").unwrap();
        assert_eq!((share.host.to_str(), share.guest.as_str()), (Some("x:y"), "/c d"));
        assert_eq!((share.read_only, share.user, share.group), (true, 1000, 5));
        assert!(!parse("a:/b:rw").unwrap().read_only);
        for text in ["/a:b:/c:rw", "/a:/b:ro,uid=7,gid=0"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let tagged = ShareOptions::with_tag(".:home:ro").unwrap();
        assert_eq!((tagged.guest.as_str(), tagged.read_only), ("home", true));
    }

    #[test]
    fn what_makes_no_sense_is_told_in_one_line() {
        let wrong = [
            "",
            "a",
            ":/b",
            "a:",
            "a:b",
            "a:/b:rx",
            "a:/b/../c",
            "a:/",
            "a:/proc/x",
            "a:/dev",
            "a:/x\ny",
            "a:/b:uid=x",
        ];
        for text in wrong {
            let error = parse(text).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
        }
        for text in ["a:/b", "a:", "a:b c", "a:b,c"] {
            assert!(ShareOptions::with_tag(text).is_err(), "{text}");
        }
    }
}
