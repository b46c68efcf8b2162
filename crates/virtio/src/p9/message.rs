//! The messages of 9P2000.L as bytes: requests are taken apart, replies are put together. Not for what they do.
//!
//! The protocol is described in the manual of Plan 9, section 5, and for what Linux adds in the page "protocol" of
//! the project diod.

use alloc::vec::Vec;

use rvisor_waist::{
    LockKind, Segment, SetTime, ShareAttributes, ShareCall, ShareChange, ShareEntry, ShareError, ShareFile,
    ShareLock, ShareReply, ShareSpace, ShareTime,
};

use super::errno;
use super::wire::{Reader, Writer};

/// Types of requests; a reply's is one more.
pub mod kind {
    /// What a request that failed is answered with.
    pub const RLERROR: u8 = 7;
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const GETLOCK: u8 = 54;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
    pub const REMOVE: u8 = 122;
}

/// Size, type and tag.
pub const HEADER: usize = 7;
/// Bytes of a reply before the data that was read.
pub const DATA_HEADER: usize = HEADER + 4;
/// Bytes of a write request before its data.
pub const WRITE_HEADER: usize = HEADER + 16;
/// Longest message without data. Its longest is a walk along sixteen names.
pub const LONGEST: usize = 16 << 10;
/// Most names of one walk.
const NAMES: u16 = 16;
/// `AT_REMOVEDIR`, the one flag of `Tunlinkat`.
const REMOVE_DIRECTORY: u32 = 0x200;
/// What `Rgetattr` says is there: all basic ones.
const BASIC: u64 = 0x7ff;
/// A file system of the kind "9P", in `Rstatfs`.
const FILE_SYSTEM: u32 = 0x0102_1997;

/// What a request is before it is carried out.
#[derive(PartialEq, Eq, Debug)]
pub enum Request {
    /// `Tversion`: the longest message that the guest takes, and what it wants to speak.
    Version(u32, Vec<u8>),
    /// `Tflush`: the tag of a request whose answer it doesn't want any more.
    Flush(u16),
    /// Something for the back end.
    Call(ShareCall),
}

/// Where a request's data comes from or goes to, already cut to what fits.
#[derive(Default)]
pub struct Data {
    pub segments: Vec<Segment>,
    /// Bytes in them.
    pub length: u32,
}

impl Data {
    /// The first `count` bytes.
    fn take(mut self, count: u32) -> Vec<Segment> {
        let mut left = count;
        self.segments.retain_mut(|segment| {
            segment.length = segment.length.min(left);
            left -= segment.length;
            segment.length > 0
        });
        self.segments
    }
}

/// Takes a request apart. `data` is what follows the fixed part of a write request, or where what is read goes.
pub fn parse(kind: u8, body: &[u8], data: Data) -> Result<Request, ShareError> {
    let mut r = Reader(body);
    let call = match kind {
        kind::VERSION => {
            let version = Request::Version(r.u32()?, r.string()?);
            return r.end().map(|()| version);
        }
        kind::FLUSH => {
            let flush = Request::Flush(r.u16()?);
            return r.end().map(|()| flush);
        }
        kind::ATTACH => {
            let (fid, _authentication, _user) = (r.u32()?, r.u32()?, r.string()?);
            let (tree, _number) = (r.string()?, r.u32()?);
            ShareCall::Attach { fid, tree }
        }
        kind::WALK => {
            let (fid, new_fid, count) = (r.u32()?, r.u32()?, r.u16()?);
            if count > NAMES {
                return Err(errno::EINVAL);
            }
            let names = (0..count).map(|_| r.string()).collect::<Result<_, _>>()?;
            ShareCall::Walk { fid, new_fid, names }
        }
        kind::LOPEN => ShareCall::Open { fid: r.u32()?, flags: r.u32()? },
        kind::LCREATE => {
            let (fid, name, flags, mode, _group) = (r.u32()?, r.string()?, r.u32()?, r.u32()?, r.u32()?);
            ShareCall::Create { fid, name, flags, mode }
        }
        kind::READ => {
            let (fid, offset, count) = (r.u32()?, r.u64()?, r.u32()?);
            let count = count.min(data.length);
            ShareCall::Read { fid, offset, segments: data.take(count) }
        }
        kind::WRITE => {
            let (fid, offset, count) = (r.u32()?, r.u64()?, r.u32()?);
            if count > data.length {
                return Err(errno::EINVAL);
            }
            ShareCall::Write { fid, offset, segments: data.take(count) }
        }
        kind::READDIR => {
            let (fid, offset, count) = (r.u32()?, r.u64()?, r.u32()?);
            ShareCall::ReadDirectory { fid, offset, count: count.min(data.length) }
        }
        kind::GETATTR => {
            let (fid, _wanted) = (r.u32()?, r.u64()?);
            ShareCall::Attributes { fid }
        }
        kind::SETATTR => ShareCall::SetAttributes { fid: r.u32()?, change: change(&mut r)? },
        kind::STATFS => ShareCall::Space { fid: r.u32()? },
        kind::FSYNC => {
            let fid = r.u32()?;
            // Older kernels don't send the second word.
            let data_only = !r.0.is_empty() && r.u32()? != 0;
            ShareCall::Sync { fid, data_only }
        }
        kind::READLINK => ShareCall::ReadLink { fid: r.u32()? },
        kind::SYMLINK => {
            let (directory, name, target, _group) = (r.u32()?, r.string()?, r.string()?, r.u32()?);
            ShareCall::SymbolicLink { directory, name, target }
        }
        kind::LINK => ShareCall::Link { directory: r.u32()?, fid: r.u32()?, name: r.string()? },
        kind::MKDIR => {
            let (directory, name, mode, _group) = (r.u32()?, r.string()?, r.u32()?, r.u32()?);
            ShareCall::MakeDirectory { directory, name, mode }
        }
        kind::MKNOD => {
            let (directory, name, mode) = (r.u32()?, r.string()?, r.u32()?);
            let (_major, _minor, _group) = (r.u32()?, r.u32()?, r.u32()?);
            ShareCall::MakeNode { directory, name, mode }
        }
        kind::RENAMEAT => {
            ShareCall::RenameAt { from: r.u32()?, from_name: r.string()?, to: r.u32()?, to_name: r.string()? }
        }
        kind::UNLINKAT => {
            let (directory, name, flags) = (r.u32()?, r.string()?, r.u32()?);
            if flags & !REMOVE_DIRECTORY != 0 {
                return Err(errno::EINVAL);
            }
            ShareCall::Unlink { directory, name, is_directory: flags != 0 }
        }
        kind::REMOVE => ShareCall::Remove { fid: r.u32()? },
        kind::CLUNK => ShareCall::Forget { fid: r.u32()? },
        kind::LOCK => {
            let (fid, kind, _flags) = (r.u32()?, r.u8()?, r.u32()?);
            let lock = lock(kind, &mut r)?;
            let _client = r.string()?;
            ShareCall::Lock { fid, lock }
        }
        kind::GETLOCK => {
            let (fid, kind) = (r.u32()?, r.u8()?);
            let lock = lock(kind, &mut r)?;
            let _client = r.string()?;
            ShareCall::TestLock { fid, lock }
        }
        _ => return Err(errno::EOPNOTSUPP),
    };
    r.end().map(|()| Request::Call(call))
}

fn lock(kind: u8, r: &mut Reader<'_>) -> Result<ShareLock, ShareError> {
    let kind = match kind {
        0 => LockKind::Shared,
        1 => LockKind::Exclusive,
        2 => LockKind::Unlock,
        _ => return Err(errno::EINVAL),
    };
    Ok(ShareLock { kind, start: r.u64()?, length: r.u64()?, process: r.u32()? })
}

fn lock_kind(kind: LockKind) -> u8 {
    match kind {
        LockKind::Shared => 0,
        LockKind::Exclusive => 1,
        LockKind::Unlock => 2,
    }
}

/// The fixed part of `Tsetattr` behind its fid; bits of `valid` say what counts.
fn change(r: &mut Reader<'_>) -> Result<ShareChange, ShareError> {
    let (valid, mode, user, group, size) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u64()?);
    let mut time = || Ok(ShareTime { seconds: r.u64()?, nanoseconds: r.u64()? });
    let (accessed, modified) = (time()?, time()?);
    let has = |bit: u32| valid >> bit & 1 != 0;
    let set = |bit, explicit, time| match (has(bit), has(explicit)) {
        (false, _) => None,
        (true, false) => Some(SetTime::Now),
        (true, true) => Some(SetTime::To(time)),
    };
    Ok(ShareChange {
        mode: has(0).then_some(mode),
        user: has(1).then_some(user),
        group: has(2).then_some(group),
        size: has(3).then_some(size),
        accessed: set(4, 7, accessed),
        modified: set(5, 8, modified),
    })
}

/// A whole reply of type `kind`. For what was read it ends before the data, which `data` bytes follow.
pub fn reply(kind: u8, tag: u16, body: &[u8], data: u32) -> Vec<u8> {
    let mut w = Writer::default();
    w.u32((HEADER + body.len()) as u32 + data).u8(kind).u16(tag);
    w.0.extend(body);
    w.0
}

/// The body of a reply, without data that was read; how many bytes of that follow.
pub fn body(reply: &ShareReply, is_read: bool) -> (Vec<u8>, u32) {
    let (mut w, mut data) = (Writer::default(), 0);
    match reply {
        ShareReply::Done => {}
        ShareReply::File(f) => file(&mut w, f),
        ShareReply::Walked(files) => {
            w.u16(files.len() as u16);
            files.iter().for_each(|f| file(&mut w, f));
        }
        ShareReply::Opened(f) => {
            file(&mut w, f);
            // No best size: as much as a message holds.
            w.u32(0);
        }
        ShareReply::Count(count) => {
            data = if is_read { *count } else { 0 };
            w.u32(*count);
        }
        ShareReply::Entries(entries) => {
            let size: usize = entries.iter().map(|entry| ShareEntry::size(entry.name.len())).sum();
            w.u32(size as u32);
            for entry in entries {
                file(&mut w, &entry.file);
                w.u64(entry.offset).u8(entry.kind).string(&entry.name);
            }
        }
        ShareReply::Attributes(a) => attributes(&mut w, a),
        ShareReply::Space(s) => space(&mut w, s),
        ShareReply::Target(target) => {
            w.string(target);
        }
        // P9_LOCK_SUCCESS, P9_LOCK_BLOCKED
        ShareReply::Locked(locked) => {
            w.u8(if *locked { 0 } else { 1 });
        }
        ShareReply::InTheWay(lock) => {
            let none = ShareLock { kind: LockKind::Unlock, start: 0, length: 0, process: 0 };
            let lock = lock.unwrap_or(none);
            w.u8(lock_kind(lock.kind)).u64(lock.start).u64(lock.length).u32(lock.process).string(b"");
        }
    }
    (w.0, data)
}

fn file(w: &mut Writer, file: &ShareFile) {
    w.u8(file.kind).u32(file.version).u64(file.path);
}

fn attributes(w: &mut Writer, a: &ShareAttributes) {
    w.u64(BASIC);
    file(w, &a.file);
    w.u32(a.mode).u32(a.user).u32(a.group);
    // Number of a device: there are none.
    w.u64(a.links).u64(0).u64(a.size).u64(a.block_size).u64(a.blocks);
    for time in [a.accessed, a.modified, a.changed, ShareTime::default()] {
        w.u64(time.seconds).u64(time.nanoseconds);
    }
    // Generation and data version, which aren't told.
    w.u64(0).u64(0);
}

fn space(w: &mut Writer, s: &ShareSpace) {
    w.u32(FILE_SYSTEM).u32(s.block_size).u64(s.blocks).u64(s.free).u64(s.available);
    w.u64(s.files).u64(s.free_files).u64(0).u32(s.longest_name);
}
