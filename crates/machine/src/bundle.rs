//! The *bundle*: what the type-1 home runs, in one file. Kernels, initial RAM disks, command lines, sizes and shares of
//! its guests.
//!
//! ```text
//! header   magic "RVBUNDLE", version, number of guests, length of the file, XXH64 of settings and records
//! settings of the monitor
//! records  one for each guest
//! pieces   kernels, initrds, command lines, and of guests that go on from a state that and their memory, each at a multiple
//!          of 8 bytes, its XXH64 in the record
//! ```
//!
//! All numbers are little-endian. Readers check every length and checksum, that no two guests have one name, and that no
//! guest can write to another's part of the disk.

use alloc::string::String;
use alloc::vec::Vec;

use rvisor_waist::SECTOR_SIZE;
use thiserror::Error;

use crate::checksum::xxh64;
use crate::{MAX_HARTS, save_area};

/// First bytes of a bundle.
pub const MAGIC: &[u8; 8] = b"RVBUNDLE";
/// The version that this code reads and writes.
const VERSION: u32 = 5;
/// Bytes of the header.
const HEADER: usize = 32;
/// Bytes of the settings.
const SETTINGS: usize = 16;
/// Bytes of a record.
const RECORD: usize = 256;
/// Pieces of a guest.
const PIECES: usize = 6;
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
/// Networks are numbered from 0 to one less than this.
pub const MAX_NETWORKS: u32 = 8;
/// The longest slice, in milliseconds.
pub const MAX_SLICE: u32 = 1000;

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
    /// Two guests on the same sectors.
    #[error("guests {0:?} and {1:?} have disk ranges that overlap; move one, or make both read-only")]
    Overlap(String, String),
    /// A guest's disk and save area on the same sectors.
    #[error("guest {0:?}: its disk and its save area overlap; move one")]
    OwnOverlap(String),
    /// A save area without room.
    #[error("guest {guest:?}: its save area has {have} sectors, {need} may be needed; leave its size out")]
    SmallSave {
        /// Which guest.
        guest: String,
        /// Sectors it has.
        have: u64,
        /// Sectors it needs.
        need: u64,
    },
    /// Two guests on one network with one address.
    #[error("guests {0:?} and {1:?} have the same network address; change one")]
    SameAddress(String, String),
    /// A setting of the monitor.
    #[error("{0}")]
    Setting(&'static str),
}

/// What the monitor itself is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Milliseconds that a virtual hart runs at most before others get their turn.
    pub slice: u32,
    /// Whether lines on the console begin with the guest's name where there are several guests.
    pub prefix: bool,
    /// The network that the physical card belongs to.
    pub uplink: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { slice: 5, prefix: true, uplink: None }
    }
}

impl Settings {
    fn check(&self) -> Result<(), BundleError> {
        if !(1..=MAX_SLICE).contains(&self.slice) {
            return Err(BundleError::Setting("the slice must be from 1 to 1000 ms"));
        }
        if self.uplink.is_some_and(|network| network >= MAX_NETWORKS) {
            return Err(BundleError::Setting("there are 8 networks at most"));
        }
        Ok(())
    }
}

/// A range of the physical disk, in sectors of 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskRange {
    /// First sector.
    pub start: u64,
    /// Number of sectors; zero stands for all that follow.
    pub sectors: u64,
    /// Whether the guest may only read.
    pub read_only: bool,
}

impl DiskRange {
    fn end(&self) -> u64 {
        if self.sectors == 0 { u64::MAX } else { self.start.saturating_add(self.sectors) }
    }

    fn conflicts(&self, other: &Self) -> bool {
        !(self.read_only && other.read_only) && self.start < other.end() && other.start < self.end()
    }
}

/// A place on a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Which network.
    pub network: u32,
    /// Hardware address.
    pub mac: [u8; 6],
}

/// Which of its devices is a guest's line to the physical console.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConsoleDevice {
    /// The UART.
    #[default]
    Serial,
    /// The virtio console. What the UART sends is printed, too: that may be all until the driver is there.
    Virtio,
}

/// Everything in a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle<'a> {
    /// The monitor's settings.
    pub settings: Settings,
    /// The guests.
    pub guests: Vec<BundledGuest<'a>>,
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
    /// Percent of one physical hart that all its harts together get at most, even of idle ones; zero for no limit.
    pub cap: u32,
    /// Physical harts that it may run on, one bit for each; zero for all.
    pub affinity: u64,
    /// Whether it starts by itself.
    pub autostart: bool,
    /// Where its line ends.
    pub console: ConsoleDevice,
    /// Its disk.
    pub disk: Option<DiskRange>,
    /// Its network card.
    pub network: Option<Attachment>,
    /// Where its state is kept while it is off.
    pub save: Option<DiskRange>,
    /// What it goes on from the first time, instead of starting the kernel.
    pub saved: Option<SavedGuest<'a>>,
    /// Whether `kernel` is a bare program, raw or ELF, instead of a Linux `Image`.
    pub bare: bool,
    /// What it starts, in S-mode.
    pub kernel: &'a [u8],
    /// Initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Kernel command line.
    pub command_line: &'a str,
}

/// A machine that was saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedGuest<'a> {
    /// Its state, as in a snapshot.
    pub state: &'a [u8],
    /// Its memory, as runs.
    pub memory: &'a [u8],
    /// What the hosted home knows of it besides, for when it comes back; the type-1 home only hands it on.
    pub notes: &'a [u8],
}

impl<'a> BundledGuest<'a> {
    /// A guest with these two and nothing special: 256 MiB, one hart, no disk, no network.
    #[must_use]
    pub const fn new(name: &'a str, kernel: &'a [u8]) -> Self {
        Self {
            name,
            memory: 256 << 20,
            harts: 1,
            weight: 100,
            cap: 0,
            affinity: 0,
            autostart: true,
            console: ConsoleDevice::Serial,
            disk: None,
            network: None,
            save: None,
            saved: None,
            bare: false,
            kernel,
            initrd: None,
            command_line: "",
        }
    }
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
            (self.cap <= 100 * MAX_HARTS as u32, "cap must be from 1 to 6400 percent of a hart"),
            (
                self.disk.is_none_or(|disk| disk.start.checked_add(disk.sectors).is_some()),
                "its disk is too large",
            ),
            (
                self.network.is_none_or(|network| network.network < MAX_NETWORKS),
                "there are 8 networks at most",
            ),
            (
                self.network.is_none_or(|network| network.mac[0] & 1 == 0),
                "its network address is a group's; clear the lowest bit of the first byte",
            ),
            (!self.kernel.is_empty(), "the kernel is empty"),
            (
                self.save
                    .is_none_or(|save| !save.read_only && save.start.checked_add(save.sectors).is_some()),
                "its save area is too large",
            ),
            (self.saved.is_none_or(|saved| !saved.state.is_empty()), "the state is empty"),
            // A state fits its disk once: the disk changes, and somebody has to remember that.
            (
                self.saved.is_none() || self.save.is_some() || self.disk.is_none_or(|disk| disk.read_only),
                "it goes on with a disk, so it needs a save area: give save = { start = … }",
            ),
        ];
        if let Some((_, what)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(BundleError::Number { guest: self.name.into(), what });
        }
        let Some(save) = &self.save else { return Ok(()) };
        let (have, need) = (save.sectors, save_area::size_for(self.memory).div_ceil(SECTOR_SIZE));
        if have < need {
            return Err(BundleError::SmallSave { guest: self.name.into(), have, need });
        }
        if self.disk.is_some_and(|disk| disk.conflicts(save)) {
            return Err(BundleError::OwnOverlap(self.name.into()));
        }
        Ok(())
    }

    /// Its parts of the disk.
    fn ranges(&self) -> impl Iterator<Item = DiskRange> {
        [self.disk, self.save].into_iter().flatten()
    }

    /// The pieces, in the order of the record.
    fn pieces(&self) -> [&[u8]; PIECES] {
        let saved = self.saved.unwrap_or(SavedGuest { state: &[], memory: &[], notes: &[] });
        let initrd = self.initrd.unwrap_or_default();
        [self.kernel, initrd, self.command_line.as_bytes(), saved.state, saved.memory, saved.notes]
    }
}

fn check_all(bundle: &Bundle<'_>) -> Result<(), BundleError> {
    bundle.settings.check()?;
    let guests = &bundle.guests;
    if guests.is_empty() || guests.len() > MAX_GUESTS {
        return Err(BundleError::Guests(guests.len()));
    }
    for (index, guest) in guests.iter().enumerate() {
        guest.check()?;
        guests[..index].iter().try_for_each(|other| check_pair(other, guest))?;
    }
    Ok(())
}

/// What two guests of one bundle may not have in common.
fn check_pair(one: &BundledGuest<'_>, other: &BundledGuest<'_>) -> Result<(), BundleError> {
    let names = || (String::from(one.name), String::from(other.name));
    if one.name == other.name {
        return Err(BundleError::Twice(one.name.into()));
    }
    if one.ranges().any(|range| other.ranges().any(|other| range.conflicts(&other))) {
        let (one, other) = names();
        return Err(BundleError::Overlap(one, other));
    }
    if one.network.is_some() && one.network == other.network {
        let (one, other) = names();
        return Err(BundleError::SameAddress(one, other));
    }
    Ok(())
}

/// Bits of a record's flags.
mod flag {
    pub const AUTOSTART: u32 = 1 << 0;
    pub const BARE: u32 = 1 << 1;
    pub const DISK: u32 = 1 << 2;
    pub const READ_ONLY: u32 = 1 << 3;
    pub const NETWORK: u32 = 1 << 4;
    pub const SAVE: u32 = 1 << 5;
    pub const SAVED: u32 = 1 << 6;
    pub const VIRTIO_CONSOLE: u32 = 1 << 7;
}

/// Writes a bundle.
pub fn write(bundle: &Bundle<'_>) -> Result<Vec<u8>, BundleError> {
    check_all(bundle)?;
    let Bundle { settings, guests } = bundle;
    let mut records = Vec::new();
    records.extend(settings.slice.to_le_bytes());
    records.extend(u32::from(settings.prefix).to_le_bytes());
    records.extend(settings.uplink.unwrap_or(u32::MAX).to_le_bytes());
    records.extend([0; 4]);
    let mut end = HEADER + SETTINGS + guests.len() * RECORD;
    for guest in guests {
        write_record(&mut records, guest);
        for piece in guest.pieces() {
            records.extend((end as u64).to_le_bytes());
            records.extend((piece.len() as u64).to_le_bytes());
            records.extend(xxh64(piece).to_le_bytes());
            end = (end + piece.len()).next_multiple_of(8);
        }
    }
    let mut file = Vec::with_capacity(end);
    file.extend(MAGIC);
    file.extend(VERSION.to_le_bytes());
    file.extend((guests.len() as u32).to_le_bytes());
    file.extend((end as u64).to_le_bytes());
    file.extend(xxh64(&records).to_le_bytes());
    file.extend(records);
    for piece in guests.iter().flat_map(BundledGuest::pieces) {
        file.extend(piece);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    Ok(file)
}

fn write_record(records: &mut Vec<u8>, guest: &BundledGuest<'_>) {
    let mut name = [0; NAME];
    name[..guest.name.len()].copy_from_slice(guest.name.as_bytes());
    let disk = guest.disk.unwrap_or(DiskRange { start: 0, sectors: 0, read_only: false });
    let save = guest.save.unwrap_or(DiskRange { start: 0, sectors: 0, read_only: false });
    let card = guest.network.unwrap_or(Attachment { network: 0, mac: [0; 6] });
    let flags = [
        (guest.autostart, flag::AUTOSTART),
        (guest.bare, flag::BARE),
        (guest.disk.is_some(), flag::DISK),
        (disk.read_only, flag::READ_ONLY),
        (guest.network.is_some(), flag::NETWORK),
        (guest.save.is_some(), flag::SAVE),
        (guest.saved.is_some(), flag::SAVED),
        (guest.console == ConsoleDevice::Virtio, flag::VIRTIO_CONSOLE),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
    records.extend(name);
    records.extend(guest.memory.to_le_bytes());
    for number in [guest.harts, guest.weight, guest.cap, flags] {
        records.extend(number.to_le_bytes());
    }
    for number in [guest.affinity, disk.start, disk.sectors] {
        records.extend(number.to_le_bytes());
    }
    records.extend(u64::from(card.network).to_le_bytes());
    records.extend(card.mac);
    records.extend([0; 2]);
    records.extend(save.start.to_le_bytes());
    records.extend(save.sectors.to_le_bytes());
}

/// Reads a bundle, all of `file`.
pub fn read(file: &[u8]) -> Result<Bundle<'_>, BundleError> {
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
    let end = HEADER + SETTINGS + count * RECORD;
    let records = file.get(HEADER..end).ok_or(BundleError::Damaged("its records"))?;
    if xxh64(records) != word(file, 24) {
        return Err(BundleError::Damaged("its records' checksum"));
    }
    let (settings, records) = records.split_at(SETTINGS);
    let uplink = word(settings, 8) as u32;
    let settings = Settings {
        slice: word(settings, 0) as u32,
        prefix: word(settings, 0) >> 32 != 0,
        uplink: (uplink != u32::MAX).then_some(uplink),
    };
    let guests =
        records.chunks_exact(RECORD).map(|record| read_record(file, record)).collect::<Result<_, _>>()?;
    let bundle = Bundle { settings, guests };
    check_all(&bundle)?;
    Ok(bundle)
}

fn read_record<'a>(file: &'a [u8], record: &'a [u8]) -> Result<BundledGuest<'a>, BundleError> {
    let name = record[..NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = |bytes| core::str::from_utf8(bytes).map_err(|_| BundleError::Damaged("text"));
    let piece = |index: usize| -> Result<&'a [u8], BundleError> {
        let at = RECORD - 24 * (PIECES - index);
        let [offset, length, checksum] = [0, 8, 16].map(|field| word(record, at + field));
        let end = offset.checked_add(length).filter(|end| *end <= file.len() as u64);
        let end = end.ok_or(BundleError::Damaged("a piece lies outside"))?;
        let bytes = &file[offset as usize..end as usize];
        if xxh64(bytes) == checksum { Ok(bytes) } else { Err(BundleError::Damaged("a piece's checksum")) }
    };
    let field = |index: usize| word(record, NAME + 8 * index);
    let flags = (field(2) >> 32) as u32;
    let has = |flag| flags & flag != 0;
    let mac = core::array::from_fn(|byte| record[NAME + 56 + byte]);
    let initrd = piece(1)?;
    Ok(BundledGuest {
        name: text(name)?,
        memory: field(0),
        harts: field(1) as u32,
        weight: (field(1) >> 32) as u32,
        cap: field(2) as u32,
        affinity: field(3),
        autostart: has(flag::AUTOSTART),
        console: if has(flag::VIRTIO_CONSOLE) { ConsoleDevice::Virtio } else { ConsoleDevice::Serial },
        disk: has(flag::DISK).then(|| DiskRange {
            start: field(4),
            sectors: field(5),
            read_only: has(flag::READ_ONLY),
        }),
        network: has(flag::NETWORK).then(|| Attachment { network: field(6) as u32, mac }),
        save: has(flag::SAVE).then(|| DiskRange { start: field(8), sectors: field(9), read_only: false }),
        saved: match has(flag::SAVED) {
            true => Some(SavedGuest { state: piece(3)?, memory: piece(4)?, notes: piece(5)? }),
            false => None,
        },
        bare: has(flag::BARE),
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
            memory: 64 << 20,
            harts: 2,
            cap: 50,
            affinity: 5,
            console: ConsoleDevice::Virtio,
            initrd: Some(b"a disk in memory"),
            command_line: "console=hvc0",
            ..BundledGuest::new(name, b"a kernel")
        }
    }

    const SAVED: SavedGuest<'static> = SavedGuest { state: b"a state", memory: b"pages", notes: b"{}" };

    fn save(start: u64) -> Option<DiskRange> {
        let sectors = save_area::size_for(64 << 20).div_ceil(SECTOR_SIZE);
        Some(DiskRange { start, sectors, read_only: false })
    }

    #[test]
    fn guests_that_go_on_remember_that_they_have() {
        let disk = |read_only| Some(DiskRange { start: 8, sectors: 8, read_only });
        let write = |guest| write(&bundle(&[guest]));
        let saved = BundledGuest { saved: Some(SAVED), ..guest("one") };
        assert!(write(saved.clone()).is_ok());
        assert!(write(BundledGuest { disk: disk(true), ..saved.clone() }).is_ok());
        assert!(write(BundledGuest { disk: disk(false), save: save(16), ..saved.clone() }).is_ok());
        let error = write(BundledGuest { disk: disk(false), ..saved.clone() });
        assert!(matches!(error, Err(BundleError::Number { what, .. }) if what.contains("save = ")));
        let error = write(BundledGuest { disk: disk(false), save: save(15), ..saved.clone() });
        assert_eq!(error, Err(BundleError::OwnOverlap("one".into())));
        let error = write(BundledGuest { save: save(0), memory: 80 << 20, ..saved });
        assert!(matches!(error, Err(BundleError::SmallSave { .. })));
        let one = BundledGuest { save: save(0), ..guest("one") };
        let error = super::write(&bundle(&[one, BundledGuest { disk: disk(true), ..guest("two") }]));
        assert_eq!(error, Err(BundleError::Overlap("one".into(), "two".into())));
    }

    fn bundle(guests: &[BundledGuest<'static>]) -> Bundle<'static> {
        Bundle { settings: Settings::default(), guests: guests.to_vec() }
    }

    #[test]
    fn what_is_written_is_read() {
        let disk = |start, read_only| Some(DiskRange { start, sectors: 2048, read_only });
        let card = |last| Some(Attachment { network: 3, mac: [2, 0, 0, 0, 0, last] });
        let guests = [
            BundledGuest { disk: disk(8, false), network: card(1), ..guest("one") },
            BundledGuest { initrd: None, command_line: "", disk: disk(2056, true), ..guest("two") },
            BundledGuest { autostart: false, bare: true, network: card(2), ..guest("three") },
            BundledGuest {
                save: save(1 << 20),
                saved: Some(SAVED),
                disk: disk(4104, false),
                ..guest("four")
            },
        ];
        let settings = Settings { slice: 20, prefix: false, uplink: Some(3) };
        let bundle = Bundle { settings, guests: guests.to_vec() };
        assert_eq!(read(&write(&bundle).unwrap()).unwrap(), bundle);
    }

    #[test]
    fn truncated_bundle_is_refused() {
        let file = write(&bundle(&[guest("one")])).unwrap();
        assert!((0..file.len()).all(|length| read(&file[..length]).is_err()));
        let longer = [&file[..], &[0]].concat();
        assert_eq!(read(&longer), Err(BundleError::Damaged("it is longer than it says")));
    }

    #[test]
    fn every_damaged_byte_that_counts_is_noticed() {
        let file = write(&bundle(&[guest("one"), guest("two")])).unwrap();
        let padding = |at: usize| file[at] == 0 && at >= HEADER + SETTINGS + 2 * RECORD;
        for at in (0..file.len()).filter(|at| !padding(*at)) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn other_version_is_named() {
        let mut file = write(&bundle(&[guest("one")])).unwrap();
        file[8] = 9;
        assert_eq!(read(&file), Err(BundleError::Version(9)));
    }

    #[test]
    fn numbers_and_names_out_of_range_are_refused() {
        let refused = |guest: BundledGuest<'static>| assert!(write(&bundle(&[guest])).is_err());
        refused(guest(""));
        refused(guest("a b"));
        refused(guest("an endless name, really, for a guest"));
        refused(BundledGuest { memory: 17 << 19, ..guest("x") });
        refused(BundledGuest { memory: 8 << 20, ..guest("x") });
        refused(BundledGuest { harts: 0, ..guest("x") });
        refused(BundledGuest { harts: 65, ..guest("x") });
        refused(BundledGuest { weight: 0, ..guest("x") });
        refused(BundledGuest { cap: 6401, ..guest("x") });
        refused(BundledGuest { kernel: b"", ..guest("x") });
        let endless = DiskRange { start: 2, sectors: u64::MAX, read_only: true };
        refused(BundledGuest { disk: Some(endless), ..guest("x") });
        refused(BundledGuest { network: Some(Attachment { network: 8, mac: [0; 6] }), ..guest("x") });
        refused(BundledGuest { network: Some(Attachment { network: 0, mac: [1; 6] }), ..guest("x") });
        assert_eq!(write(&bundle(&[])), Err(BundleError::Guests(0)));
        assert_eq!(write(&bundle(&[guest("x"), guest("x")])), Err(BundleError::Twice("x".into())));
        for settings in [
            Settings { slice: 0, ..Settings::default() },
            Settings { slice: 1001, ..Settings::default() },
            Settings { uplink: Some(8), ..Settings::default() },
        ] {
            let bundle = Bundle { settings, guests: alloc::vec![guest("x")] };
            assert!(matches!(write(&bundle), Err(BundleError::Setting(_))));
        }
    }

    #[test]
    fn guests_share_sectors_only_to_read() {
        let pair = |one: DiskRange, other: DiskRange| {
            let one = BundledGuest { disk: Some(one), ..guest("one") };
            write(&bundle(&[one, BundledGuest { disk: Some(other), ..guest("two") }]))
        };
        let range = |start, sectors, read_only| DiskRange { start, sectors, read_only };
        assert!(pair(range(0, 8, false), range(8, 8, false)).is_ok());
        assert!(pair(range(0, 8, true), range(4, 0, true)).is_ok());
        for (one, other) in [
            (range(0, 9, false), range(8, 8, false)),
            (range(4, 1, true), range(0, 8, false)),
            (range(0, 0, false), range(1 << 40, 8, true)),
        ] {
            assert_eq!(pair(one, other), Err(BundleError::Overlap("one".into(), "two".into())));
        }
    }

    #[test]
    fn two_cards_of_a_network_have_two_addresses() {
        let card = |network| Some(Attachment { network, mac: [2, 0, 0, 0, 0, 1] });
        let write = |one, two| {
            let one = BundledGuest { network: card(one), ..guest("one") };
            write(&bundle(&[one, BundledGuest { network: card(two), ..guest("two") }]))
        };
        assert_eq!(write(1, 1), Err(BundleError::SameAddress("one".into(), "two".into())));
        assert!(write(1, 2).is_ok());
    }
}
