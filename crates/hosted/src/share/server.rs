//! What each request does, on the fids of one guest. Not for threads: see [`worker`](super::worker).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fdatasync, fsync, linkat, mkdirat, mknodat, openat,
    readlinkat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rvisor_waist::{
    GuestMemory, LockKind, Segment, ShareAttributes, ShareCall, ShareEntry, ShareFile, ShareLock, ShareReply,
    ShareTime,
};

use super::directory::{Cursor, type_number};
use super::fid::{Fid, Held, Node, Opened, Table, fid_limit};
use super::file::{self, Host, flag, is_change, new_mode, stat};
use super::lock::Locks;
use super::tree::{self, Identity, ShareError, Tree, is_process_file_system};
use super::{options::ShareOptions, worker::Buffer};

type Result<T = ShareReply> = core::result::Result<T, Errno>;

/// The file in the listing that says where the trees belong.
const PLACES: &[u8] = b"places";
/// Numbers of the listing and that file, which no inode has.
const LISTING_NUMBER: u64 = u64::MAX;
const PLACES_NUMBER: u64 = u64::MAX - 1;
/// Longest way up from a directory to its tree's root.
const DEPTH: usize = 4096;

/// The trees, and what the guest holds of them.
pub(super) struct Server {
    host: Host,
    trees: Vec<Tree>,
    /// What a guest that attaches to no tree by name gets: a list of all; else the one that there is.
    listing: Option<String>,
    fids: Table,
    locks: Locks,
}

impl Server {
    /// A single tree.
    pub fn single(options: &ShareOptions) -> core::result::Result<Self, ShareError> {
        // There may be one in each of the board's slots.
        Self::new(vec![Tree::open(options)?], None, 8)
    }

    /// Several, with a list of them.
    pub fn listed(options: &[ShareOptions]) -> core::result::Result<Self, ShareError> {
        let trees = options.iter().map(Tree::open).collect::<core::result::Result<Vec<_>, _>>()?;
        let listing = tree::listing(&trees);
        Self::new(trees, Some(listing), 1)
    }

    fn new(
        trees: Vec<Tree>,
        listing: Option<String>,
        servers: u64,
    ) -> core::result::Result<Self, ShareError> {
        let (host, fids) = (Host::new(tree::descriptors()?), Table::new(fid_limit(servers)));
        Ok(Self { host, trees, listing, fids, locks: Locks::default() })
    }

    /// Carries a request out.
    pub fn serve<M: GuestMemory>(&self, call: &ShareCall, buffer: &mut Buffer<'_, M>) -> Result {
        match call {
            ShareCall::Reset => {
                self.reset();
                Ok(ShareReply::Done)
            }
            ShareCall::Attach { fid, tree } => self.attach(*fid, tree),
            ShareCall::Walk { fid, new_fid, names } => self.walk(*fid, *new_fid, names),
            ShareCall::Open { fid, flags } => self.open(*fid, *flags),
            ShareCall::Create { fid, name, flags, mode } => self.create(*fid, name, *flags, *mode),
            ShareCall::Read { fid, offset, segments } => self.read(*fid, *offset, segments, buffer),
            ShareCall::Write { fid, offset, segments } => self.write(*fid, *offset, segments, buffer),
            ShareCall::ReadDirectory { fid, offset, count } => self.read_directory(*fid, *offset, *count),
            ShareCall::Attributes { fid } => self.attributes(*fid),
            ShareCall::SetAttributes { fid, change } => {
                let fid = self.fids.get(*fid)?;
                let held = self.changeable(&fid)?;
                self.host.change(held, fid.opened.is_some(), change).map(|()| ShareReply::Done)
            }
            ShareCall::Space { fid } => self.space(*fid),
            ShareCall::Sync { fid, data_only } => self.sync(*fid, *data_only),
            ShareCall::ReadLink { fid } => {
                let fid = self.fids.get(*fid)?;
                let held =
                    fid.held().ok().filter(|held| held.kind == FileType::Symlink).ok_or(Errno::INVAL)?;
                Ok(ShareReply::Target(readlinkat(&held.fd, "", Vec::new())?.into_bytes()))
            }
            ShareCall::SymbolicLink { directory, name, target } => {
                self.make(*directory, name, |fd, name| symlinkat(target.as_slice(), fd, name))
            }
            ShareCall::Link { directory, fid, name } => self.link(*directory, *fid, name),
            ShareCall::MakeDirectory { directory, name, mode } => {
                self.make(*directory, name, |fd, name| mkdirat(fd, name, new_mode(*mode)))
            }
            ShareCall::MakeNode { directory, name, mode } => self.make_node(*directory, name, *mode),
            ShareCall::RenameAt { from, from_name, to, to_name } => {
                self.rename(*from, from_name, *to, to_name)
            }
            ShareCall::Unlink { directory, name, is_directory } => {
                let directory = self.fids.get(*directory)?;
                let held = self.directory_to_change(&directory)?;
                let flags = if *is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                unlinkat(&held.fd, plain(name)?, flags).map(|()| ShareReply::Done)
            }
            ShareCall::Remove { fid } => {
                self.forget(*fid)?;
                Err(Errno::OPNOTSUPP)
            }
            ShareCall::Lock { fid, lock } => self.lock(*fid, lock),
            ShareCall::TestLock { fid, lock } => self.test_lock(*fid, lock),
            ShareCall::Forget { fid } => self.forget(*fid).map(|()| ShareReply::Done),
        }
    }

    /// Whether there are fids.
    pub fn is_in_use(&self) -> bool {
        !self.fids.is_empty()
    }

    /// Forgets all fids and gives back all locks.
    pub fn reset(&self) {
        self.fids.clear();
        self.locks.clear();
    }

    fn forget(&self, fid: u32) -> Result<()> {
        self.fids.remove(fid).ok_or(Errno::BADF)?;
        self.locks.release(fid);
        Ok(())
    }

    fn tree(&self, held: &Held) -> &Tree {
        &self.trees[held.tree]
    }

    /// The root of a tree.
    fn root(&self, tree: usize) -> Node {
        let Tree { root, kind, .. } = &self.trees[tree];
        Node::File(Held { tree, fd: Arc::clone(root), kind: *kind })
    }

    fn attach(&self, fid: u32, name: &[u8]) -> Result {
        let node = match (&self.listing, name) {
            (None, _) => self.root(0),
            (Some(_), b"" | b"/") => Node::Listing,
            (Some(_), name) => self.tree_named(name).ok_or(Errno::NOENT)?,
        };
        let file = self.identify(&node)?;
        self.fids.add(fid, node)?;
        Ok(ShareReply::File(file))
    }

    fn tree_named(&self, name: &[u8]) -> Option<Node> {
        let number: usize = std::str::from_utf8(name).ok()?.parse().ok()?;
        // One name for each, not 01 or +1 too.
        (number < self.trees.len() && number.to_string().as_bytes() == name).then(|| self.root(number))
    }

    fn identify(&self, node: &Node) -> Result<ShareFile> {
        match node {
            Node::Listing => Ok(ShareFile { kind: 0x80, version: 1, path: LISTING_NUMBER }),
            Node::Places => Ok(ShareFile { kind: 0, version: 1, path: PLACES_NUMBER }),
            Node::File(held) => Ok(self.host.identify(&stat(&held.fd)?)),
        }
    }

    fn walk(&self, fid: u32, new_fid: u32, names: &[Vec<u8>]) -> Result {
        let start = self.fids.get(fid)?;
        if start.opened.is_some() {
            return Err(Errno::INVAL);
        }
        let (mut node, mut files) = (start.node.clone(), Vec::new());
        for name in names {
            match self.step(&node, name) {
                Ok((next, file)) => {
                    node = next;
                    files.push(file);
                }
                Err(error) if files.is_empty() => return Err(error),
                // The guest sees that the rest isn't there, and gets no fid.
                Err(_) => return Ok(ShareReply::Walked(files)),
            }
        }
        if fid == new_fid {
            self.fids.replace(fid, &start, Fid { node, opened: None })?;
        } else {
            self.fids.add(new_fid, node)?;
        }
        Ok(ShareReply::Walked(files))
    }

    /// From a file to an entry of it.
    fn step(&self, node: &Node, name: &[u8]) -> Result<(Node, ShareFile)> {
        let next = match node {
            Node::Places => return Err(Errno::NOTDIR),
            Node::Listing if name == b".." => Node::Listing,
            Node::Listing if name == PLACES => Node::Places,
            Node::Listing => self.tree_named(name).ok_or(Errno::NOENT)?,
            Node::File(held) if name == b".." => self.parent(held)?,
            Node::File(held) => return self.entry(held, plain(name)?),
        };
        let file = self.identify(&next)?;
        Ok((next, file))
    }

    fn entry(&self, held: &Held, name: &[u8]) -> Result<(Node, ShareFile)> {
        let (fd, stat) = self.look_up(held, name)?;
        let file = self.host.identify(&stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok((Node::File(Held { tree: held.tree, fd: Arc::new(fd), kind }), file))
    }

    /// An entry by its plain name; a link is the link itself.
    fn look_up(&self, held: &Held, name: &[u8]) -> Result<(OwnedFd, Stat)> {
        if held.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&held.fd, name, flags, Mode::empty())?;
        let found = stat(&fd)?;
        if found.st_dev != stat(&held.fd)?.st_dev && is_process_file_system(&fd)? {
            return Err(Errno::ACCESS);
        }
        Ok((fd, found))
    }

    /// The directory above; what is above a tree is the listing, if there is one, else the tree itself.
    fn parent(&self, held: &Held) -> Result<Node> {
        if held.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let tree = self.tree(held);
        if identity(&held.fd)? == tree.identity {
            return Ok(if self.listing.is_some() { Node::Listing } else { Node::File(held.clone()) });
        }
        let fd = above(&held.fd)?;
        // It may have been moved out of the tree by the host's user.
        let (mut at, mut here) = (None, identity(&fd)?);
        for _ in 0..DEPTH {
            if here == tree.identity {
                return Ok(Node::File(Held { tree: held.tree, fd: Arc::new(fd), kind: FileType::Directory }));
            }
            let next = above(at.as_ref().unwrap_or(&fd))?;
            let there = identity(&next)?;
            if there == here {
                break;
            }
            (at, here) = (Some(next), there);
        }
        Err(Errno::NOENT)
    }

    /// The file of a fid in a tree that may be changed.
    fn changeable<'a>(&self, fid: &'a Fid) -> Result<&'a Held> {
        let held = fid.held()?;
        if self.tree(held).options.read_only { Err(Errno::ROFS) } else { Ok(held) }
    }

    /// The same, for a directory.
    fn directory_to_change<'a>(&self, fid: &'a Fid) -> Result<&'a Held> {
        match self.changeable(fid)? {
            held if held.kind == FileType::Directory => Ok(held),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn open(&self, number: u32, flags: u32) -> Result {
        let fid = self.fids.get(number)?;
        if fid.opened.is_some() {
            return Err(Errno::INVAL);
        }
        file::access(flags)?;
        let (node, opened) = match &fid.node {
            _ if is_change(flags) && self.changeable(&fid).is_err() => return Err(Errno::ROFS),
            Node::Listing => (Node::Listing, Opened::Directory(Mutex::default())),
            Node::Places => (Node::Places, Opened::File),
            Node::File(held) => {
                let fd = Arc::new(self.host.open(held, flags)?);
                let opened = match held.kind {
                    FileType::Directory => Opened::Directory(Mutex::new(Cursor::default())),
                    _ => Opened::File,
                };
                (Node::File(Held { fd, ..held.clone() }), opened)
            }
        };
        let file = self.identify(&node)?;
        self.fids.replace(number, &fid, Fid { node, opened: Some(opened) })?;
        Ok(ShareReply::Opened(file))
    }

    fn create(&self, number: u32, name: &[u8], flags: u32, mode: u32) -> Result {
        let fid = self.fids.get(number)?;
        if fid.opened.is_some() {
            return Err(Errno::INVAL);
        }
        let (held, name) = (self.directory_to_change(&fid)?, plain(name)?);
        let fixed = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&held.fd, name, file::access(flags)? | fixed, new_mode(mode)) {
            // What is there is opened as it would be otherwise.
            Err(Errno::EXIST) if flags & flag::EXCLUSIVE == 0 => {
                let (fd, stat) = self.look_up(held, name)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                let found = Held { tree: held.tree, fd: Arc::new(fd), kind };
                if kind == FileType::Directory {
                    return Err(Errno::ISDIR);
                }
                self.host.open(&found, flags)?
            }
            made => made?,
        };
        let file = self.host.identify(&stat(&fd)?);
        let held = Held { tree: held.tree, fd: Arc::new(fd), kind: FileType::RegularFile };
        self.fids.replace(number, &fid, Fid { node: Node::File(held), opened: Some(Opened::File) })?;
        Ok(ShareReply::Opened(file))
    }

    fn read<M: GuestMemory>(
        &self,
        fid: u32,
        offset: u64,
        segments: &[Segment],
        buffer: &mut Buffer<'_, M>,
    ) -> Result {
        let fid = self.fids.get(fid)?;
        match (&fid.opened, &fid.node) {
            (Some(Opened::File), Node::File(held)) => buffer.read(&held.fd, offset, segments),
            (Some(Opened::File), _) => {
                let text = self.listing.as_deref().unwrap_or_default().as_bytes();
                buffer.give(text.get(offset.min(text.len() as u64) as usize..).unwrap_or_default(), segments)
            }
            (Some(Opened::Directory(_)), _) => Err(Errno::ISDIR),
            (None, _) => Err(Errno::BADF),
        }
        .map(ShareReply::Count)
    }

    fn write<M: GuestMemory>(
        &self,
        fid: u32,
        offset: u64,
        segments: &[Segment],
        buffer: &mut Buffer<'_, M>,
    ) -> Result {
        let fid = self.fids.get(fid)?;
        match (&fid.opened, self.changeable(&fid)?) {
            (Some(Opened::File), held) => buffer.write(&held.fd, offset, segments).map(ShareReply::Count),
            (Some(Opened::Directory(_)), _) => Err(Errno::ISDIR),
            (None, _) => Err(Errno::BADF),
        }
    }

    fn read_directory(&self, fid: u32, offset: u64, count: u32) -> Result {
        let fid = self.fids.get(fid)?;
        let Some(Opened::Directory(cursor)) = &fid.opened else {
            return Err(if fid.opened.is_some() { Errno::NOTDIR } else { Errno::BADF });
        };
        let count = count as usize;
        let entries = match &fid.node {
            Node::File(held) => {
                let here = stat(&held.fd)?;
                let is_root = (here.st_dev, here.st_ino) == self.tree(held).identity;
                let mut cursor = cursor.lock().unwrap_or_else(PoisonError::into_inner);
                cursor.read(&held.fd, offset, count, |raw, offset| {
                    // Nothing is told of what is above the root.
                    let inode = if is_root && raw.name == b".." { here.st_ino } else { raw.inode };
                    let kind = file::kind_number(raw.kind);
                    let file = ShareFile { kind, version: 0, path: self.host.number(here.st_dev, inode) };
                    ShareEntry { file, offset, kind: type_number(raw.kind), name: raw.name.to_vec() }
                })?
            }
            _ => self.list(offset, count)?,
        };
        Ok(ShareReply::Entries(entries))
    }

    /// The listing as a directory.
    fn list(&self, offset: u64, count: usize) -> Result<Vec<ShareEntry>> {
        let names =
            [(".".into(), Node::Listing), ("..".into(), Node::Listing), ("places".into(), Node::Places)];
        let trees = (0..self.trees.len()).map(|number| (number.to_string(), self.root(number)));
        let (mut entries, mut size) = (Vec::new(), 0);
        for (place, (name, node)) in
            names.into_iter().chain(trees).enumerate().skip(offset.min(1 << 32) as usize)
        {
            size += ShareEntry::size(name.len());
            if size > count {
                break;
            }
            let kind = match &node {
                Node::Listing => FileType::Directory,
                Node::Places => FileType::RegularFile,
                Node::File(held) => held.kind,
            };
            let file = ShareFile { version: 0, ..self.identify(&node)? };
            let (offset, kind) = (place as u64 + 1, type_number(kind));
            entries.push(ShareEntry { file, offset, kind, name: name.into_bytes() });
        }
        Ok(entries)
    }

    fn attributes(&self, fid: u32) -> Result {
        let fid = self.fids.get(fid)?;
        if let Node::File(held) = &fid.node {
            let attributes = self.host.attributes(self.tree(held), &stat(&held.fd)?);
            return Ok(ShareReply::Attributes(attributes));
        }
        let is_list = matches!(fid.node, Node::Listing);
        let size = self.listing.as_ref().map_or(0, String::len) as u64;
        let time = ShareTime::default();
        Ok(ShareReply::Attributes(ShareAttributes {
            file: self.identify(&fid.node)?,
            mode: if is_list { 0o40555 } else { 0o100_444 },
            user: 0,
            group: 0,
            links: 1,
            size: if is_list { 0 } else { size },
            block_size: 4096,
            blocks: 0,
            accessed: time,
            modified: time,
            changed: time,
        }))
    }

    fn space(&self, fid: u32) -> Result {
        let fid = self.fids.get(fid)?;
        let space = match &fid.node {
            Node::File(held) => file::space(&held.fd)?,
            _ => rvisor_waist::ShareSpace { block_size: 4096, longest_name: 255, ..Default::default() },
        };
        Ok(ShareReply::Space(space))
    }

    fn sync(&self, fid: u32, data_only: bool) -> Result {
        let fid = self.fids.get(fid)?;
        match (&fid.opened, &fid.node) {
            (None, _) => return Err(Errno::BADF),
            (_, Node::File(held)) if data_only => fdatasync(&held.fd)?,
            (_, Node::File(held)) => fsync(&held.fd)?,
            _ => {}
        }
        Ok(ShareReply::Done)
    }

    /// Makes an entry, and tells what it is.
    fn make(&self, directory: u32, name: &[u8], make: impl FnOnce(&OwnedFd, &[u8]) -> Result<()>) -> Result {
        let fid = self.fids.get(directory)?;
        let (held, name) = (self.directory_to_change(&fid)?, plain(name)?);
        make(&held.fd, name)?;
        Ok(ShareReply::File(self.entry(held, name)?.1))
    }

    /// Files, FIFOs and sockets; a guest's device files would be the host's devices.
    fn make_node(&self, directory: u32, name: &[u8], mode: u32) -> Result {
        let kind = match FileType::from_raw_mode(mode) {
            kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
            _ => return Err(Errno::PERM),
        };
        self.make(directory, name, |fd, name| mknodat(fd, name, kind, new_mode(mode), 0))
    }

    fn link(&self, directory: u32, fid: u32, name: &[u8]) -> Result {
        let (directory, fid) = (self.fids.get(directory)?, self.fids.get(fid)?);
        let (to, from) = (self.directory_to_change(&directory)?, fid.held()?);
        if to.tree != from.tree {
            return Err(Errno::XDEV);
        }
        let (descriptors, descriptor) = self.host.name_of(&from.fd);
        linkat(descriptors, descriptor.as_bytes(), &to.fd, plain(name)?, AtFlags::SYMLINK_FOLLOW)?;
        Ok(ShareReply::Done)
    }

    fn rename(&self, from: u32, from_name: &[u8], to: u32, to_name: &[u8]) -> Result {
        let (from, to) = (self.fids.get(from)?, self.fids.get(to)?);
        let (from, to) = (self.directory_to_change(&from)?, self.directory_to_change(&to)?);
        if from.tree != to.tree {
            return Err(Errno::XDEV);
        }
        renameat_with(&from.fd, plain(from_name)?, &to.fd, plain(to_name)?, RenameFlags::empty())?;
        Ok(ShareReply::Done)
    }

    fn lock(&self, number: u32, lock: &ShareLock) -> Result {
        let fid = self.fids.get(number)?;
        let held = lockable(&fid)?;
        let open = || self.open_for_locks(held);
        let locked = self.locks.set(identity(&held.fd)?, number, lock, open)?;
        // The fid may have been forgotten meanwhile, and its locks with it.
        if self.fids.get(number).is_ok_and(|now| Arc::ptr_eq(&now, &fid)) {
            return Ok(ShareReply::Locked(locked));
        }
        self.locks.release(number);
        Err(Errno::BADF)
    }

    fn test_lock(&self, number: u32, lock: &ShareLock) -> Result {
        let fid = self.fids.get(number)?;
        let held = lockable(&fid)?;
        if lock.kind == LockKind::Unlock {
            return Err(Errno::INVAL);
        }
        let open = || self.open_for_locks(held);
        Ok(ShareReply::InTheWay(self.locks.test(identity(&held.fd)?, lock, open)?))
    }

    /// The file once more, for all of the guest's locks on it; and whether for writing.
    fn open_for_locks(&self, held: &Held) -> Result<(OwnedFd, bool)> {
        if held.kind == FileType::RegularFile
            && !self.tree(held).options.read_only
            && let Ok(fd) = self.host.open(held, flag::READ_WRITE)
        {
            return Ok((fd, true));
        }
        Ok((self.host.open(held, 0)?, false))
    }
}

fn lockable(fid: &Fid) -> Result<&Held> {
    match (&fid.opened, &fid.node) {
        (Some(_), Node::File(held)) => Ok(held),
        _ => Err(Errno::BADF),
    }
}

fn identity(fd: impl AsFd) -> Result<Identity> {
    let stat = stat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn above(fd: &OwnedFd) -> Result<OwnedFd> {
    openat(fd, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A name of one entry, that leads nowhere else.
fn plain(name: &[u8]) -> Result<&[u8]> {
    if name.is_empty() || matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Errno::INVAL);
    }
    Ok(name)
}
