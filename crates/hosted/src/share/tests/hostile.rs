//! What a guest tries to get out of its directory, to hold the host up, or to use up what it has.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, mknodat};

use super::*;
use crate::share::ShareError;

/// Everything that changes something, from a directory, a file and a name.
fn changes(directory: u32, fid: u32, name: &[u8]) -> Vec<ShareCall> {
    let name = || name.to_vec();
    let change = ShareChange { mode: Some(0o777), ..ShareChange::default() };
    vec![
        ShareCall::Create { fid: directory, name: name(), flags: 2, mode: 0o600 },
        ShareCall::SymbolicLink { directory, name: name(), target: b"x".to_vec() },
        ShareCall::Link { directory, fid, name: name() },
        ShareCall::MakeDirectory { directory, name: name(), mode: 0o700 },
        ShareCall::MakeNode { directory, name: name(), mode: 0o10600 },
        ShareCall::RenameAt { from: directory, from_name: name(), to: directory, to_name: b"z".to_vec() },
        ShareCall::RenameAt { from: directory, from_name: b"f".to_vec(), to: directory, to_name: name() },
        ShareCall::Unlink { directory, name: name(), is_directory: false },
        ShareCall::SetAttributes { fid, change },
    ]
}

#[test]
fn names_that_are_paths_lead_nowhere() {
    let guest = Guest::new();
    fs::create_dir(guest.path("d")).unwrap();
    fs::write(guest.path("f"), "").unwrap();
    for name in ["", ".", "/", "../secret", "d/../../secret", "/etc/passwd", "d/", "a\0b", "..\0"] {
        assert_eq!(guest.walk(ROOT, &[name]), Err(Errno::INVAL), "{name:?}");
        let fid = guest.walk(ROOT, &["f"]).unwrap();
        for call in changes(ROOT, fid, name.as_bytes()).into_iter().take(8) {
            assert_eq!(guest.call(call.clone()), Err(Errno::INVAL), "{call:?}");
        }
    }
    let fid = guest.walk(ROOT, &["f"]).unwrap();
    for call in changes(ROOT, fid, b"..").into_iter().take(8) {
        assert_eq!(guest.call(call.clone()), Err(Errno::INVAL), "{call:?}");
    }
    assert!(guest.walk(ROOT, &[&"x".repeat(300)]).is_err());
}

#[test]
fn above_the_root_is_the_root() {
    let guest = Guest::new();
    fs::create_dir_all(guest.path("a/b/c")).unwrap();
    let root = guest.attributes(ROOT).file.path;
    for names in [&[".."][..], &["..", "..", ".."], &["a", "..", ".."], &["a", "b", "..", "..", ".."]] {
        let fid = guest.walk(ROOT, names).unwrap();
        assert_eq!(guest.attributes(fid).file.path, root, "{names:?}");
    }
    assert!(guest.walk(ROOT, &["..", "secret"]).is_err());
    // Somebody moves the directory out of the tree: from there, no way leads up.
    let c = guest.walk(ROOT, &["a", "b", "c"]).unwrap();
    fs::rename(guest.path("a/b"), guest.directory.path().join("outside")).unwrap();
    assert_eq!(guest.walk(c, &[".."]), Err(Errno::NOENT));
    assert!(guest.walk(c, &["..", "..", "secret"]).is_err());
}

#[test]
fn links_are_not_followed() {
    let guest = Guest::new();
    let outside = guest.directory.path().to_owned();
    symlink(&outside, guest.path("out")).unwrap();
    symlink(outside.join("secret"), guest.path("secret")).unwrap();
    symlink("/proc/self/root", guest.path("proc")).unwrap();
    for names in [&["out", "secret"][..], &["proc", "etc"], &["out", ".."]] {
        assert!(matches!(guest.walk(ROOT, names), Err(Errno::NOENT | Errno::NOTDIR)), "{names:?}");
    }
    for flags in [0, 1, 2, 0o1001] {
        assert_eq!(guest.open(&["secret"], flags), Err(Errno::LOOP));
        assert_eq!(guest.create("secret", flags, 0o600), Err(Errno::LOOP));
    }
    // Nor by what changes a file.
    let link = guest.walk(ROOT, &["secret"]).unwrap();
    let change = ShareChange { size: Some(0), ..ShareChange::default() };
    assert_eq!(guest.set(link, change), Err(Errno::INVAL));
    let _ = guest.set(link, ShareChange { mode: Some(0o777), ..ShareChange::default() });
    let mode = fs::metadata(outside.join("secret")).unwrap().mode();
    assert_ne!(mode & 0o777, 0o777);
    let times = ShareChange { modified: Some(SetTime::To(ShareTime::default())), ..ShareChange::default() };
    let _ = guest.set(link, times);
    assert!(fs::metadata(outside.join("secret")).unwrap().mtime() > 0);
    // A directory that is a link is no directory to make anything in.
    let out = guest.walk(ROOT, &["out"]).unwrap();
    for call in changes(out, link, b"new").into_iter().take(8) {
        assert!(guest.call(call.clone()).is_err(), "{call:?}");
    }
    assert!(!outside.join("new").exists());
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
}

#[test]
fn race_against_links_is_never_won() {
    let guest = Guest::new();
    fs::create_dir(guest.path("inside")).unwrap();
    fs::write(guest.path("inside/secret"), "inside").unwrap();
    let stop = AtomicBool::new(false);
    let (place, spare) = (guest.path("place"), guest.path("spare"));
    symlink(guest.directory.path(), &spare).unwrap();
    fs::rename(guest.path("inside"), &place).unwrap();
    thread::scope(|scope| {
        // One process of the guest, or of the host, exchanges a directory and a link to the outside.
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &place, CWD, &spare, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let end = Instant::now() + Duration::from_millis(400);
        let mut opened = 0;
        while Instant::now() < end || opened == 0 {
            if let Ok(fid) = guest.open(&["place", "secret"], 0) {
                assert_eq!(guest.read(fid, 0, 100).unwrap(), b"inside");
                opened += 1;
                guest.done(ShareCall::Forget { fid });
            }
            if let Ok(fid) = guest.walk(ROOT, &["place"])
                && guest
                    .call(ShareCall::Create { fid, name: b"made".to_vec(), flags: 2, mode: 0o600 })
                    .is_ok()
            {
                assert!(!guest.directory.path().join("made").exists());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!guest.directory.path().join("made").exists());
}

#[test]
fn nothing_but_files_and_directories_is_opened() {
    let guest = Guest::new();
    let start = Instant::now();
    let fifo = rustix::fs::open(guest.path(""), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    mknodat(&fifo, "fifo", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(guest.path("socket")).unwrap();
    let mut names = vec!["fifo", "socket"];
    // Only root of the host can make one to try.
    if mknodat(&fifo, "null", FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, 0x103).is_ok() {
        names.push("null");
    }
    for name in names {
        for flags in [0, 1, 2, 0o4000, 0o1001] {
            assert_eq!(guest.open(&[name], flags), Err(Errno::ACCESS), "{name}");
            assert_eq!(guest.create(name, flags, 0o600), Err(Errno::ACCESS), "{name}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(20), "a FIFO would wait for somebody");
    for mode in [0o20600, 0o60600, 0o40700, 0o120_777, 0] {
        let call = ShareCall::MakeNode { directory: ROOT, name: b"node".to_vec(), mode };
        assert_eq!(guest.call(call), Err(Errno::PERM), "{mode:o}");
    }
    assert_eq!(guest.open(&[], 2), Err(Errno::ISDIR));
    assert_eq!(guest.open(&["fifo"], 3), Err(Errno::INVAL));
}

#[test]
fn view_of_processes_is_not_shared() {
    let options = |host: &str| format!("{host}:/x").parse::<ShareOptions>().unwrap();
    for path in ["/proc", "/proc/self", "/proc/self/mem", "/proc/self/fd"] {
        assert!(matches!(Server::single(&options(path)), Err(ShareError::Process(_))), "{path}");
    }
    assert!(matches!(Server::single(&options("/dev/null")), Err(ShareError::Kind(_))));
    assert!(matches!(Server::single(&options("/none/such")), Err(ShareError::Open { .. })));
    // Nor where it lies in a shared directory.
    let guest = Guest::with(|options| options.host = "/".into());
    assert_eq!(guest.walk(ROOT, &["proc"]), Err(Errno::ACCESS));
    assert!(guest.walk(ROOT, &["proc", "self", "mem"]).is_err());
    assert!(guest.walk(ROOT, &["etc"]).is_ok());
}

#[test]
fn read_only_tree_is_never_changed() {
    let guest = Guest::with(|options| options.read_only = true);
    fs::write(guest.path("f"), "f").unwrap();
    let fid = guest.walk(ROOT, &["f"]).unwrap();
    for call in changes(ROOT, fid, b"new").into_iter().chain(changes(ROOT, fid, b"f")) {
        assert_eq!(guest.call(call.clone()), Err(Errno::ROFS), "{call:?}");
    }
    for flags in [1, 2, 0o1000, 0o1002] {
        assert_eq!(guest.open(&["f"], flags), Err(Errno::ROFS), "{flags:o}");
    }
    let fid = guest.open(&["f"], 0).unwrap();
    assert_eq!(guest.write(fid, 0, b"xx"), Err(Errno::ROFS));
    assert_eq!(guest.read(fid, 0, 5).unwrap(), b"f");
    let lock = ShareLock { kind: LockKind::Exclusive, start: 0, length: 0, process: 0 };
    assert_eq!(guest.call(ShareCall::Lock { fid, lock }), Ok(ShareReply::Locked(true)));
}

#[test]
fn fids_are_what_they_are() {
    let guest = Guest::new();
    fs::write(guest.path("f"), "f").unwrap();
    let unknown = 12345;
    for call in changes(unknown, ROOT, b"n")
        .into_iter()
        .take(8)
        .chain(changes(ROOT, unknown, b"n").into_iter().skip(8))
    {
        assert_eq!(guest.call(call.clone()), Err(Errno::BADF), "{call:?}");
    }
    assert_eq!(guest.call(ShareCall::Attach { fid: ROOT, tree: Vec::new() }), Err(Errno::INVAL));
    let fid = guest.open(&["f"], 1).unwrap();
    assert_eq!(guest.read(fid, 0, 1), Err(Errno::BADF), "open for writing only");
    assert_eq!(guest.call(ShareCall::Open { fid, flags: 0 }), Err(Errno::INVAL));
    assert_eq!(guest.walk(fid, &[]), Err(Errno::INVAL));
    let walk = ShareCall::Walk { fid: ROOT, new_fid: fid, names: Vec::new() };
    assert_eq!(guest.call(walk), Err(Errno::INVAL), "in use");
    assert_eq!(guest.walk(ROOT, &["f", "x"]), Err(Errno::NOENT));
    for offset in [u64::MAX, i64::MAX as u64] {
        assert_eq!(guest.write(fid, offset, b"xx"), Err(Errno::INVAL));
    }
    assert_eq!(guest.call(ShareCall::Remove { fid }), Err(Errno::OPNOTSUPP));
    assert_eq!(guest.call(ShareCall::Forget { fid }), Err(Errno::BADF), "forgotten all the same");
    let directory = guest.open(&[], 0).unwrap();
    assert_eq!(guest.read(directory, 0, 1), Err(Errno::ISDIR));
    let _ = guest.entries(directory, u64::MAX, 1000);
    let _ = guest.entries(directory, 0x1234_5678_9abc, 1000);
    guest.done(ShareCall::Reset);
    assert_eq!(guest.call(ShareCall::Attributes { fid: ROOT }), Err(Errno::BADF));
}
