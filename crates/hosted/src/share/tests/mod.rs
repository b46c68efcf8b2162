//! A guest of the server without a machine: what it does right, and what it tries ([`hostile`]).

mod hostile;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use rustix::io::Errno;
use rvisor_waist::{
    GuestMemory, GuestPhysical, LockKind, Segment, SetTime, ShareAttributes, ShareCall, ShareChange,
    ShareEntry, ShareLock, ShareReply, ShareTime,
};

use super::options::ShareOptions;
use super::server::Server;
use super::worker::Buffer;
use crate::HostMemory;

const RAM: GuestPhysical = GuestPhysical(0x8000_0000);
const ROOT: u32 = 0;

/// A directory of the host with `shared` in it, which is the guest's.
struct Guest {
    server: Server,
    memory: HostMemory,
    directory: tempfile::TempDir,
    next: std::cell::Cell<u32>,
}

impl Guest {
    fn with(change: impl Fn(&mut ShareOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = directory.path().join("shared");
        fs::create_dir(&host).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        let mut options = ShareOptions { host, guest: "/x".into(), read_only: false, user: 0, group: 0 };
        change(&mut options);
        let server = Server::single(&options).unwrap();
        let memory = HostMemory::new(RAM, 2 << 20).unwrap();
        let guest = Self { server, memory, directory, next: std::cell::Cell::new(1) };
        guest.call(ShareCall::Attach { fid: ROOT, tree: Vec::new() }).unwrap();
        guest
    }

    fn new() -> Self {
        Self::with(|_| ())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("shared").join(name)
    }

    fn call(&self, call: ShareCall) -> Result<ShareReply, Errno> {
        self.server.serve(&call, &mut Buffer { memory: &self.memory, bytes: Vec::new() })
    }

    fn done(&self, call: ShareCall) {
        assert!(matches!(self.call(call), Ok(ShareReply::Done | ShareReply::File(_))));
    }

    /// A fid for what names lead to from another.
    fn walk(&self, from: u32, names: &[&str]) -> Result<u32, Errno> {
        let new_fid = self.next.get();
        self.next.set(new_fid + 1);
        let list = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        match self.call(ShareCall::Walk { fid: from, new_fid, names: list })? {
            ShareReply::Walked(files) if files.len() == names.len() => Ok(new_fid),
            _ => Err(Errno::NOENT),
        }
    }

    fn open(&self, names: &[&str], flags: u32) -> Result<u32, Errno> {
        let fid = self.walk(ROOT, names)?;
        self.call(ShareCall::Open { fid, flags })?;
        Ok(fid)
    }

    fn create(&self, name: &str, flags: u32, mode: u32) -> Result<u32, Errno> {
        let fid = self.walk(ROOT, &[])?;
        self.call(ShareCall::Create { fid, name: name.into(), flags, mode })?;
        Ok(fid)
    }

    fn write(&self, fid: u32, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        self.memory.write(RAM, bytes).unwrap();
        // In two pieces that don't lie behind each other.
        let half = bytes.len() as u32 / 2;
        self.memory.write(RAM.offset(1 << 20), &bytes[half as usize..]).unwrap();
        let segments = vec![
            Segment { address: RAM, length: half },
            Segment { address: RAM.offset(1 << 20), length: bytes.len() as u32 - half },
        ];
        match self.call(ShareCall::Write { fid, offset, segments })? {
            ShareReply::Count(count) => Ok(count),
            other => panic!("{other:?}"),
        }
    }

    fn read(&self, fid: u32, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        let segments = vec![
            Segment { address: RAM, length: length.min(3) },
            Segment { address: RAM.offset(1 << 20), length: length - length.min(3) },
        ];
        let ShareReply::Count(count) =
            self.call(ShareCall::Read { fid, offset, segments: segments.clone() })?
        else {
            panic!("a count")
        };
        let mut bytes = Vec::new();
        for segment in segments {
            let mut piece = vec![0; segment.length as usize];
            self.memory.read(segment.address, &mut piece).unwrap();
            bytes.extend(piece);
        }
        bytes.truncate(count as usize);
        Ok(bytes)
    }

    fn attributes(&self, fid: u32) -> ShareAttributes {
        match self.call(ShareCall::Attributes { fid }) {
            Ok(ShareReply::Attributes(attributes)) => attributes,
            other => panic!("{other:?}"),
        }
    }

    fn set(&self, fid: u32, change: ShareChange) -> Result<(), Errno> {
        self.call(ShareCall::SetAttributes { fid, change }).map(|_| ())
    }

    fn entries(&self, fid: u32, offset: u64, count: u32) -> Result<Vec<ShareEntry>, Errno> {
        match self.call(ShareCall::ReadDirectory { fid, offset, count })? {
            ShareReply::Entries(entries) => Ok(entries),
            other => panic!("{other:?}"),
        }
    }

    fn unlink(&self, name: &str, is_directory: bool) -> Result<(), Errno> {
        self.call(ShareCall::Unlink { directory: ROOT, name: name.into(), is_directory }).map(|_| ())
    }

    fn rename(&self, from: u32, from_name: &str, to: u32, to_name: &str) -> Result<(), Errno> {
        let (from_name, to_name) = (from_name.into(), to_name.into());
        self.call(ShareCall::RenameAt { from, from_name, to, to_name }).map(|_| ())
    }
}

#[test]
fn file_is_made_written_read_and_belongs_to_the_user() {
    let guest = Guest::new();
    let fid = guest.create("new", 2 | 0o200, 0o640).unwrap();
    assert_eq!(guest.write(fid, 0, b"hello world"), Ok(11));
    assert_eq!(guest.write(fid, 6, b"there"), Ok(5));
    assert_eq!(guest.read(fid, 4, 100).unwrap(), b"o there");
    assert_eq!(guest.read(fid, 100, 4).unwrap(), b"");
    let attributes = guest.attributes(fid);
    assert_eq!((attributes.user, attributes.group, attributes.size), (0, 0, 11));
    let host = fs::metadata(guest.path("new")).unwrap();
    assert_eq!(host.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(host.mode() & 0o7777, 0o640);
    guest.done(ShareCall::Sync { fid, data_only: false });
    guest.done(ShareCall::Forget { fid });
    assert_eq!(guest.read(fid, 0, 1), Err(Errno::BADF));
    assert_eq!(guest.create("new", 1 | 0o200, 0o600), Err(Errno::EXIST));
}

#[test]
fn append_is_at_the_guest_s_offset_and_truncation_empties() {
    let guest = Guest::new();
    fs::write(guest.path("log"), "0123456789").unwrap();
    // A guest that keeps the page writes all of it again.
    let fid = guest.open(&["log"], 1 | 0o2000).unwrap();
    assert_eq!(guest.write(fid, 0, b"0123456789abc"), Ok(13));
    assert_eq!(fs::read_to_string(guest.path("log")).unwrap(), "0123456789abc");
    let fid = guest.open(&["log"], 0o1000).unwrap();
    assert_eq!(guest.read(fid, 0, 3).unwrap(), b"012", "nothing is truncated for reading");
    guest.open(&["log"], 2 | 0o1000).unwrap();
    assert_eq!(fs::metadata(guest.path("log")).unwrap().len(), 0);
    // Made again without EXCL: it is opened, and emptied if so asked.
    fs::write(guest.path("log"), "x").unwrap();
    let fid = guest.create("log", 2, 0o600).unwrap();
    assert_eq!(guest.read(fid, 0, 9).unwrap(), b"x");
    guest.create("log", 2 | 0o1000, 0o600).unwrap();
    assert_eq!(fs::metadata(guest.path("log")).unwrap().len(), 0);
}

#[test]
fn open_file_outlives_its_name() {
    let guest = Guest::new();
    let fid = guest.create("gone", 2, 0o600).unwrap();
    guest.write(fid, 0, b"still here").unwrap();
    guest.unlink("gone", false).unwrap();
    assert_eq!(guest.read(fid, 0, 100).unwrap(), b"still here");
    assert_eq!(guest.attributes(fid).links, 0);
    guest.set(fid, ShareChange { size: Some(5), mode: Some(0o400), ..ShareChange::default() }).unwrap();
    assert_eq!(guest.read(fid, 0, 100).unwrap(), b"still");
    assert_eq!(guest.walk(ROOT, &["gone"]), Err(Errno::NOENT));
}

#[test]
fn renamed_directory_keeps_its_fids() {
    let guest = Guest::new();
    fs::create_dir_all(guest.path("a/b")).unwrap();
    fs::write(guest.path("a/b/f"), "f").unwrap();
    fs::create_dir(guest.path("c")).unwrap();
    let (b, c) = (guest.walk(ROOT, &["a", "b"]).unwrap(), guest.walk(ROOT, &["c"]).unwrap());
    let a = guest.walk(ROOT, &["a"]).unwrap();
    guest.rename(a, "b", c, "d").unwrap();
    assert!(guest.walk(b, &["f"]).is_ok() && guest.path("c/d/f").exists());
    let up = guest.walk(b, &[".."]).unwrap();
    assert_eq!(guest.attributes(up).file.path, guest.attributes(c).file.path);
    // A file takes another's place.
    fs::write(guest.path("c/x"), "x").unwrap();
    guest.rename(c, "x", b, "f").unwrap();
    assert_eq!(fs::read_to_string(guest.path("c/d/f")).unwrap(), "x");
    assert_eq!(guest.rename(c, "none", b, "f"), Err(Errno::NOENT));
}

#[test]
fn directory_is_read_in_pieces_from_any_offset() {
    let guest = Guest::new();
    let names: Vec<String> = (0..500).map(|number| format!("file-{number:03}")).collect();
    names.iter().for_each(|name| fs::write(guest.path(name), "").unwrap());
    fs::create_dir(guest.path("sub")).unwrap();
    let fid = guest.open(&[], 0).unwrap();
    let (mut seen, mut offset) = (Vec::new(), 0);
    loop {
        let entries = guest.entries(fid, offset, 1000).unwrap();
        let Some(last) = entries.last() else { break };
        assert!(entries.iter().map(|entry| ShareEntry::size(entry.name.len())).sum::<usize>() <= 1000);
        offset = last.offset;
        seen.extend(entries);
    }
    assert_eq!(seen.len(), 503);
    for entry in &seen {
        // An offset leads behind its entry, again and again.
        let next = guest.entries(fid, entry.offset, 100).unwrap();
        let place = seen.iter().position(|other| other == entry).unwrap();
        assert_eq!(next.first(), seen.get(place + 1));
    }
    let sub = seen.iter().find(|entry| entry.name == b"sub").unwrap();
    assert_eq!((sub.kind, sub.file.kind), (4, 0x80));
    let found = guest.walk(ROOT, &["sub"]).unwrap();
    assert_eq!(guest.attributes(found).file.path, sub.file.path);
    let up = seen.iter().find(|entry| entry.name == b"..").unwrap();
    assert_eq!(up.file.path, guest.attributes(ROOT).file.path, "nothing is told of what is above");
    assert_eq!(guest.entries(fid, 0, 10), Err(Errno::INVAL), "no entry fits");
    let file = guest.open(&["file-000"], 0).unwrap();
    assert_eq!(guest.entries(file, 0, 1000), Err(Errno::NOTDIR));
}

#[test]
fn attributes_are_changed_and_owners_are_not() {
    let guest = Guest::with(|options| (options.user, options.group) = (1000, 100));
    fs::write(guest.path("f"), "123456").unwrap();
    let fid = guest.walk(ROOT, &["f"]).unwrap();
    let time = |seconds| Some(SetTime::To(ShareTime { seconds, nanoseconds: 5 }));
    let change = ShareChange {
        mode: Some(0o6755),
        user: Some(7),
        group: Some(7),
        size: Some(3),
        accessed: time(1),
        modified: time(2),
    };
    guest.set(fid, change).unwrap();
    let attributes = guest.attributes(fid);
    assert_eq!((attributes.user, attributes.group, attributes.size), (1000, 100, 3));
    assert_eq!((attributes.accessed.seconds, attributes.modified.seconds), (1, 2));
    // Nobody on the host may become the user by it.
    assert_eq!(fs::metadata(guest.path("f")).unwrap().permissions().mode() & 0o7777, 0o755);
    guest.set(fid, ShareChange { modified: Some(SetTime::Now), ..ShareChange::default() }).unwrap();
    let now = guest.attributes(fid);
    assert!(now.accessed.seconds == 1 && now.modified.seconds > 2);
    assert_ne!(now.file.version, attributes.file.version, "a change is seen by the version");
    let nonsense = Some(SetTime::To(ShareTime { seconds: 0, nanoseconds: 0x3fff_ffff }));
    assert_eq!(
        guest.set(fid, ShareChange { modified: nonsense, ..ShareChange::default() }),
        Err(Errno::INVAL)
    );
    let root = ShareChange { size: Some(0), ..ShareChange::default() };
    assert_eq!(guest.set(ROOT, root), Err(Errno::ISDIR));
}

#[test]
fn links_and_other_kinds_are_made_and_told() {
    let guest = Guest::new();
    let (name, target) = (b"link".to_vec(), b"/etc/passwd".to_vec());
    guest.done(ShareCall::SymbolicLink { directory: ROOT, name, target: target.clone() });
    let link = guest.walk(ROOT, &["link"]).unwrap();
    assert_eq!(guest.call(ShareCall::ReadLink { fid: link }), Ok(ShareReply::Target(target)));
    assert_eq!(guest.call(ShareCall::ReadLink { fid: ROOT }), Err(Errno::INVAL));
    fs::write(guest.path("f"), "f").unwrap();
    let fid = guest.walk(ROOT, &["f"]).unwrap();
    for (fid, name) in [(fid, "f2"), (link, "link2")] {
        guest.done(ShareCall::Link { directory: ROOT, fid, name: name.into() });
    }
    assert_eq!(guest.attributes(fid).links, 2);
    assert!(fs::symlink_metadata(guest.path("link2")).unwrap().is_symlink());
    for (name, mode) in [("fifo", 0o10644), ("socket", 0o140_600), ("file", 0o100_600)] {
        guest.done(ShareCall::MakeNode { directory: ROOT, name: name.into(), mode });
        let fid = guest.walk(ROOT, &[name]).unwrap();
        assert_eq!(guest.attributes(fid).mode & 0o170_000, mode & 0o170_000);
    }
    guest.done(ShareCall::MakeDirectory { directory: ROOT, name: b"d".to_vec(), mode: 0o700 });
    assert_eq!(guest.unlink("d", false), Err(Errno::ISDIR));
    assert_eq!(guest.unlink("f", true), Err(Errno::NOTDIR));
    guest.unlink("d", true).unwrap();
    guest.unlink("link", false).unwrap();
    let ShareReply::Space(space) = guest.call(ShareCall::Space { fid: ROOT }).unwrap() else { panic!() };
    assert!(space.blocks >= space.free && space.block_size > 0 && space.longest_name == 255);
}

#[test]
fn locks_keep_programs_of_the_host_out() {
    let guest = Guest::new();
    fs::write(guest.path("f"), "f").unwrap();
    let fid = guest.open(&["f"], 2).unwrap();
    let lock = |kind| ShareLock { kind, start: 0, length: 0, process: 1 };
    let call = |kind| guest.call(ShareCall::Lock { fid, lock: lock(kind) });
    assert_eq!(call(LockKind::Exclusive), Ok(ShareReply::Locked(true)));
    let other = fs::File::open(guest.path("f")).unwrap();
    let try_lock = || rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(try_lock().is_err());
    guest.done(ShareCall::Forget { fid });
    try_lock().unwrap();
    let fid = guest.open(&["f"], 0).unwrap();
    let call = |kind| guest.call(ShareCall::Lock { fid, lock: lock(kind) });
    assert_eq!(call(LockKind::Shared), Ok(ShareReply::Locked(false)));
    assert_eq!(
        guest.call(ShareCall::TestLock { fid, lock: lock(LockKind::Exclusive) }),
        Ok(ShareReply::InTheWay(None)),
        "flock isn't seen by a test of ranges"
    );
    let unopened = guest.walk(ROOT, &["f"]).unwrap();
    assert_eq!(guest.call(ShareCall::Lock { fid: unopened, lock: lock(LockKind::Shared) }), Err(Errno::BADF));
}

#[test]
fn several_trees_are_listed_with_their_places() {
    let one = tempfile::tempdir().unwrap();
    fs::write(one.path().join("f"), "in one").unwrap();
    let share = |host: PathBuf, guest: &str, read_only| ShareOptions {
        host,
        guest: guest.into(),
        read_only,
        user: 0,
        group: 0,
    };
    let options = [share(one.path().into(), "/a", false), share(one.path().join("f"), "/b c", true)];
    let server = Server::listed(&options).unwrap();
    let memory = HostMemory::new(RAM, 2 << 20).unwrap();
    let guest = Guest { server, memory, directory: one, next: std::cell::Cell::new(10) };
    guest.call(ShareCall::Attach { fid: ROOT, tree: Vec::new() }).unwrap();
    let places = guest.open(&["places"], 0).unwrap();
    assert_eq!(guest.read(places, 0, 100).unwrap(), b"0 rw /a\n1 ro /b c\n");
    assert_eq!(guest.read(places, 16, 100).unwrap(), b"c\n");
    let listing = guest.open(&[], 0).unwrap();
    let names: Vec<_> =
        guest.entries(listing, 0, 1000).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [&b"."[..], b"..", b"places", b"0", b"1"]);
    assert_eq!(guest.entries(listing, 4, 1000).unwrap().len(), 1);
    let file = guest.open(&["1"], 0).unwrap();
    assert_eq!(guest.read(file, 0, 100).unwrap(), b"in one");
    assert_eq!(guest.open(&["1"], 1), Err(Errno::ROFS));
    assert_eq!(guest.open(&["1", "x"], 0), Err(Errno::NOENT));
    let f = guest.open(&["0", "f"], 2).unwrap();
    assert_eq!(guest.attributes(f).file.path, guest.attributes(file).file.path);
    // By name at once.
    guest.call(ShareCall::Attach { fid: 1, tree: b"0".to_vec() }).unwrap();
    assert!(guest.walk(1, &["f"]).is_ok());
    for wrong in ["2", "00", "+1", "-1", "x"] {
        assert_eq!(guest.walk(ROOT, &[wrong]), Err(Errno::NOENT));
        assert!(guest.call(ShareCall::Attach { fid: 2, tree: wrong.into() }).is_err());
    }
    // Nothing of the listing can be changed, nothing goes from one tree to another.
    assert_eq!(guest.create("x", 2, 0o600), Err(Errno::ROFS));
    assert_eq!(guest.unlink("places", false), Err(Errno::ROFS));
    let zero = guest.walk(ROOT, &["0"]).unwrap();
    assert_eq!(
        guest.call(ShareCall::Link { directory: zero, fid: file, name: b"y".to_vec() }),
        Err(Errno::XDEV)
    );
    let up = guest.walk(zero, &[".."]).unwrap();
    assert_eq!(guest.attributes(up).file.path, guest.attributes(ROOT).file.path);
}
