//! Shared directories of a guest that is a copy of another machine: they are put in their places when the copy is told of
//! them, as the script does where a guest boots (the book, "The guest protocol").

use core::ffi::CStr;

use crate::sys::{self, Error};

const TAG: &CStr = c"rvisor";
const OPTIONS: &CStr = c"trans=virtio,version=9p2000.L,cache=mmap,msize=512000";
/// Where the device's root is meanwhile, without a slash at its end.
const ROOT: &CStr = c"/run/rvisor-shares";
/// Most bytes of the list of places.
const LONGEST_LIST: usize = 64 << 10;
/// Most bytes of a path, with the NUL at its end (limits.h).
const LONGEST_PATH: usize = 4096;
/// Most bytes of what went wrong, in words.
const LONGEST_TROUBLE: usize = 96;

/// Bytes that end with a NUL.
struct Text<const LENGTH: usize> {
    bytes: [u8; LENGTH],
    length: usize,
}

impl<const LENGTH: usize> Text<LENGTH> {
    const fn new() -> Self {
        Self { bytes: [0; LENGTH], length: 0 }
    }

    /// What has no room is cut.
    fn add(mut self, bytes: &[u8]) -> Self {
        let count = bytes.len().min(LENGTH - 1 - self.length);
        self.bytes[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        self.length += count;
        self
    }

    fn as_c_str(&self) -> &CStr {
        // There is a NUL behind the last byte.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// Why the shares aren't in their places.
pub struct Trouble(Text<LONGEST_TROUBLE>);

impl Trouble {
    fn new(words: &[u8]) -> Self {
        Self(Text::new().add(words))
    }

    /// On the console, where nothing may be run that it would be the answer to.
    pub fn tell(&self) {
        [b"rvisor: ", self.words(), b"\n"].into_iter().for_each(sys::say);
    }

    /// In words.
    pub fn words(&self) -> &[u8] {
        self.0.as_c_str().to_bytes()
    }
}

/// Puts each in its place.
pub fn put() -> Result<(), Trouble> {
    let _ = sys::make_directory(c"/run");
    let _ = sys::make_directory(ROOT);
    let mounted = sys::mount(TAG, ROOT, c"9p", 0, OPTIONS);
    if mounted.is_err() {
        return Err(Trouble::new(b"can't mount the shared directories"));
    }
    let result = put_all();
    let _ = sys::unmount(ROOT);
    let _ = sys::remove_directory(ROOT);
    result
}

fn put_all() -> Result<(), Trouble> {
    let mut list = [0; LONGEST_LIST];
    let list =
        read_list(&mut list).map_err(|_| Trouble::new(b"can't read the list of shared directories"))?;
    for line in list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(name), Some(mode), Some(path)) = (words.next(), words.next(), words.next()) else {
            return Err(Trouble::new(b"the list of shared directories makes no sense"));
        };
        if put_one(name, mode == b"rw", path).is_err() {
            return Err(Trouble(Text::new().add(b"can't put a shared directory at ").add(path)));
        }
    }
    Ok(())
}

fn entry(name: &[u8]) -> Text<LONGEST_PATH> {
    Text::new().add(ROOT.to_bytes()).add(b"/").add(name)
}

fn read_list(list: &mut [u8]) -> Result<&[u8], Error> {
    let file = sys::open(entry(b"places").as_c_str(), sys::O_CLOEXEC)?;
    let mut length = 0;
    let result = loop {
        match sys::read_all(file, &mut list[length..]) {
            Ok(0) => break Ok(&list[..length]),
            Ok(count) => length += count,
            Err(error) => break Err(error),
        }
    };
    sys::close(file);
    result
}

fn put_one(name: &[u8], is_writable: bool, path: &[u8]) -> Result<(), Error> {
    let source = entry(name);
    let is_directory = match sys::open(source.as_c_str(), sys::O_PATH | sys::O_DIRECTORY | sys::O_CLOEXEC) {
        Ok(file) => {
            sys::close(file);
            true
        }
        Err(sys::ENOTDIR) => false,
        Err(error) => return Err(error),
    };
    let path = Text::<LONGEST_PATH>::new().add(path);
    make_place(&path, is_directory);
    sys::bind(source.as_c_str(), path.as_c_str())?;
    if is_writable { Ok(()) } else { sys::make_read_only(path.as_c_str()) }
}

/// Makes what isn't there of a path. Where that fails, mounting does.
fn make_place(path: &Text<LONGEST_PATH>, is_directory: bool) {
    let bytes = path.as_c_str().to_bytes();
    for slash in (1..bytes.len()).filter(|at| bytes[*at] == b'/') {
        let _ = sys::make_directory(Text::<LONGEST_PATH>::new().add(&bytes[..slash]).as_c_str());
    }
    if is_directory {
        let _ = sys::make_directory(path.as_c_str());
    } else if let Ok(file) = sys::open(path.as_c_str(), sys::O_CREAT | sys::O_NONBLOCK | sys::O_CLOEXEC) {
        sys::close(file);
    }
}
