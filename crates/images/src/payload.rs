//! What the builder VM unpacks: one tar of the whole system, every package unpacked but not configured, with
//! dpkg's database saying so.
//!
//! dpkg would unpack in the guest too, but a guest is slow at decompression, at starting programs and at writing
//! its database after each package; the host does all that once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use tar::{Builder, EntryType, Header};

use crate::archive::{ARCHITECTURE, stanzas};
use crate::deb::{ControlFile, Deb};
use crate::error::{Error, IoContext, Result};
use crate::hex;
use crate::recipe::Recipe;

/// Where dpkg keeps its database.
const DATABASE: &str = "var/lib/dpkg";
/// Top directories that are links into `usr`, where every file is put.
const MERGED: [&str; 3] = ["bin", "lib", "sbin"];

/// A payload being written.
pub struct Payload<'a> {
    recipe: &'a Recipe,
    tar: Builder<BufWriter<File>>,
    path: PathBuf,
    directories: HashSet<PathBuf>,
    status: String,
    triggers: BTreeMap<String, BTreeSet<String>>,
    preinst: Vec<(String, String)>,
    files: u64,
}

/// What the guest has to know about a payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of entries in the tar.
    pub files: u64,
    /// Package and file name of the preinst scripts to run.
    pub preinst: Vec<(String, String)>,
}

/// The parts of a package's control file that dpkg's database needs apart.
struct Identity {
    /// How dpkg's database names the package: with its architecture where several can be installed.
    name: String,
    control: String,
    conffiles: Vec<String>,
}

impl<'a> Payload<'a> {
    /// Starts a payload in a new file.
    pub fn create(path: &Path, recipe: &'a Recipe) -> Result<Self> {
        let file = File::create(path).context("create", path)?;
        Ok(Self {
            recipe,
            tar: Builder::new(BufWriter::with_capacity(1 << 20, file)),
            path: path.to_owned(),
            directories: HashSet::new(),
            status: String::new(),
            triggers: BTreeMap::new(),
            preinst: Vec::new(),
            files: 0,
        })
    }

    /// Adds a package.
    pub fn package(&mut self, path: &Path) -> Result<()> {
        let malformed = |reason: String| Error::malformed(path.display().to_string(), reason);
        let mut deb = Deb::open(path)?;
        let control = deb.control()?;
        let identity = Identity::of(&control).map_err(malformed)?;
        let mut list = String::new();
        let mut digests = Vec::new();
        let mut data = deb.data()?;
        for entry in data.entries().map_err(|error| malformed(error.to_string()))? {
            let entry = entry.map_err(|error| malformed(error.to_string()))?;
            self.entry(entry, &identity, &mut list, &mut digests)
                .map_err(|error| malformed(error.to_string()))?;
        }
        self.register(&identity, &control, list, &digests)
    }

    fn entry(
        &mut self,
        mut entry: tar::Entry<'_, impl Read>,
        identity: &Identity,
        list: &mut String,
        digests: &mut Vec<(String, String)>,
    ) -> io::Result<()> {
        let packaged = entry.path()?.into_owned();
        let relative = packaged.strip_prefix(".").unwrap_or(&packaged).to_owned();
        let name = match relative.as_os_str().is_empty() {
            true => "/.".to_owned(),
            false => format!("/{}", relative.display()).trim_end_matches('/').to_owned(),
        };
        if relative.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(io::Error::other(format!("it has a file at {name}")));
        }
        list.push_str(&name);
        list.push('\n');
        let kind = entry.header().entry_type();
        if name == "/." || self.recipe.leaves_out(&name) {
            return Ok(());
        }
        let path = into_usr(&relative, kind);
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(entry.header().mode()?);
        header.set_uid(entry.header().uid()?);
        header.set_gid(entry.header().gid()?);
        header.set_mtime(entry.header().mtime()?);
        match kind {
            EntryType::Directory => {
                if !self.directories.insert(path.clone()) {
                    return Ok(());
                }
                header.set_size(0);
                self.tar.append_data(&mut header, &path, io::empty())?;
            }
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link has no target"))?;
                let target = match kind {
                    EntryType::Link => {
                        into_usr(target.strip_prefix(".").unwrap_or(&target), EntryType::Regular)
                    }
                    _ => target.into_owned(),
                };
                header.set_size(0);
                self.tar.append_link(&mut header, &path, target)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                header.set_size(entry.size());
                if identity.conffiles.contains(&name) {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    digests.push((name, hex(&Md5::digest(&content))));
                    self.tar.append_data(&mut header, &path, content.as_slice())?;
                } else {
                    self.tar.append_data(&mut header, &path, &mut entry)?;
                }
            }
            _ => return Err(io::Error::other(format!("{name} is a kind of file that packages don't have"))),
        }
        self.files += 1;
        Ok(())
    }

    /// Writes the package into dpkg's database as unpacked.
    fn register(
        &mut self,
        identity: &Identity,
        control: &BTreeMap<String, ControlFile>,
        list: String,
        conffiles: &[(String, String)],
    ) -> Result<()> {
        let name = &identity.name;
        for (file, ControlFile { mode, content }) in control {
            if file != "control" {
                self.file(&format!("{DATABASE}/info/{name}.{file}"), *mode, content)?;
            }
        }
        self.file(&format!("{DATABASE}/info/{name}.list"), 0o644, list.as_bytes())?;
        self.status.push_str(&identity.control);
        self.status.push_str("\nStatus: install ok unpacked\n");
        if !conffiles.is_empty() {
            self.status.push_str("Conffiles:\n");
            for (path, digest) in conffiles {
                let _ = writeln!(self.status, " {path} {digest}");
            }
        }
        self.status.push('\n');
        if let Some(triggers) = control.get("triggers") {
            for line in String::from_utf8_lossy(&triggers.content).lines() {
                let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
                let waits = match words.next() {
                    Some("interest" | "interest-await") => "",
                    Some("interest-noawait") => "/noawait",
                    _ => continue,
                };
                if let Some(trigger) = words.next() {
                    self.triggers.entry(trigger.to_owned()).or_default().insert(format!("{name}{waits}"));
                }
            }
        }
        if control.contains_key("preinst") {
            self.preinst.push((name.clone(), format!("{name}.preinst")));
        }
        Ok(())
    }

    /// Adds a file of root's.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.owned_file(path, mode, (0, 0), content)
    }

    fn owned_file(&mut self, path: &str, mode: u32, owner: (u64, u64), content: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.files += 1;
        self.tar.append_data(&mut header, path, content).context("write", &self.path)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.files += 1;
        self.tar.append_link(&mut header, path, target).context("write", &self.path)
    }

    /// Adds the recipe's files.
    pub fn recipe_files(&mut self) -> Result<()> {
        let recipe = self.recipe;
        for file in &recipe.files {
            let path = file.path.trim_start_matches('/');
            let owner = (file.owner.user, file.owner.group);
            if let Some(target) = &file.link {
                self.symlink(path, target)?;
            } else if let Some(content) = &file.content {
                let content = content.strip_prefix('\n').unwrap_or(content);
                self.owned_file(path, file.mode.0, owner, content.as_bytes())?;
            } else if let Some(source) = &file.source {
                let source = recipe.directory.join(source);
                let content = std::fs::read(&source).context("read", &source)?;
                self.owned_file(path, file.mode.0, owner, &content)?;
            }
        }
        Ok(())
    }

    /// Writes what is left of dpkg's database and ends the tar. `automatic` are the packages that nobody asked
    /// for by name.
    pub fn finish(mut self, automatic: &[&str]) -> Result<Summary> {
        let status = std::mem::take(&mut self.status);
        self.file(&format!("{DATABASE}/status"), 0o644, status.as_bytes())?;
        self.file(&format!("{DATABASE}/info/format"), 0o644, b"1\n")?;
        for empty in ["available", "diversions", "statoverride"] {
            self.file(&format!("{DATABASE}/{empty}"), 0o644, b"")?;
        }
        let mut paths = String::new();
        for (trigger, packages) in std::mem::take(&mut self.triggers) {
            if trigger.starts_with('/') {
                packages.iter().for_each(|package| paths.push_str(&format!("{trigger} {package}\n")));
            } else if !trigger.contains('/') {
                let lines: String = packages.iter().map(|package| format!("{package}\n")).collect();
                self.file(&format!("{DATABASE}/triggers/{trigger}"), 0o644, lines.as_bytes())?;
            }
        }
        self.file(&format!("{DATABASE}/triggers/File"), 0o644, paths.as_bytes())?;
        self.file(&format!("{DATABASE}/triggers/Unincorp"), 0o644, b"")?;
        let states: String = automatic
            .iter()
            .map(|name| format!("Package: {name}\nArchitecture: {ARCHITECTURE}\nAuto-Installed: 1\n\n"))
            .collect();
        self.file("var/lib/apt/extended_states", 0o644, states.as_bytes())?;
        let rules =
            self.recipe.paths.iter().map(|rule| {
                format!("path-{}={}\n", if rule.keep { "include" } else { "exclude" }, rule.pattern)
            });
        let rules: String = rules.collect();
        self.file("etc/dpkg/dpkg.cfg.d/rvisor", 0o644, rules.as_bytes())?;
        let file = self.tar.into_inner().context("write", &self.path)?;
        file.into_inner().map_err(io::IntoInnerError::into_error).context("write", &self.path)?;
        Ok(Summary { files: self.files, preinst: self.preinst })
    }
}

impl Identity {
    fn of(files: &BTreeMap<String, ControlFile>) -> std::result::Result<Self, String> {
        let text =
            |name: &str| files.get(name).map(|file| String::from_utf8_lossy(&file.content).into_owned());
        let control = text("control").ok_or("it has no control file")?;
        let stanza = stanzas(&control).next().ok_or("its control file is empty")?;
        let name = stanza.field("Package").ok_or("its control file names no package")?;
        let architecture = stanza.field("Architecture").unwrap_or_default();
        if ![ARCHITECTURE, "all"].contains(&architecture) {
            return Err(format!("it is for the architecture {architecture:?}"));
        }
        let name = match stanza.field("Multi-Arch") {
            Some("same") => format!("{name}:{architecture}"),
            _ => name.to_owned(),
        };
        let conffiles = text("conffiles").unwrap_or_default();
        let conffiles =
            conffiles.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned);
        Ok(Self { name, conffiles: conffiles.collect(), control: stanza.text().to_owned() })
    }
}

/// Where a file is put: what is packaged below `/lib` goes to `/usr/lib`, since the one is a link to the other.
fn into_usr(path: &Path, kind: EntryType) -> PathBuf {
    let top = path.components().next();
    let is_merged = MERGED.iter().any(|name| top.is_some_and(|top| top.as_os_str() == *name));
    let is_the_link = path.components().count() == 1 && kind == EntryType::Symlink;
    if is_merged && !is_the_link { Path::new("usr").join(path) } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::tests::{ar_of, tar_of};

    /// Lays out one package under a recipe; returns the tar's files by name and the summary.
    fn lay_out(
        control: &[(&str, u32, &str)],
        data: &[(&str, u32, &str)],
    ) -> (BTreeMap<String, String>, Summary) {
        let directory = tempfile::tempdir().unwrap();
        let (package, payload) = (directory.path().join("a.deb"), directory.path().join("payload"));
        let (control, data) = (tar_of(control), tar_of(data));
        std::fs::write(&package, ar_of(&[("control.tar", &control), ("data.tar", &data)])).unwrap();
        let text = "base = \"debian:trixie\"\npaths = [\"-/usr/share/doc/*\"]";
        let recipe = Recipe::parse(text, "test", Path::new("/")).unwrap();
        let mut writer = Payload::create(&payload, &recipe).unwrap();
        writer.package(&package).unwrap();
        let summary = writer.finish(&["a"]).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&payload).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        (files, summary)
    }

    const CONTROL: &str = "Package: a\nArchitecture: riscv64\nMulti-Arch: same\nVersion: 1\n";

    #[test]
    fn package_is_in_the_database_as_unpacked() {
        let (files, summary) = lay_out(
            &[
                ("./control", 0o644, CONTROL),
                ("./conffiles", 0o644, "/etc/a\n"),
                ("./preinst", 0o755, "#!/bin/sh\n"),
                ("./triggers", 0o644, "interest-noawait /usr/lib/x\ninterest rebuild\nactivate ldconfig\n"),
            ],
            &[
                ("./etc/a", 0o644, "hello"),
                ("./lib/a.so", 0o644, "library"),
                ("./usr/share/doc/a", 0o644, "text"),
            ],
        );
        let digest = "5d41402abc4b2a76b9719d911017c592";
        let status = format!("{CONTROL}Status: install ok unpacked\nConffiles:\n /etc/a {digest}\n\n");
        assert_eq!(files["var/lib/dpkg/status"], status);
        assert_eq!(files["var/lib/dpkg/info/a:riscv64.list"], "/etc/a\n/lib/a.so\n/usr/share/doc/a\n");
        assert_eq!(files["var/lib/dpkg/triggers/File"], "/usr/lib/x a:riscv64/noawait\n");
        assert_eq!(files["var/lib/dpkg/triggers/rebuild"], "a:riscv64\n");
        assert_eq!(files["usr/lib/a.so"], "library");
        assert!(!files.contains_key("usr/share/doc/a"));
        assert_eq!(summary.preinst, [("a:riscv64".to_owned(), "a:riscv64.preinst".to_owned())]);
        assert_eq!(summary.files, files.len() as u64);
    }

    #[test]
    fn another_architecture_s_package_is_refused() {
        let control = CONTROL.replace("riscv64", "amd64").into_bytes();
        let file = ControlFile { mode: 0o644, content: control };
        let error = Identity::of(&BTreeMap::from([("control".to_owned(), file)])).err().unwrap();
        assert!(error.contains("amd64"));
    }
}
