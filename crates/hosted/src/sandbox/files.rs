//! The files that a machine's process may open (Landlock; the kernel's documentation, "userspace-api/landlock").
//!
//! Landlock holds for what is opened from now on: descriptors that are there stay what they are. It says nothing about
//! looking at a file's metadata.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

/// What is denied unless a rule allows it: all that this version of Landlock knows, as far as the host does.
const VERSION: ABI = ABI::V7;

/// What may be done with a path and what is below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Files are read.
    Read,
    /// Files and directories are read.
    List,
    /// Files that are there are read and written.
    Write,
    /// Files and sockets are made, read, written, replaced and removed.
    Keep,
    /// All but device files, which nobody may make, and executing.
    Share,
    /// Files and directories are read and removed.
    Remove,
    /// Empty directories are removed.
    RemoveEmpty,
}

impl Access {
    /// The rights in Landlock's words. Nobody gets the right to make devices or to execute; only shared directories are
    /// a place to make links and directories.
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => make_bitflags!(AccessFs::{ReadFile}),
            Self::List => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
            Self::Write => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev}),
            Self::Keep => make_bitflags!(AccessFs::{
                ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | RemoveFile
            }),
            Self::Share => make_bitflags!(AccessFs::{
                ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeSock | MakeFifo | MakeDir | MakeSym | Refer
                    | RemoveFile | RemoveDir
            }),
            Self::Remove => make_bitflags!(AccessFs::{ReadFile | ReadDir | RemoveFile | RemoveDir}),
            Self::RemoveEmpty => make_bitflags!(AccessFs::{RemoveDir}),
        }
    }
}

/// A line of the table.
pub(super) struct Rule {
    pub path: PathBuf,
    pub access: Access,
    /// What for, for the log.
    pub why: &'static str,
}

/// Whether this host can confine a process to its files.
#[must_use]
pub fn confines_files() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::Execute).and_then(Ruleset::create).is_ok()
}

/// Confines this thread, and those that it makes.
pub(super) fn confine(rules: &[Rule]) -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::Signal)?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    for Rule { path, access, why } in rules {
        match PathFd::new(path) {
            Ok(descriptor) => {
                log::debug!("sandbox: {access:?} {} ({why})", path.display());
                ruleset = ruleset.add_rule(PathBeneath::new(descriptor, access.rights()))?;
            }
            // What uses it will say that it isn't there.
            Err(error) => log::debug!("sandbox: {} ({why}) isn't there: {error}", path.display()),
        }
    }
    let status = ruleset.restrict_self()?;
    log::debug!("sandbox: {status:?}");
    Ok(())
}

/// Where the host's DNS servers are written. Programs that keep it replace the file, so that it is another one then:
/// their directory is allowed if it is for such files only, and `/etc` isn't.
pub(super) fn resolver() -> PathBuf {
    let file = Path::new("/etc/resolv.conf");
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    match real.parent() {
        Some(directory) if directory.starts_with("/run/") => directory.to_owned(),
        _ => real,
    }
}
