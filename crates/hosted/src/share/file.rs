//! One file: what it is, what may be changed of it, and how it is opened.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat, fstat,
    fstatfs, ftruncate, openat, utimensat,
};
use rustix::io::Errno;
use rvisor_waist::{SetTime, ShareAttributes, ShareChange, ShareFile, ShareSpace, ShareTime};

use super::fid::Held;
use super::tree::Tree;

/// Owner and group of what isn't the host user's.
const NOBODY: u32 = 65534;
/// What of a mode the guest may choose. Bits that lend the host user's rights to others are not among it.
const MODE: u32 = 0o1777;
/// `O_…` of the protocol, which are those of Linux's generic ABI.
pub(super) mod flag {
    pub const ACCESS: u32 = 3;
    pub const WRITE_ONLY: u32 = 1;
    pub const READ_WRITE: u32 = 2;
    pub const EXCLUSIVE: u32 = 0o200;
    pub const TRUNCATE: u32 = 0o1000;
    pub const DATA_SYNC: u32 = 0o10000;
    pub const DIRECTORY: u32 = 0o200_000;
    pub const SYNC: u32 = 0o4_000_000;
}

/// What the host knows of the user that files belong to, and of file systems.
pub(super) struct Host {
    /// `/proc/self/fd`.
    descriptors: OwnedFd,
    user: u32,
    groups: Vec<u32>,
    /// File systems that files were seen in; their places tell them apart.
    devices: Mutex<Vec<u64>>,
}

impl Host {
    pub fn new(descriptors: OwnedFd) -> Self {
        let groups = rustix::process::getgroups().unwrap_or_default();
        let own = rustix::process::getegid().as_raw();
        let groups = groups.into_iter().map(|group| group.as_raw()).chain([own]).collect();
        let user = rustix::process::geteuid().as_raw();
        Self { descriptors, user, groups, devices: Mutex::default() }
    }

    /// A number for a file that no other has. The first file system's are the inodes' own.
    pub fn number(&self, device: u64, inode: u64) -> u64 {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let place = devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        inode ^ (place as u64) << 48
    }

    #[allow(clippy::unnecessary_cast, reason = "widths are the host's")]
    pub fn identify(&self, stat: &Stat) -> ShareFile {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let changes =
            (stat.st_mtime as u64).wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as u64);
        let version = (changes ^ changes >> 32) as u32 ^ stat.st_size as u32;
        // Zero would mean that the guest may keep nothing of it.
        ShareFile {
            kind: kind_number(kind),
            version: version.max(1),
            path: self.number(stat.st_dev, stat.st_ino),
        }
    }

    #[allow(clippy::unnecessary_cast, reason = "widths are the host's")]
    pub fn attributes(&self, tree: &Tree, stat: &Stat) -> ShareAttributes {
        let options = &tree.options;
        let time = |seconds: i64, nanoseconds: u64| ShareTime { seconds: seconds as u64, nanoseconds };
        ShareAttributes {
            file: self.identify(stat),
            mode: stat.st_mode,
            user: if stat.st_uid == self.user { options.user } else { NOBODY },
            group: if self.groups.contains(&stat.st_gid) { options.group } else { NOBODY },
            links: stat.st_nlink as u64,
            size: stat.st_size as u64,
            block_size: stat.st_blksize as u64,
            blocks: stat.st_blocks as u64,
            accessed: time(stat.st_atime, stat.st_atime_nsec as u64),
            modified: time(stat.st_mtime, stat.st_mtime_nsec as u64),
            changed: time(stat.st_ctime, stat.st_ctime_nsec as u64),
        }
    }

    /// The name of a descriptor's file in [`descriptors`](super::tree::descriptors).
    pub fn name_of(&self, fd: &OwnedFd) -> (&OwnedFd, String) {
        (&self.descriptors, fd.as_raw_fd().to_string())
    }

    /// Opens a regular file or directory that is held, and nothing else: opening a FIFO would wait, opening a device
    /// would do what its driver does.
    pub fn open(&self, held: &Held, flags: u32) -> Result<OwnedFd, Errno> {
        let access = access(flags)?;
        match held.kind {
            FileType::Directory if access != OFlags::RDONLY => Err(Errno::ISDIR),
            FileType::Directory => openat(&held.fd, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()),
            _ if flags & flag::DIRECTORY != 0 => Err(Errno::NOTDIR),
            FileType::RegularFile => {
                let (descriptors, name) = self.name_of(&held.fd);
                let fixed = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                openat(descriptors, name, access | extra(flags, access) | fixed, Mode::empty())
            }
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::ACCESS),
        }
    }

    /// Changes what is to be changed. Owners stay: every file is the host user's.
    pub fn change(&self, held: &Held, is_open: bool, change: &ShareChange) -> Result<(), Errno> {
        if let Some(size) = change.size {
            match held.kind {
                FileType::RegularFile => {}
                FileType::Directory => return Err(Errno::ISDIR),
                _ => return Err(Errno::INVAL),
            }
            // A fid that is open for writing may do it even where the file's mode has changed since.
            if !is_open || ftruncate(&held.fd, size).is_err() {
                ftruncate(self.open(held, flag::WRITE_ONLY)?, size)?;
            }
        }
        let (descriptors, name) = self.name_of(&held.fd);
        if let Some(mode) = change.mode {
            chmodat(descriptors, &name, Mode::from_raw_mode(mode & MODE), AtFlags::empty())?;
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let times = Timestamps {
                last_access: timespec(change.accessed)?,
                last_modification: timespec(change.modified)?,
            };
            utimensat(descriptors, &name, &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// What a guest's mode means for a new file.
pub(super) fn new_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & MODE)
}

/// The way of access that flags ask for.
pub(super) fn access(flags: u32) -> Result<OFlags, Errno> {
    match flags & flag::ACCESS {
        0 => Ok(OFlags::RDONLY),
        flag::WRITE_ONLY => Ok(OFlags::WRONLY),
        flag::READ_WRITE => Ok(OFlags::RDWR),
        _ => Err(Errno::INVAL),
    }
}

/// Those of the other flags that the host should know of. `O_APPEND` isn't: a guest that keeps pages of the file
/// writes them where they belong, and says where.
fn extra(flags: u32, access: OFlags) -> OFlags {
    let mut extra = OFlags::empty();
    let truncates = flags & flag::TRUNCATE != 0 && access != OFlags::RDONLY;
    extra.set(OFlags::TRUNC, truncates);
    extra.set(OFlags::DSYNC, flags & flag::DATA_SYNC != 0);
    extra.set(OFlags::SYNC, flags & flag::SYNC != 0);
    extra
}

/// Whether opening a file so changes it.
pub(super) fn is_change(flags: u32) -> bool {
    flags & flag::ACCESS != 0 || flags & flag::TRUNCATE != 0
}

fn timespec(time: Option<SetTime>) -> Result<Timespec, Errno> {
    match time {
        None => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        Some(SetTime::Now) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        Some(SetTime::To(time)) if time.nanoseconds < 1_000_000_000 => {
            Ok(Timespec { tv_sec: time.seconds as i64, tv_nsec: time.nanoseconds as _ })
        }
        Some(SetTime::To(_)) => Err(Errno::INVAL),
    }
}

/// `QTDIR`, `QTSYMLINK`, or zero.
pub(super) fn kind_number(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => 0x80,
        FileType::Symlink => 2,
        _ => 0,
    }
}

/// What a descriptor's file is: device, inode and the rest.
pub(super) fn stat(fd: impl AsFd) -> Result<Stat, Errno> {
    fstat(fd)
}

/// Room in the file system that a file is in.
pub(super) fn space(fd: &OwnedFd) -> Result<ShareSpace, Errno> {
    let space = fstatfs(fd)?;
    #[allow(clippy::unnecessary_cast, reason = "widths are the host's")]
    Ok(ShareSpace {
        block_size: space.f_bsize as u32,
        blocks: space.f_blocks as u64,
        free: space.f_bfree as u64,
        available: space.f_bavail as u64,
        files: space.f_files as u64,
        free_files: space.f_ffree as u64,
        longest_name: space.f_namelen as u32,
    })
}
