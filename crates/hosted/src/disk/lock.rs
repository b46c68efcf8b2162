//! Whole-file locks that keep two machines from one disk.
//!
//! They are `flock` locks on the open file description: released by the host when the process ends, however
//! it ends. They are advisory, so they keep Rvisor from Rvisor, not from other programs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::DiskError;

/// How often, and with what pauses, a lock is asked for before the disk counts as in use.
const ATTEMPTS: u32 = 26;
const PAUSE: Duration = Duration::from_millis(10);

/// Locks `file` for as long as it is open: shared for readers, exclusive for a writer.
///
/// Patient for about a quarter of a second. A child process between fork and exec shares its parent's open
/// file descriptions, so a disk that the parent has just closed may stay locked for that moment.
pub(super) fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), DiskError> {
    let attempt = || if read_only { file.try_lock_shared() } else { file.try_lock() };
    let mut result = attempt();
    for _ in 1..ATTEMPTS {
        if !matches!(result, Err(TryLockError::WouldBlock)) {
            break;
        }
        thread::sleep(PAUSE);
        result = attempt();
    }
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = holder(file).unwrap_or_default();
            Err(DiskError::InUse { path: path.to_owned(), holder })
        }
        // A file system without locks (some network file systems): nothing to protect with.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            log::warn!("disk {}: the file system has no locks; do not open it twice", path.display());
            Ok(())
        }
        Err(TryLockError::Error(source)) => {
            Err(DiskError::Host { path: path.to_owned(), action: "lock it", source })
        }
    }
}

/// Who holds a lock on `file`, as far as `/proc` tells: ` (name, process 123)`.
fn holder(file: &File) -> Option<String> {
    let inode = file.metadata().ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let process = locks.lines().find_map(|line| process_of_lock(line, inode))?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok();
    Some(match name {
        Some(name) => format!(" ({}, process {process})", name.trim()),
        None => format!(" (process {process})"),
    })
}

/// The process in a line of `/proc/locks` if it is an `flock` lock on `inode`, as in
/// `1: FLOCK  ADVISORY  WRITE 4242 fe:00:123456 0 EOF`.
fn process_of_lock(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let process = fields.nth(2)?.parse().ok()?;
    let found = fields.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
    (found == inode).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_line_names_its_process() {
        let line = "1: FLOCK  ADVISORY  WRITE 4242 fe:00:123456 0 EOF";
        assert_eq!(process_of_lock(line, 123_456), Some(4242));
        assert_eq!(process_of_lock(line, 123_457), None);
        assert_eq!(process_of_lock("2: POSIX ADVISORY READ 7 fe:00:123456 0 EOF", 123_456), None);
        assert_eq!(process_of_lock("1: -> FLOCK", 1), None);
    }

    #[test]
    fn second_writer_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let first = File::create(&path).unwrap();
        lock(&first, &path, false).unwrap();
        let second = File::open(&path).unwrap();
        let error = lock(&second, &path, true).unwrap_err().to_string();
        assert!(error.contains("is in use by another process"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        lock(&second, &path, true).unwrap();
        lock(&File::open(&path).unwrap(), &path, true).unwrap();
    }

    #[test]
    fn lock_that_is_soon_released_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let first = File::create(&path).unwrap();
        lock(&first, &path, false).unwrap();
        let second = File::open(&path).unwrap();
        let release = thread::spawn(move || {
            thread::sleep(2 * PAUSE);
            drop(first);
        });
        lock(&second, &path, true).unwrap();
        release.join().unwrap();
    }
}
