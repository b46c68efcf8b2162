//! Locks that guests hold, kept against programs of the host and other machines.
//!
//! The guest's kernel keeps its own processes apart before it asks here. All of its locks on a file are one owner on
//! the host: open file description locks of one descriptor (fcntl(2)), and for a lock on all of a file `flock` too,
//! since a guest's `flock` comes as one of those.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rvisor_waist::{LockKind, ShareLock};

use super::tree::Identity;

/// Locks on one file, and files with locks, at most.
const MOST: usize = 4096;

/// All locks.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<Identity, Locked>>);

/// A file with locks.
struct Locked {
    file: OwnedFd,
    is_writable: bool,
    holders: Vec<Holder>,
}

/// A lock on `start..end`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Holder {
    fid: u32,
    kind: LockKind,
    start: u64,
    end: u64,
}

impl Holder {
    fn of(fid: u32, lock: &ShareLock) -> Result<Self, Errno> {
        // The host counts with a sign.
        const END: u64 = i64::MAX as u64;
        let end = match lock.length {
            0 => END,
            length => lock.start.checked_add(length).ok_or(Errno::OVERFLOW)?,
        };
        if lock.start >= end || end > END {
            return Err(Errno::INVAL);
        }
        Ok(Self { fid, kind: lock.kind, start: lock.start, end })
    }

    fn is_whole(&self) -> bool {
        self.start == 0 && self.end == i64::MAX as u64
    }

    /// As the host takes it.
    fn to_host(&self) -> libc::flock {
        let kind = match self.kind {
            LockKind::Shared => libc::F_RDLCK,
            LockKind::Exclusive => libc::F_WRLCK,
            LockKind::Unlock => libc::F_UNLCK,
        };
        let length = if self.end == i64::MAX as u64 { 0 } else { self.end - self.start };
        libc::flock {
            l_type: kind as _,
            l_whence: libc::SEEK_SET as _,
            l_start: self.start as _,
            l_len: length as _,
            l_pid: 0,
        }
    }
}

impl Locks {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Locked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes or gives back a lock for a fid; false if somebody else holds it. `open` opens the file, and says whether
    /// for writing.
    pub fn set(
        &self,
        identity: Identity,
        fid: u32,
        lock: &ShareLock,
        open: impl FnOnce() -> Result<(OwnedFd, bool), Errno>,
    ) -> Result<bool, Errno> {
        let wanted = Holder::of(fid, lock)?;
        let mut files = self.lock();
        if !files.contains_key(&identity) {
            if wanted.kind == LockKind::Unlock {
                return Ok(true);
            }
            if files.len() >= MOST {
                return Err(Errno::NOLCK);
            }
            let (file, is_writable) = open()?;
            files.insert(identity, Locked { file, is_writable, holders: Vec::new() });
        }
        let Some(locked) = files.get_mut(&identity) else { return Err(Errno::NOLCK) };
        let result = locked.set(wanted);
        if locked.holders.is_empty() {
            files.remove(&identity);
        }
        result
    }

    /// A lock of somebody else that would be in the way.
    pub fn test(
        &self,
        identity: Identity,
        lock: &ShareLock,
        open: impl FnOnce() -> Result<(OwnedFd, bool), Errno>,
    ) -> Result<Option<ShareLock>, Errno> {
        let mut found = Holder::of(0, lock)?.to_host();
        let files = self.lock();
        let opened;
        let file = match files.get(&identity) {
            Some(locked) => &locked.file,
            None => {
                opened = open()?.0;
                &opened
            }
        };
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(errno)?;
        let kind = match libc::c_int::from(found.l_type) {
            libc::F_RDLCK => LockKind::Shared,
            libc::F_WRLCK => LockKind::Exclusive,
            _ => return Ok(None),
        };
        let process = u32::try_from(found.l_pid).unwrap_or(0);
        Ok(Some(ShareLock { kind, start: found.l_start as u64, length: found.l_len as u64, process }))
    }

    /// Gives back what a fid holds.
    pub fn release(&self, fid: u32) {
        let mut files = self.lock();
        files.retain(|_, locked| {
            let all = Holder { fid, kind: LockKind::Unlock, start: 0, end: i64::MAX as u64 };
            if locked.holders.iter().any(|holder| holder.fid == fid) {
                // Giving back can't fail for somebody else's sake.
                let _ = locked.set(all);
            }
            !locked.holders.is_empty()
        });
    }

    /// Gives back everything.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

impl Locked {
    fn set(&mut self, wanted: Holder) -> Result<bool, Errno> {
        let next = replaced(&self.holders, &wanted);
        if next.len() > MOST {
            return Err(Errno::NOLCK);
        }
        match self.apply(&next, &wanted) {
            Ok(()) => {
                self.holders = next;
                Ok(true)
            }
            Err(error) => {
                // What was changed already, back: it was ours before.
                let _ = self.apply(&self.holders, &wanted);
                if error == Errno::AGAIN || error == Errno::ACCESS { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Has the host hold, of the range that `changed` covers, what `holders` do.
    fn apply(&self, holders: &[Holder], changed: &Holder) -> Result<(), Errno> {
        for piece in pieces(holders, changed) {
            // A lock for writing needs a descriptor for it; a `flock` doesn't.
            if piece.kind == LockKind::Exclusive && !self.is_writable {
                if changed.is_whole() {
                    continue;
                }
                return Err(Errno::BADF);
            }
            fcntl(&self.file, FcntlArg::F_OFD_SETLK(&piece.to_host())).map_err(errno)?;
        }
        if !changed.is_whole() {
            return Ok(());
        }
        let whole = holders.iter().filter(|holder| holder.is_whole()).map(|holder| holder.kind).max();
        flock(
            &self.file,
            match whole {
                Some(LockKind::Shared) => FlockOperation::NonBlockingLockShared,
                Some(LockKind::Exclusive) => FlockOperation::NonBlockingLockExclusive,
                _ => FlockOperation::NonBlockingUnlock,
            },
        )
    }
}

/// The locks after one more was taken or given back: of a fid's own, it takes the place of what it overlaps.
fn replaced(holders: &[Holder], wanted: &Holder) -> Vec<Holder> {
    let mut next = Vec::new();
    for holder in holders {
        if holder.fid != wanted.fid || holder.end <= wanted.start || wanted.end <= holder.start {
            next.push(holder.clone());
            continue;
        }
        if holder.start < wanted.start {
            next.push(Holder { end: wanted.start, ..holder.clone() });
        }
        if wanted.end < holder.end {
            next.push(Holder { start: wanted.end, ..holder.clone() });
        }
    }
    if wanted.kind != LockKind::Unlock {
        next.push(wanted.clone());
    }
    next
}

/// The range of `changed` in pieces, each with the strongest lock that somebody holds on it.
fn pieces(holders: &[Holder], changed: &Holder) -> Vec<Holder> {
    let inside = |at: &u64| changed.start < *at && *at < changed.end;
    let edges = holders.iter().flat_map(|holder| [holder.start, holder.end]).filter(inside);
    let mut edges: Vec<u64> = edges.chain([changed.start, changed.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    let strongest = |start: u64, end: u64| {
        let over = holders.iter().filter(|holder| holder.start <= start && end <= holder.end);
        over.map(|holder| holder.kind).max().unwrap_or(LockKind::Unlock)
    };
    edges
        .windows(2)
        .map(|edge| Holder { fid: 0, kind: strongest(edge[0], edge[1]), start: edge[0], end: edge[1] })
        .collect()
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: ShareLock = ShareLock { kind: LockKind::Exclusive, start: 0, length: 0, process: 1 };

    fn lock(kind: LockKind, start: u64, length: u64) -> ShareLock {
        ShareLock { kind, start, length, process: 1 }
    }

    struct Case {
        locks: Locks,
        file: tempfile::NamedTempFile,
    }

    impl Case {
        fn new() -> Self {
            Self { locks: Locks::default(), file: tempfile::NamedTempFile::new().unwrap() }
        }

        fn set(&self, fid: u32, lock: &ShareLock) -> Result<bool, Errno> {
            self.locks.set((0, 0), fid, lock, || Ok((self.file.reopen().unwrap().into(), true)))
        }

        /// Whether another program gets a lock.
        fn other_gets(&self, kind: LockKind, start: u64, length: u64) -> bool {
            let holder = Holder::of(0, &lock(kind, start, length)).unwrap();
            fcntl(self.file.reopen().unwrap(), FcntlArg::F_OFD_SETLK(&holder.to_host())).is_ok()
        }
    }

    use LockKind::{Exclusive, Shared, Unlock};

    #[test]
    fn locks_of_two_fids_are_one_owner_on_the_host() {
        let case = Case::new();
        assert_eq!(case.set(1, &lock(Shared, 0, 10)), Ok(true));
        assert_eq!(case.set(2, &lock(Shared, 5, 10)), Ok(true));
        assert!(case.other_gets(Shared, 0, 20) && !case.other_gets(Exclusive, 12, 1));
        // One gives back what both have: the other's stays.
        assert_eq!(case.set(1, &lock(Unlock, 0, 0)), Ok(true));
        assert!(case.other_gets(Exclusive, 0, 5) && !case.other_gets(Exclusive, 5, 1));
        case.locks.release(2);
        assert!(case.other_gets(Exclusive, 0, 0));
        assert!(case.locks.lock().is_empty());
    }

    #[test]
    fn lock_that_another_program_holds_is_not_taken() {
        let case = Case::new();
        let other = case.file.reopen().unwrap();
        let held = Holder::of(0, &lock(Exclusive, 4, 4)).unwrap();
        fcntl(&other, FcntlArg::F_OFD_SETLK(&held.to_host())).unwrap();
        assert_eq!(case.set(1, &lock(Exclusive, 0, 6)), Ok(false));
        assert!(case.other_gets(Exclusive, 0, 4), "nothing of it was kept");
        let open = || Ok((case.file.reopen().unwrap().into(), true));
        let found = case.locks.test((0, 0), &lock(Shared, 0, 6), open).unwrap().unwrap();
        assert_eq!((found.kind, found.start, found.length), (Exclusive, 4, 4));
        drop(other);
        assert_eq!(case.set(1, &lock(Exclusive, 0, 6)), Ok(true));
    }

    #[test]
    fn lock_on_a_whole_file_keeps_flock_out() {
        let case = Case::new();
        assert_eq!(case.set(1, &WHOLE), Ok(true));
        let other = case.file.reopen().unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockShared).is_err());
        case.locks.release(1);
        flock(&other, FlockOperation::NonBlockingLockShared).unwrap();
        assert_eq!(case.set(1, &WHOLE), Ok(false));
        assert!(case.other_gets(Exclusive, 0, 0), "nothing of it was kept");
        // For reading only, the host has no other lock for writers.
        let read_only = || Ok((std::fs::File::open(case.file.path()).unwrap().into(), false));
        drop(other);
        assert_eq!(case.locks.set((1, 1), 1, &WHOLE, read_only), Ok(true));
        let error = case.locks.set((1, 1), 2, &lock(Exclusive, 0, 5), || Err(Errno::IO));
        assert_eq!(error, Err(Errno::BADF));
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let case = Case::new();
        for (start, length) in [(u64::MAX, 1), (u64::MAX, 0), (1 << 63, 1), (5, u64::MAX), (0, 1 << 63)] {
            assert!(case.set(1, &lock(Shared, start, length)).is_err(), "{start} {length}");
        }
        assert_eq!(case.set(1, &lock(Unlock, 3, 0)), Ok(true));
    }

    #[test]
    fn part_of_a_lock_can_be_given_back() {
        let held = [Holder { fid: 1, kind: Exclusive, start: 0, end: 10 }];
        let back = Holder { fid: 1, kind: Unlock, start: 4, end: 6 };
        let left: Vec<_> = replaced(&held, &back).iter().map(|holder| (holder.start, holder.end)).collect();
        assert_eq!(left, [(0, 4), (6, 10)]);
    }
}
