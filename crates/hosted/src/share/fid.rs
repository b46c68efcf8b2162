//! The files that a guest holds.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::directory::Cursor;

/// Fids that a guest may hold where the host has descriptors for them.
const FIDS: u64 = 1 << 16;
/// Descriptors that the rest of the process needs.
const RESERVE: u64 = 512;
/// Descriptors that shared directories are good for.
pub(crate) const DESCRIPTORS: u64 = FIDS + RESERVE;

/// What a fid stands for.
#[derive(Clone)]
pub(super) enum Node {
    /// The directory of all trees.
    Listing,
    /// The file in it that says where they belong.
    Places,
    /// A file in a tree.
    File(Held),
}

/// A file in a tree, by descriptor.
#[derive(Clone)]
pub(super) struct Held {
    /// The tree's number.
    pub tree: usize,
    /// `O_PATH`, or open for reading and writing.
    pub fd: Arc<OwnedFd>,
    pub kind: FileType,
}

/// What a fid was opened for.
pub(super) enum Opened {
    /// A directory, and how far it was read.
    Directory(Mutex<Cursor>),
    /// A file.
    File,
}

/// A fid.
pub(super) struct Fid {
    pub node: Node,
    pub opened: Option<Opened>,
}

impl Fid {
    /// The file in a tree, and not one of the two that only Rvisor has.
    pub fn held(&self) -> Result<&Held, Errno> {
        match &self.node {
            Node::File(held) => Ok(held),
            _ => Err(Errno::ROFS),
        }
    }
}

/// All of them.
pub(super) struct Table {
    fids: Mutex<HashMap<u32, Arc<Fid>>>,
    limit: usize,
}

impl Table {
    /// A table for so many fids.
    pub fn new(limit: usize) -> Self {
        Self { fids: Mutex::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Fid>>> {
        self.fids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, fid: u32) -> Result<Arc<Fid>, Errno> {
        self.lock().get(&fid).cloned().ok_or(Errno::BADF)
    }

    /// A new one. A number that is in use is refused.
    pub fn add(&self, number: u32, node: Node) -> Result<(), Errno> {
        let mut fids = self.lock();
        if fids.contains_key(&number) {
            return Err(Errno::INVAL);
        }
        if fids.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        fids.insert(number, Arc::new(Fid { node, opened: None }));
        Ok(())
    }

    /// Another file for a fid, unless it has become another meanwhile.
    pub fn replace(&self, number: u32, old: &Arc<Fid>, new: Fid) -> Result<(), Errno> {
        match self.lock().get_mut(&number) {
            Some(fid) if Arc::ptr_eq(fid, old) => {
                *fid = Arc::new(new);
                Ok(())
            }
            _ => Err(Errno::BADF),
        }
    }

    pub fn remove(&self, fid: u32) -> Option<Arc<Fid>> {
        self.lock().remove(&fid)
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// How many fids a guest may hold on each of so many servers, so that descriptors are left for everything else.
pub(super) fn fid_limit(servers: u64) -> usize {
    let descriptors = raise_limit().saturating_sub(RESERVE);
    (descriptors.min(FIDS) / servers).max(64) as usize
}

/// Lets this process have as many descriptors as it may; returns how many.
fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (current, maximum) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let wanted = maximum.min(DESCRIPTORS);
    if current >= wanted {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_holds_no_more_than_it_may() {
        let table = Table::new(3);
        (0..3).for_each(|number| table.add(number, Node::Listing).unwrap());
        assert_eq!(table.add(3, Node::Listing), Err(Errno::NFILE));
        assert_eq!(table.add(2, Node::Listing), Err(Errno::INVAL));
        table.remove(0);
        assert_eq!(table.add(3, Node::Listing), Ok(()));
        assert!(fid_limit(1) > 64 && fid_limit(8) >= 64);
    }

    #[test]
    fn fid_that_became_another_is_not_replaced() {
        let table = Table::new(3);
        table.add(0, Node::Listing).unwrap();
        let old = table.get(0).unwrap();
        table.remove(0);
        let fid = || Fid { node: Node::Places, opened: None };
        assert_eq!(table.replace(0, &old, fid()), Err(Errno::BADF));
        table.add(0, Node::Listing).unwrap();
        assert_eq!(table.replace(0, &old, fid()), Err(Errno::BADF));
        let now = table.get(0).unwrap();
        assert_eq!(table.replace(0, &now, fid()), Ok(()));
    }
}
