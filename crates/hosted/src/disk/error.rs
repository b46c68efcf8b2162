//! Why a disk can't be opened, in one line that says what to do.

use std::io;
use std::path::PathBuf;

/// Why a disk can't be opened or created.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No such file.
    #[error("disk {0}: no such file: check the path, or create the disk first")]
    Missing(PathBuf),
    /// A directory, pipe, socket or character device.
    #[error("disk {0}: not a file or block device: name a disk image")]
    NotADisk(PathBuf),
    /// No content at all.
    #[error("disk {0}: the file is empty: give it a size first, for example with `truncate -s 8G`")]
    Empty(PathBuf),
    /// Size of a raw disk is not a whole number of sectors.
    #[error(
        "disk {path}: its size, {size} bytes, is not a multiple of 512: pad it with `truncate -s %512`, or \
         fetch it again if it was cut short"
    )]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A new disk of no size, or not a whole number of sectors.
    #[error("disk {path}: cannot create it with {size} bytes: the size must be a positive multiple of 512")]
    BadSize {
        /// The file.
        path: PathBuf,
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The file is in a format that isn't supported.
    #[error("disk {path}: this is {format}, which is not supported: {remedy}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What the file is.
        format: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A qcow2 file that uses what isn't supported, or whose metadata make no sense.
    #[error("disk {path}: {reason}")]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A qcow2 file that refers to data behind its end.
    #[error("disk {0}: the qcow2 file is truncated: fetch or copy it again")]
    Truncated(PathBuf),
    /// Somebody else has it open.
    #[error("disk {path} is in use by another process{holder}: stop it, or open the disk read-only in both")]
    InUse {
        /// The file.
        path: PathBuf,
        /// ` (name, process 123)` where the host tells, else empty.
        holder: String,
    },
    /// A new disk would overwrite a file.
    #[error("disk {0}: the file exists already: remove it or choose another name")]
    Exists(PathBuf),
    /// A disk would lose what is behind its new end.
    #[error(
        "disk {path}: {to} bytes are less than its {from}: what is behind would be lost; say --shrink if that may be"
    )]
    WouldShrink {
        /// The file.
        path: PathBuf,
        /// Bytes of the disk now.
        from: u64,
        /// Bytes asked for.
        to: u64,
    },
    /// The host reported an error.
    #[error("disk {path}: cannot {action}: {source}")]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The host's error.
        source: io::Error,
    },
}
