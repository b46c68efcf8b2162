//! What a back end for shared files is asked to do: the requests of the protocol 9P2000.L as values, without its
//! bytes. A *fid* is the guest's name for a file that it holds, open or not.

use alloc::vec::Vec;

use crate::Segment;

/// One request to a [`FileShareBackend`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareRequest {
    /// The front end's name for the request, returned with its completion.
    pub id: u64,
    /// What to do.
    pub call: ShareCall,
}

/// The end of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareCompletion {
    /// The request's `id`.
    pub id: u64,
    /// What came of it.
    pub result: Result<ShareReply, ShareError>,
}

/// Why a request failed: an error number of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareError(pub u32);

/// A request. Names and targets of links are bytes; the front end has checked nothing of them but their lengths.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "fields are those of the protocol's messages, under their names")]
pub enum ShareCall {
    /// `Tversion`: a session begins; all fids are forgotten.
    Reset,
    /// `Tattach`: `fid` becomes the root of the tree called `tree`.
    Attach { fid: u32, tree: Vec<u8> },
    /// `Twalk`: `new_fid` becomes what `names` lead to from `fid`.
    Walk { fid: u32, new_fid: u32, names: Vec<Vec<u8>> },
    /// `Tlopen`, with the flags of Linux's generic `open`.
    Open { fid: u32, flags: u32 },
    /// `Tlcreate`: makes and opens a file; `fid` becomes it.
    Create { fid: u32, name: Vec<u8>, flags: u32, mode: u32 },
    /// `Tread`: fills the segments, in order.
    Read { fid: u32, offset: u64, segments: Vec<Segment> },
    /// `Twrite`: from the segments, in order.
    Write { fid: u32, offset: u64, segments: Vec<Segment> },
    /// `Treaddir`: entries after `offset`, which take at most `count` bytes ([`ShareEntry::size`]).
    ReadDirectory { fid: u32, offset: u64, count: u32 },
    /// `Tgetattr`.
    Attributes { fid: u32 },
    /// `Tsetattr`.
    SetAttributes { fid: u32, change: ShareChange },
    /// `Tstatfs`.
    Space { fid: u32 },
    /// `Tfsync`.
    Sync { fid: u32, data_only: bool },
    /// `Treadlink`.
    ReadLink { fid: u32 },
    /// `Tsymlink`.
    SymbolicLink { directory: u32, name: Vec<u8>, target: Vec<u8> },
    /// `Tlink`.
    Link { directory: u32, fid: u32, name: Vec<u8> },
    /// `Tmkdir`.
    MakeDirectory { directory: u32, name: Vec<u8>, mode: u32 },
    /// `Tmknod`; `mode` has the type.
    MakeNode { directory: u32, name: Vec<u8>, mode: u32 },
    /// `Trenameat`.
    RenameAt { from: u32, from_name: Vec<u8>, to: u32, to_name: Vec<u8> },
    /// `Tunlinkat`.
    Unlink { directory: u32, name: Vec<u8>, is_directory: bool },
    /// `Tremove`: removes the file, and forgets the fid whatever comes of it. (Linux sends `Tunlinkat`.)
    Remove { fid: u32 },
    /// `Tlock`.
    Lock { fid: u32, lock: ShareLock },
    /// `Tgetlock`: what would be in the way of a lock.
    TestLock { fid: u32, lock: ShareLock },
    /// `Tclunk`: the fid is forgotten.
    Forget { fid: u32 },
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShareReply {
    /// It is done, and there is nothing to tell.
    Done,
    /// Which file it is now about.
    File(ShareFile),
    /// Which files the names led to: fewer than were given where one isn't there.
    Walked(Vec<ShareFile>),
    /// The file is open.
    Opened(ShareFile),
    /// So many bytes were read or written.
    Count(u32),
    /// Entries of a directory; none at its end.
    Entries(Vec<ShareEntry>),
    /// All about a file.
    Attributes(ShareAttributes),
    /// Room in the file system.
    Space(ShareSpace),
    /// Where a link leads.
    Target(Vec<u8>),
    /// Whether the lock was taken; if not, somebody else has it.
    Locked(bool),
    /// The lock in the way; `None` if there is none.
    InTheWay(Option<ShareLock>),
}

/// A file's identity (`qid`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareFile {
    /// What kind of file it is: `QTDIR` 0x80, `QTSYMLINK` 2, else 0.
    pub kind: u8,
    /// Another number after each change; 0 where it can't be told.
    pub version: u32,
    /// The file's number: the same for the same file, and for no other.
    pub path: u64,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareEntry {
    /// The file; its version isn't told.
    pub file: ShareFile,
    /// Where the next entry begins.
    pub offset: u64,
    /// Linux's `DT_…`.
    pub kind: u8,
    /// Its name.
    pub name: Vec<u8>,
}

impl ShareEntry {
    /// Bytes that an entry with a name of so many bytes takes in the protocol.
    #[must_use]
    pub const fn size(name: usize) -> usize {
        13 + 8 + 1 + 2 + name
    }
}

/// A moment: seconds and nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShareTime {
    /// Seconds.
    pub seconds: u64,
    /// Nanoseconds.
    pub nanoseconds: u64,
}

/// All about a file (`Rgetattr`).
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "fields are those of `struct stat`")]
pub struct ShareAttributes {
    pub file: ShareFile,
    pub mode: u32,
    pub user: u32,
    pub group: u32,
    pub links: u64,
    pub size: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub accessed: ShareTime,
    pub modified: ShareTime,
    pub changed: ShareTime,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The time it is.
    Now,
    /// Another one.
    To(ShareTime),
}

/// What to change of a file (`Tsetattr`).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs, reason = "fields are those of the message")]
pub struct ShareChange {
    pub mode: Option<u32>,
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<SetTime>,
    pub modified: Option<SetTime>,
}

/// Room in a file system (`Rstatfs`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs, reason = "fields are those of `struct statfs`")]
pub struct ShareSpace {
    pub block_size: u32,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub free_files: u64,
    pub longest_name: u32,
}

/// What a lock is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockKind {
    /// To read: several may hold one.
    Shared,
    /// To write: one may hold it.
    Exclusive,
    /// None: what was held is given back.
    Unlock,
}

/// A lock on a range of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareLock {
    /// What for.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Bytes; 0 is all up to the end, however far the file grows.
    pub length: u64,
    /// The guest's process.
    pub process: u32,
}

/// Trees of files that a guest may use. What it asks is carried out in any order: a guest that needs an order waits
/// for answers. A back end serves nothing outside its trees, whatever the names and links in them say.
pub trait FileShareBackend: Send {
    /// What the guest finds the device by (`mount_tag`).
    fn tag(&self) -> &str;
    /// Starts a request; never blocks. Segments lie within RAM.
    fn submit(&mut self, request: ShareRequest);
    /// Takes one finished request, in any order.
    fn complete(&mut self) -> Option<ShareCompletion>;
    /// Waits until every submitted request has finished, drops their completions, and forgets all fids.
    fn drain(&mut self);
    /// Whether the guest holds fids, and so files of the host.
    fn is_in_use(&self) -> bool;
}
