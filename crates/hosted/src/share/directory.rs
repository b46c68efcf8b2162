//! Reading a directory: the host's cookies are the guest's offsets, so that it may go on anywhere.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;
use rvisor_waist::ShareEntry;

/// Bytes asked of the host at a time.
const CHUNK: usize = 32 << 10;

/// How far a directory was read.
#[derive(Default)]
pub(super) struct Cursor {
    /// Where the descriptor stands, if that is where an entry given out ended.
    position: Option<u64>,
}

/// An entry as the host tells it.
pub(super) struct Raw<'a> {
    pub name: &'a [u8],
    pub kind: FileType,
    pub inode: u64,
}

impl Cursor {
    /// Entries behind `offset` that take at most `count` bytes. `entry` makes what the guest sees of one.
    pub fn read(
        &mut self,
        fd: &OwnedFd,
        offset: u64,
        count: usize,
        entry: impl Fn(&Raw<'_>, u64) -> ShareEntry,
    ) -> Result<Vec<ShareEntry>, Errno> {
        if self.position != Some(offset) {
            seek(fd, SeekFrom::Start(offset))?;
        }
        self.position = None;
        let (mut entries, mut size, mut at) = (Vec::new(), 0, offset);
        let mut buffer = [MaybeUninit::uninit(); CHUNK];
        let mut directory = RawDir::new(fd, &mut buffer);
        loop {
            let Some(next) = directory.next() else {
                self.position = Some(at);
                return Ok(entries);
            };
            let next = next?;
            let name = next.file_name().to_bytes();
            let raw = Raw { name, kind: next.file_type(), inode: next.ino() };
            if size + ShareEntry::size(name.len()) > count {
                return match entries.is_empty() {
                    true => Err(Errno::INVAL),
                    false => Ok(entries),
                };
            }
            size += ShareEntry::size(name.len());
            at = next.next_entry_cookie();
            entries.push(entry(&raw, at));
        }
    }
}

/// Linux's `DT_…` of a type.
pub(super) fn type_number(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
