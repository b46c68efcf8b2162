//! Where the packages come from.

use std::path::Path;
use std::{env, fs};

use super::control::stanzas;
use crate::error::{Error, Result};

/// The environment variable that names the mirror.
pub const MIRROR_VARIABLE: &str = "RVISOR_DEBIAN_MIRROR";

/// The mirror of last resort, set when Rvisor is built for a system that has no Debian sources of its own.
const BUILT_IN: Option<&str> = option_env!("RVISOR_DEFAULT_DEBIAN_MIRROR");

/// The root URL of the Debian archive, without a slash at its end: the one `given`, else the environment's, else
/// the one this machine installs its own packages from, else the built-in one.
pub fn find(given: Option<&str>) -> Result<String> {
    let from_environment = || env::var(MIRROR_VARIABLE).ok().filter(|url| !url.is_empty());
    let url = given
        .map(str::to_owned)
        .or_else(from_environment)
        .or_else(|| from_apt(Path::new("/etc/apt")))
        .or_else(|| BUILT_IN.map(str::to_owned))
        .ok_or(Error::NoMirror)?;
    let url = url.trim_end_matches('/');
    if !["http://", "https://", "file://"].iter().any(|scheme| url.starts_with(scheme)) {
        let reason = "a mirror's URL begins with http://, https:// or file://".to_owned();
        return Err(Error::Download { url: url.to_owned(), reason });
    }
    Ok(url.to_owned())
}

/// The first Debian main archive among apt's sources.
fn from_apt(directory: &Path) -> Option<String> {
    let mut files = vec![directory.join("sources.list")];
    let entries = fs::read_dir(directory.join("sources.list.d")).ok();
    let mut more: Vec<_> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more);
    files.iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        match path.extension()?.to_str()? {
            "list" => text.lines().find_map(one_line_source),
            "sources" => stanzas(&text).find_map(|stanza| {
                let has = |field, word| {
                    stanza.field(field).is_some_and(|v| v.split_whitespace().any(|w| w == word))
                };
                let enabled = stanza.field("Enabled") != Some("no");
                let uris = stanza.field("URIs")?.split_whitespace();
                (enabled && has("Types", "deb") && has("Components", "main"))
                    .then(|| uris.filter(|uri| is_main_archive(uri)).map(str::to_owned).next())?
            }),
            _ => None,
        }
    })
}

/// Reads `deb [options] URI suite components…`.
fn one_line_source(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (uri, _suite) = (words.next()?, words.next()?);
    (is_main_archive(uri) && words.any(|word| word == "main")).then(|| uri.to_owned())
}

/// A mirror of the main archive ends in `/debian` by custom, or has a time stamp after it; the security archive,
/// Debian's derivatives and other vendors don't. Only schemes that can be fetched count.
fn is_main_archive(uri: &str) -> bool {
    let fetchable = ["http://", "https://", "file://"].iter().any(|scheme| uri.starts_with(scheme));
    fetchable && uri.split('/').skip(3).any(|part| part == "debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt(files: &[(&str, &str)]) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        from_apt(directory.path())
    }

    #[test]
    fn deb822_source_is_found() {
        let vendor = "Types: deb\nURIs: https://vendor.example/repo\nSuites: x\nComponents: main\n";
        let debian = "Types: deb deb-src\n# note\nURIs: http://mirror.example/debian\nSuites: bookworm\n\
                      Components: main contrib\n";
        let files = [("sources.list.d/a.sources", vendor), ("sources.list.d/b.sources", debian)];
        assert_eq!(apt(&files).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn one_line_source_is_found() {
        let text = "# deb http://old.example/debian x main\ndeb-src http://s.example/debian x main\n\
                    deb [arch=amd64 signed-by=/k] http://mirror.example/debian/ trixie main\n";
        assert_eq!(apt(&[("sources.list", text)]).as_deref(), Some("http://mirror.example/debian/"));
    }

    #[test]
    fn security_and_other_archives_are_passed_over() {
        let text = "deb http://mirror.example/debian-security trixie-security main\n\
                    deb http://mirror.example/ubuntu noble main\ndeb cdrom:[x]/debian trixie main\n\
                    deb http://mirror.example/debian trixie contrib\n";
        assert_eq!(apt(&[("sources.list", text)]), None);
        assert_eq!(apt(&[]), None);
    }

    #[test]
    fn unknown_scheme_returns_error() {
        assert!(find(Some("ftp://mirror.example/debian")).is_err());
        assert_eq!(find(Some("file:///srv/debian/")).unwrap(), "file:///srv/debian");
    }
}
