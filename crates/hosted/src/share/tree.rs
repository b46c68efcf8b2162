//! The shared directories themselves, and the one that lists them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use thiserror::Error;

use super::options::ShareOptions;

/// Why something can't be shared.
#[derive(Debug, Error)]
pub enum ShareError {
    /// It isn't there, or may not be looked at.
    #[error("can't share {path}: {error}; check its name and permissions")]
    Open {
        /// What was to be shared.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// It is something else.
    #[error("can't share {0}: it is neither a directory nor a file")]
    Kind(PathBuf),
    /// It is the kernel's.
    #[error("can't share {0}: it is the kernel's view of processes, this one among them")]
    Process(PathBuf),
    /// Files are opened through it.
    #[error("shared directories need /proc on this host ({0}); mount it")]
    Proc(io::Error),
    /// Threads, entropy and the like.
    #[error("the host refuses: {0}")]
    Host(#[from] io::Error),
}

/// What identifies a file on the host: device and inode.
pub(super) type Identity = (u64, u64);

/// One shared directory, or file.
pub(super) struct Tree {
    pub root: Arc<OwnedFd>,
    pub kind: FileType,
    pub identity: Identity,
    pub options: ShareOptions,
}

impl Tree {
    pub fn open(options: &ShareOptions) -> Result<Self, ShareError> {
        let path = &options.host;
        let failed = |error: Errno| ShareError::Open { path: path.clone(), error: error.into() };
        // Links on the way to it are the user's own.
        let root = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let stat = fstat(&root).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Err(ShareError::Kind(path.clone()));
        }
        if is_process_file_system(&root).map_err(failed)? {
            return Err(ShareError::Process(path.clone()));
        }
        let identity = (stat.st_dev, stat.st_ino);
        Ok(Self { root: Arc::new(root), kind, identity, options: options.clone() })
    }
}

/// Whether a file lies in a `proc` file system: what is written there can change this process.
pub(super) fn is_process_file_system(file: &OwnedFd) -> Result<bool, Errno> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    #[allow(clippy::unnecessary_cast, reason = "its width is the host's")]
    Ok(rustix::fs::fstatfs(file)?.f_type as i64 == PROC_SUPER_MAGIC)
}

/// What the guest is told of several trees: a line for each with its name, `ro` or `rw`, and its place.
pub(super) fn listing(trees: &[Tree]) -> String {
    let mode = |tree: &Tree| if tree.options.read_only { "ro" } else { "rw" };
    let lines = trees.iter().enumerate();
    lines.map(|(name, tree)| format!("{name} {} {}\n", mode(tree), tree.options.guest)).collect()
}

/// `/proc/self/fd`, through which a descriptor that can't read or write becomes one that can.
pub(super) fn descriptors() -> Result<OwnedFd, ShareError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(Path::new("/proc/self/fd"), flags, Mode::empty()).map_err(|error| ShareError::Proc(error.into()))
}
