//! The *bundle*: what the type-1 home runs, in one file. Kernels, initial RAM disks, command lines and sizes of its
//! guests.
//!
//! ```text
//! header   magic "RVBUNDLE", version, number of guests, length of the file, CRC-32 of the records
//! records  one for each guest
//! pieces   kernels, initrds and command lines, each at a multiple of 8 bytes
//! ```
//!
//! All numbers are little-endian. Readers check every length and checksum, and that no two guests have one name.

use alloc::string::String;
use alloc::vec::Vec;

use thiserror::Error;

use crate::MAX_HARTS;

/// First bytes of a bundle.
pub const MAGIC: &[u8; 8] = b"RVBUNDLE";
/// The version that this code reads and writes.
const VERSION: u32 = 1;
/// Bytes of the header.
const HEADER: usize = 32;
/// Bytes of a record.
const RECORD: usize = 120;
/// Bytes of a guest's name at most.
const NAME: usize = 32;
/// Guests in one bundle at most.
pub const MAX_GUESTS: usize = 32;
/// A guest's memory is a multiple of this, and no less than [`LEAST_MEMORY`].
pub const MEMORY_UNIT: u64 = 2 << 20;
/// The least memory of a guest, in bytes.
pub const LEAST_MEMORY: u64 = 16 << 20;
/// The most memory of a guest, in bytes.
pub const MOST_MEMORY: u64 = 1 << 40;
/// Weights are from 1 to this.
pub const MAX_WEIGHT: u32 = 10_000;

/// Why a bundle can't be read or written.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BundleError {
    /// Something else.
    #[error("this isn't a bundle; make one with rvisor bundle build")]
    Unknown,
    /// Another version.
    #[error("the bundle has version {0}, this Rvisor reads version {VERSION}; build it again")]
    Version(u32),
    /// Too short.
    #[error("the bundle is cut short: {have} bytes of {need}; copy it again")]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// Checksums or lengths that don't fit.
    #[error("the bundle is damaged ({0}); copy or build it again")]
    Damaged(&'static str),
    /// No guest, or too many.
    #[error("a bundle has 1 to {MAX_GUESTS} guests, not {0}")]
    Guests(usize),
    /// A name.
    #[error("{0:?} can't be a guest's name: use 1 to {NAME} letters, digits, '-' and '_'")]
    Name(String),
    /// Two guests of one name.
    #[error("two guests are called {0:?}; rename one")]
    Twice(String),
    /// A number out of range.
    #[error("guest {guest:?}: {what}")]
    Number {
        /// Which guest.
        guest: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// One guest of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundledGuest<'a> {
    /// Letters, digits, `-` and `_`.
    pub name: &'a str,
    /// Bytes of RAM.
    pub memory: u64,
    /// Number of virtual harts.
    pub harts: u32,
    /// Share of the processors, beside those of other guests.
    pub weight: u32,
    /// A Linux `Image`.
    pub kernel: &'a [u8],
    /// Initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Kernel command line.
    pub command_line: &'a str,
}

impl BundledGuest<'_> {
    fn check(&self) -> Result<(), BundleError> {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if self.name.is_empty() || self.name.len() > NAME || !self.name.as_bytes().iter().all(is_name) {
            return Err(BundleError::Name(self.name.chars().take(NAME).collect()));
        }
        let rules = [
            (
                self.memory.is_multiple_of(MEMORY_UNIT)
                    && (LEAST_MEMORY..=MOST_MEMORY).contains(&self.memory),
                "memory must be a multiple of 2 MiB, from 16 MiB to 1 TiB",
            ),
            ((1..=MAX_HARTS as u32).contains(&self.harts), "harts must be from 1 to 64"),
            ((1..=MAX_WEIGHT).contains(&self.weight), "weight must be from 1 to 10000"),
            (!self.kernel.is_empty(), "the kernel is empty"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, what)) => Err(BundleError::Number { guest: self.name.into(), what }),
            None => Ok(()),
        }
    }

    /// The pieces, in the order of the record.
    fn pieces(&self) -> [&[u8]; 3] {
        [self.kernel, self.initrd.unwrap_or_default(), self.command_line.as_bytes()]
    }
}

fn check_all(guests: &[BundledGuest<'_>]) -> Result<(), BundleError> {
    if guests.is_empty() || guests.len() > MAX_GUESTS {
        return Err(BundleError::Guests(guests.len()));
    }
    for (index, guest) in guests.iter().enumerate() {
        guest.check()?;
        if guests[..index].iter().any(|other| other.name == guest.name) {
            return Err(BundleError::Twice(guest.name.into()));
        }
    }
    Ok(())
}

/// Writes a bundle.
pub fn write(guests: &[BundledGuest<'_>]) -> Result<Vec<u8>, BundleError> {
    check_all(guests)?;
    let mut records = Vec::new();
    let mut end = HEADER + guests.len() * RECORD;
    for guest in guests {
        let mut name = [0; NAME];
        name[..guest.name.len()].copy_from_slice(guest.name.as_bytes());
        records.extend(name);
        records.extend(guest.memory.to_le_bytes());
        records.extend(guest.harts.to_le_bytes());
        records.extend(guest.weight.to_le_bytes());
        for piece in guest.pieces() {
            records.extend((end as u64).to_le_bytes());
            records.extend((piece.len() as u64).to_le_bytes());
            records.extend(u64::from(crc32fast::hash(piece)).to_le_bytes());
            end = (end + piece.len()).next_multiple_of(8);
        }
    }
    let mut file = Vec::with_capacity(end);
    file.extend(MAGIC);
    file.extend(VERSION.to_le_bytes());
    file.extend((guests.len() as u32).to_le_bytes());
    file.extend((end as u64).to_le_bytes());
    file.extend(u64::from(crc32fast::hash(&records)).to_le_bytes());
    file.extend(records);
    for piece in guests.iter().flat_map(BundledGuest::pieces) {
        file.extend(piece);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    Ok(file)
}

/// Reads a bundle, all of `file`.
pub fn read(file: &[u8]) -> Result<Vec<BundledGuest<'_>>, BundleError> {
    if !file.starts_with(MAGIC) {
        return Err(BundleError::Unknown);
    }
    let have = file.len() as u64;
    if file.len() < HEADER {
        return Err(BundleError::Truncated { have, need: HEADER as u64 });
    }
    let version = word(file, 8) as u32;
    if version != VERSION {
        return Err(BundleError::Version(version));
    }
    let (count, need) = ((word(file, 8) >> 32) as usize, word(file, 16));
    if need > have {
        return Err(BundleError::Truncated { have, need });
    }
    if need < have {
        return Err(BundleError::Damaged("it is longer than it says"));
    }
    if count == 0 || count > MAX_GUESTS {
        return Err(BundleError::Guests(count));
    }
    let records = file.get(HEADER..HEADER + count * RECORD).ok_or(BundleError::Damaged("its records"))?;
    if u64::from(crc32fast::hash(records)) != word(file, 24) {
        return Err(BundleError::Damaged("its records' checksum"));
    }
    let guests: Vec<_> =
        records.chunks_exact(RECORD).map(|record| read_record(file, record)).collect::<Result<_, _>>()?;
    check_all(&guests)?;
    Ok(guests)
}

fn read_record<'a>(file: &'a [u8], record: &'a [u8]) -> Result<BundledGuest<'a>, BundleError> {
    let name = record[..NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = |bytes| core::str::from_utf8(bytes).map_err(|_| BundleError::Damaged("text"));
    let piece = |index: usize| -> Result<&'a [u8], BundleError> {
        let at = NAME + 16 + 24 * index;
        let [offset, length, checksum] = [0, 8, 16].map(|field| word(record, at + field));
        let end = offset.checked_add(length).filter(|end| *end <= file.len() as u64);
        let end = end.ok_or(BundleError::Damaged("a piece lies outside"))?;
        let bytes = &file[offset as usize..end as usize];
        if u64::from(crc32fast::hash(bytes)) == checksum {
            Ok(bytes)
        } else {
            Err(BundleError::Damaged("a piece's checksum"))
        }
    };
    let initrd = piece(1)?;
    Ok(BundledGuest {
        name: text(name)?,
        memory: word(record, NAME),
        harts: word(record, NAME + 8) as u32,
        weight: (word(record, NAME + 8) >> 32) as u32,
        kernel: piece(0)?,
        initrd: (!initrd.is_empty()).then_some(initrd),
        command_line: text(piece(2)?)?,
    })
}

/// The number of 8 bytes at `offset`, which is inside.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str) -> BundledGuest<'_> {
        BundledGuest {
            name,
            memory: 64 << 20,
            harts: 2,
            weight: 100,
            kernel: b"a kernel",
            initrd: Some(b"a disk in memory"),
            command_line: "console=hvc0",
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let guests = [guest("one"), BundledGuest { initrd: None, command_line: "", ..guest("two") }];
        assert_eq!(read(&write(&guests).unwrap()).unwrap(), guests);
    }

    #[test]
    fn truncated_bundle_is_refused() {
        let file = write(&[guest("one")]).unwrap();
        assert!((0..file.len()).all(|length| read(&file[..length]).is_err()));
        let longer = [&file[..], &[0]].concat();
        assert_eq!(read(&longer), Err(BundleError::Damaged("it is longer than it says")));
    }

    #[test]
    fn every_damaged_byte_that_counts_is_noticed() {
        let file = write(&[guest("one"), guest("two")]).unwrap();
        let padding = |at: usize| file[at] == 0 && at >= HEADER + 2 * RECORD;
        for at in (0..file.len()).filter(|at| !padding(*at)) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn other_version_is_named() {
        let mut file = write(&[guest("one")]).unwrap();
        file[8] = 9;
        assert_eq!(read(&file), Err(BundleError::Version(9)));
    }

    #[test]
    fn numbers_and_names_out_of_range_are_refused() {
        let refused =
            |guest: BundledGuest<'_>| assert!(write(core::slice::from_ref(&guest)).is_err(), "{guest:?}");
        refused(guest(""));
        refused(guest("a b"));
        refused(guest("an endless name, really, for a guest"));
        refused(BundledGuest { memory: 17 << 19, ..guest("x") });
        refused(BundledGuest { memory: 8 << 20, ..guest("x") });
        refused(BundledGuest { harts: 0, ..guest("x") });
        refused(BundledGuest { harts: 65, ..guest("x") });
        refused(BundledGuest { weight: 0, ..guest("x") });
        refused(BundledGuest { kernel: b"", ..guest("x") });
        assert_eq!(write(&[]), Err(BundleError::Guests(0)));
        assert_eq!(write(&[guest("x"), guest("x")]), Err(BundleError::Twice("x".into())));
    }
}
