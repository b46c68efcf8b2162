#![no_main]
//! What a guest's `tar` sends to `rvisor cp NAME:PATH TO`, one copy after another to the same place. Whatever is in the
//! archives, nothing beside that place changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_instances::take_archive;

#[derive(Arbitrary, Debug)]
struct Order {
    from: Source,
    archive: Archive,
}

/// What the user has asked for.
#[derive(Arbitrary, Debug)]
enum Source {
    Name(Part),
    Content,
    Root,
}

#[derive(Arbitrary, Debug)]
enum Archive {
    Raw(Vec<u8>),
    Entries(Vec<Entry>),
}

#[derive(Arbitrary, Debug)]
struct Entry {
    kind: Kind,
    name: Name,
    link: Name,
    mode: u16,
    /// The name is an entry of its own, before this one.
    is_long: bool,
    content: Vec<u8>,
    /// What the header says of its length, if that is something else.
    size: Option<u64>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Regular,
    Directory,
    Symlink,
    Link,
    Sparse { blocks: Vec<(u32, u32)>, size: u64 },
    Pax,
    LongName,
    LongLink,
    Other(u8),
}

#[derive(Arbitrary, Debug)]
enum Name {
    Parts(Vec<Part>),
    Outside(Part),
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Part {
    A,
    B,
    C,
    Up,
    Here,
    Outside,
    Secret,
}

impl Part {
    fn text(&self) -> &str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::Up => "..",
            Self::Here => ".",
            Self::Outside => "outside",
            Self::Secret => "secret",
        }
    }
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Parts(parts) => parts.iter().map(Part::text).collect::<Vec<_>>().join("/").into_bytes(),
            Self::Outside(part) => PLACES.outside.join(part.text()).into_os_string().into_encoded_bytes(),
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

impl Entry {
    fn write(&self, archive: &mut Vec<u8>) {
        let (name, link) = (self.name.bytes(), self.link.bytes());
        if self.is_long {
            block(archive, b'L', b"././@LongLink", b"", 0, None, &name);
            block(archive, b'K', b"././@LongLink", b"", 0, None, &link);
        }
        let kind = match &self.kind {
            Kind::Regular => b'0',
            Kind::Link => b'1',
            Kind::Symlink => b'2',
            Kind::Directory => b'5',
            Kind::Sparse { blocks, size } => return self.write_sparse(archive, &name, blocks, *size),
            Kind::Pax => {
                let mut content = record(b"path", &name);
                content.extend(record(b"linkpath", &link));
                if let Some(size) = self.size {
                    content.extend(record(b"size", size.to_string().as_bytes()));
                }
                return block(archive, b'x', b"pax", b"", 0o644, None, &content);
            }
            Kind::LongName => b'L',
            Kind::LongLink => b'K',
            Kind::Other(kind) => *kind,
        };
        block(archive, kind, &name, &link, self.mode, self.size, &self.content);
    }

    /// The old format of GNU's tar.
    fn write_sparse(&self, archive: &mut Vec<u8>, name: &[u8], blocks: &[(u32, u32)], size: u64) {
        let start = archive.len();
        block(archive, b'S', name, b"", self.mode, self.size, &self.content);
        let header = &mut archive[start..start + 512];
        for (index, (offset, length)) in blocks.iter().take(4).enumerate() {
            let at = 386 + 24 * index;
            header[at..at + 12].copy_from_slice(&octal::<12>(u64::from(*offset)));
            header[at + 12..at + 24].copy_from_slice(&octal::<12>(u64::from(*length)));
        }
        header[482] = u8::from(blocks.len() > 4);
        header[483..495].copy_from_slice(&octal::<12>(size & 0o777_7777_7777));
        seal(header);
    }
}

/// `LENGTH KEY=VALUE`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn octal<const N: usize>(number: u64) -> [u8; N] {
    let text = format!("{number:0width$o}\0", width = N - 1);
    text.as_bytes()[text.len() - N..].try_into().expect("as long")
}

fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(&octal::<7>(u64::from(sum)));
}

fn block(
    archive: &mut Vec<u8>,
    kind: u8,
    name: &[u8],
    link: &[u8],
    mode: u16,
    size: Option<u64>,
    content: &[u8],
) {
    let mut header = [0; 512];
    let (name, link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(&octal::<8>(u64::from(mode)));
    let size = size.unwrap_or(content.len() as u64);
    header[124..136].copy_from_slice(&octal::<12>(size & 0o777_7777_7777));
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link);
    header[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut header);
    archive.extend(header);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// In memory where the host has a file system there.
static PLACES: LazyLock<Places> = LazyLock::new(|| {
    let root = ["/dev/shm", "/tmp"].into_iter().find(|path| Path::new(path).is_dir()).expect("a directory");
    let root = tempfile::tempdir_in(root).expect("a directory").keep();
    let outside = root.join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("secret"), "secret").expect("a file");
    Places { to: root.join("to"), outside, root }
});

struct Places {
    root: PathBuf,
    to: PathBuf,
    outside: PathBuf,
}

/// All that there is to know of a file, but when it was read.
fn look(path: &Path) -> (u32, u64, i64, i64, u64) {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    (metadata.mode(), metadata.nlink(), metadata.ctime(), metadata.ctime_nsec(), metadata.size())
}

fn names(path: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        fs::read_dir(path).expect("a directory").map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fuzz_target!(|copies: Vec<Order>| {
    let Places { root, to, outside } = &*PLACES;
    let secret = outside.join("secret");
    let look = || (look(outside), look(&secret));
    let before = look();
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).expect("a directory");
    for copy in copies.iter().take(4) {
        let archive = match &copy.archive {
            Archive::Raw(bytes) => bytes.clone(),
            Archive::Entries(entries) => {
                let mut archive = Vec::new();
                entries.iter().for_each(|entry| entry.write(&mut archive));
                archive
            }
        };
        let from = match &copy.from {
            Source::Name(part) => format!("/data/{}", part.text()),
            Source::Content => "/data/a/.".into(),
            Source::Root => "/".into(),
        };
        if let Err(error) = take_archive(archive.as_slice(), &from, to) {
            drop(error.to_string());
        }
        assert_eq!(look(), before);
        assert_eq!(fs::read(&secret).expect("a file"), b"secret");
        assert_eq!(names(outside), [secret.clone()]);
        assert_eq!(names(root), [outside.clone(), to.clone()]);
        let is_left = |path: &PathBuf| path.to_string_lossy().contains(".rvisor-cp-");
        assert!(!names(to).iter().any(is_left));
    }
});
