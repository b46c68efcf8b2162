//! The directory of kept translations. Code from it is executed, so it has to be the user's own, and nobody
//! else may write there.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::process::geteuid;

/// Files of other builds or hosts that are left alone: the ones used last.
const OTHERS: usize = 3;

/// Ends the names of the files.
const SUFFIX: &str = ".code";

/// Held by the process that replaces a file.
const LOCK: &str = "lock";

/// A directory that is safe to take code from.
pub struct Directory {
    file: File,
    path: PathBuf,
}

/// The right to replace a file.
pub struct Lock {
    _file: File,
}

impl Directory {
    /// Opens the directory, which is made if it isn't there.
    ///
    /// # Errors
    /// If that fails, or others than this user could have put something there.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, path, flags, Mode::empty())?);
        check(&file, FileType::Directory)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.file, name, flags, Mode::RUSR | Mode::WUSR)?);
        check(&file, FileType::RegularFile)?;
        Ok(file)
    }

    /// Opens a file for reading; `None` where there is none. It counts as used now.
    ///
    /// # Errors
    /// If that fails, or others than this user could have written it.
    pub fn read(&self, name: &str) -> io::Result<Option<File>> {
        match self.open_file(&format!("{name}{SUFFIX}"), OFlags::RDONLY) {
            Ok(file) => {
                // Only for tidying up.
                let _ = file.set_modified(SystemTime::now());
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gets the right to replace files; `None` where another process has it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let file = self.open_file(LOCK, OFlags::RDWR | OFlags::CREATE)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Replaces a file by what `write` writes: all of it, or nothing.
    pub fn replace<E: From<io::Error>>(
        &self,
        _lock: &Lock,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<(), E>,
    ) -> Result<(), E> {
        let (name, new) = (format!("{name}{SUFFIX}"), format!("{name}.new"));
        // A run that ended in the middle may have left one.
        let remove = || unlinkat(&self.file, &new, AtFlags::empty());
        let _ = remove();
        let mut file = self.open_file(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let replaced = write(&mut file).and_then(|()| {
            renameat(&self.file, &new, &self.file, &name).map_err(|error| E::from(error.into()))
        });
        if replaced.is_err() {
            let _ = remove();
        }
        replaced
    }

    /// Removes files of other builds and hosts, but for the ones used last.
    pub fn tidy(&self, _lock: &Lock, own: &str) -> io::Result<()> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.strip_suffix(SUFFIX).is_some_and(|stem| stem != own) {
                others.push((entry.metadata()?.modified()?, name.to_owned()));
            }
        }
        others.sort_by(|a, b| b.cmp(a));
        for (_, name) in others.iter().skip(OTHERS) {
            unlinkat(&self.file, name, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Whether nobody but this user can have written something.
fn check(file: &File, kind: FileType) -> io::Result<()> {
    let stat = fstat(file)?;
    let is_ours = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_uid == geteuid().as_raw();
    let writers = Mode::from_raw_mode(stat.st_mode) & (Mode::WGRP | Mode::WOTH);
    if is_ours && writers.is_empty() {
        Ok(())
    } else {
        let text = "it must be this user's own, and nobody else may have the right to write it";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(directory: &Directory, name: &str, bytes: &[u8]) {
        let lock = directory.lock().unwrap().expect("nobody else has it");
        directory.replace::<io::Error>(&lock, name, |file| file.write_all(bytes)).unwrap();
    }

    fn content(directory: &Directory, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        directory.read(name).unwrap().expect("it is there").read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn file_is_replaced_by_all_or_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(&temporary.path().join("a/b")).unwrap();
        assert!(directory.read("x").unwrap().is_none());
        write(&directory, "x", b"one");
        write(&directory, "x", b"two");
        let lock = directory.lock().unwrap().expect("nobody else has it");
        let failed = directory.replace(&lock, "x", |file| {
            file.write_all(b"thr")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(failed.is_err());
        assert_eq!(content(&directory, "x"), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn lock_is_refused_while_another_has_it() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        let lock = directory.lock().unwrap();
        assert!(lock.is_some() && directory.lock().unwrap().is_none());
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        write(&directory, "x", b"code");
        let path = temporary.path().join("x.code");
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(directory.read("x").is_err(), "{mode:o}");
        }
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o770)).unwrap();
        assert!(Directory::open(temporary.path()).is_err());
    }

    #[test]
    fn links_and_devices_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        write(&directory, "x", b"code");
        symlink("x.code", temporary.path().join("link.code")).unwrap();
        fs::create_dir(temporary.path().join("folder.code")).unwrap();
        assert!(directory.read("link").is_err() && directory.read("folder").is_err());
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        // Everybody can read it, and it is the administrator's; the administrator is asked about another's.
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("theirs");
        fs::create_dir(&path).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(Directory::open(&path).is_err());
        } else {
            assert!(Directory::open(Path::new("/")).is_err());
        }
    }

    #[test]
    fn old_files_of_other_builds_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open(temporary.path()).unwrap();
        for (age, name) in ["own", "a", "b", "c", "d", "e"].into_iter().enumerate() {
            write(&directory, name, b"");
            let file = File::open(temporary.path().join(format!("{name}.code"))).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(100 - age as u64)).unwrap();
        }
        let lock = directory.lock().unwrap().expect("nobody else has it");
        directory.tidy(&lock, "own").unwrap();
        let is_left = ["own", "a", "b", "c", "d", "e"].map(|name| directory.read(name).unwrap().is_some());
        assert_eq!(is_left, [true, false, false, true, true, true]);
    }
}
