//! The file of kept translations: a header, two tables, and chunks of records.
//!
//! | bytes | header |
//! |---|---|
//! | 8 | `RVISORTC` |
//! | 4 | version of this layout |
//! | 4 | the host's features ([`Features::bits`](crate::backend::x64::lower::Features::bits)) |
//! | 32 | the translator's build, in hexadecimal digits |
//! | 4, 4 | number of records, number of chunks |
//! | 8 | length of the file |
//! | 8 | checksum of the tables |
//! | 8 | checksum of the header so far |
//!
//! The first table has a line for each record, sorted: its key (8 bytes), its chunk (4) and its place therein
//! (4). The second has one for each chunk: length (8) and checksum (8). Then the chunks follow. Numbers are
//! little-endian; checksums are XXH3 with 64 bits. Every byte is under a checksum: the header and the tables
//! are checked when the file is opened, a chunk when it is first read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use twox_hash::XxHash3_64;

use super::record::Record;

const MAGIC: &[u8; 8] = b"RVISORTC";
const VERSION: u32 = 1;
const HEADER: usize = 80;
const LINE: usize = 16;

/// Chunks that stay in memory once they are read: neighbours are used one after the other.
const LOADED: usize = 32;

/// Most bytes of a chunk in a file, with a record that begins at its end.
const LARGEST_CHUNK: u64 = 1 << 20;

/// Whose code it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The translator's build, in hexadecimal digits.
    pub build: [u8; 32],
    /// The host's features.
    pub features: u32,
}

impl Identity {
    /// What a file says of itself.
    pub fn of(file: &[u8]) -> Result<Self, Refusal> {
        match file.get(..HEADER).and_then(|header| header[16..48].first_chunk()) {
            Some(build) => Ok(Self { build: *build, features: number::<4>(file, 12) as u32 }),
            None => Err(Refusal::Damaged("it is too short")),
        }
    }
}

/// Why a file isn't used.
#[derive(thiserror::Error, Debug)]
pub enum Refusal {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// It isn't what it should be.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
    /// It has code that this translator or this host doesn't make.
    #[error("is of another translator or host")]
    Foreign,
}

/// What a file is read from.
pub trait Bytes {
    /// Fills `buffer` from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Number of bytes.
    fn length(&self) -> io::Result<u64>;
}

impl Bytes for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Bytes for &[u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = from.and_then(|from| from.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// Of what it is found by.
    pub key: u64,
    /// Number of its chunk.
    pub chunk: u32,
    /// Where it starts therein.
    pub offset: u32,
}

/// A chunk of a file.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    offset: u64,
    length: u64,
    checksum: u64,
    /// Whether a record of it was taken.
    pub is_used: bool,
}

impl Chunk {
    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// A file that is read.
pub struct Reader<B> {
    bytes: B,
    entries: Vec<Entry>,
    /// Where the entries start whose keys have each value in their highest bits.
    starts: Vec<u32>,
    chunks: Vec<Chunk>,
    /// Chunks in memory, by number; the newest is last.
    loaded: VecDeque<(u32, Box<[u8]>)>,
    /// Checksum of the header.
    signature: u64,
}

/// Where the entries start whose keys have each value in their highest bits, about one for each value, and where all
/// end.
fn starts(entries: &[Entry]) -> Vec<u32> {
    let bits = entries.len().max(2).ilog2();
    let mut starts = Vec::with_capacity((1 << bits) + 1);
    for (number, entry) in (0..).zip(entries) {
        let bucket = (entry.key >> (u64::BITS - bits)) as usize;
        while starts.len() <= bucket {
            starts.push(number);
        }
    }
    starts.resize((1 << bits) + 1, entries.len() as u32);
    starts
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number)
}

impl<B: Bytes> Reader<B> {
    /// Reads header and tables.
    pub fn open(bytes: B, identity: &Identity) -> Result<Self, Refusal> {
        let length = bytes.length()?;
        let mut header = [0; HEADER];
        if length < HEADER as u64 {
            return Err(Refusal::Damaged("it is too short"));
        }
        bytes.read_at(&mut header, 0)?;
        if header[..8] != *MAGIC || XxHash3_64::oneshot(&header[..72]) != number::<8>(&header, 72) {
            return Err(Refusal::Damaged("it has no sound header"));
        }
        let is_ours = number::<4>(&header, 8) == VERSION.into()
            && number::<4>(&header, 12) == identity.features.into()
            && header[16..48] == identity.build;
        if !is_ours {
            return Err(Refusal::Foreign);
        }
        let (records, chunks) = (number::<4>(&header, 48) as usize, number::<4>(&header, 52) as usize);
        let tables = (records + chunks) * LINE;
        if number::<8>(&header, 56) != length || (HEADER + tables) as u64 > length {
            return Err(Refusal::Damaged("it hasn't the length that it should have"));
        }
        let mut table = vec![0; tables];
        bytes.read_at(&mut table, HEADER as u64)?;
        if XxHash3_64::oneshot(&table) != number::<8>(&header, 64) {
            return Err(Refusal::Damaged("its tables are wrong"));
        }
        let (entries, chunks) = table.split_at(records * LINE);
        let entries: Vec<_> = entries
            .chunks_exact(LINE)
            .map(|line| Entry {
                key: number::<8>(line, 0),
                chunk: number::<4>(line, 8) as u32,
                offset: number::<4>(line, 12) as u32,
            })
            .collect();
        let mut offset = (HEADER + tables) as u64;
        let mut read_chunk = |line: &[u8]| {
            let (length, checksum) = (number::<8>(line, 0), number::<8>(line, 8));
            let chunk = Chunk { offset, length, checksum, is_used: false };
            offset += length.min(LARGEST_CHUNK + 1);
            (length <= LARGEST_CHUNK).then_some(chunk)
        };
        let chunks: Option<Vec<_>> = chunks.chunks_exact(LINE).map(&mut read_chunk).collect();
        let chunks = chunks.filter(|_| offset == length).ok_or(Refusal::Damaged("its chunks don't fit"))?;
        let is_sound = |entry: &Entry| {
            chunks.get(entry.chunk as usize).is_some_and(|chunk| u64::from(entry.offset) < chunk.length)
        };
        if !entries.iter().all(is_sound) || !entries.is_sorted() {
            return Err(Refusal::Damaged("its records aren't where they should be"));
        }
        let signature = number::<8>(&header, 72);
        let starts = starts(&entries);
        Ok(Self { bytes, entries, starts, chunks, loaded: VecDeque::new(), signature })
    }

    /// Reads all records: their number.
    pub fn check(&mut self) -> Result<usize, Refusal> {
        for number in 0..self.entries.len() {
            self.record(self.entries[number])?;
        }
        Ok(self.entries.len())
    }

    /// Whether another reader has the same records.
    pub fn is_of_same_file(&self, other: &Self) -> bool {
        self.signature == other.signature
    }

    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Where the record of `key` is that `fits`.
    ///
    /// # Errors
    /// If a record that has to be looked at can't be read.
    pub fn find(&mut self, key: u64, fits: impl Fn(&Record<'_>) -> bool) -> Result<Option<Entry>, Refusal> {
        // Keys are checksums, evenly spread: a search among all would miss the host's caches at every step.
        let bucket = (key >> self.shift()) as usize;
        let (start, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let first = start + self.entries[start..end].partition_point(|entry| entry.key < key);
        for number in first..end {
            let entry = self.entries[number];
            if entry.key != key {
                break;
            }
            if fits(&self.record(entry)?) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// How far a key's highest bits, by which `starts` is indexed, are from its lowest one.
    fn shift(&self) -> u32 {
        u64::BITS - (self.starts.len() - 1).trailing_zeros()
    }

    /// The record at an entry, whose chunk counts as used from now on.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn take(&mut self, entry: Entry) -> Result<Record<'_>, Refusal> {
        self.chunks[entry.chunk as usize].is_used = true;
        self.record(entry)
    }

    fn record(&mut self, entry: Entry) -> Result<Record<'_>, Refusal> {
        let place = self.load(entry.chunk)?;
        let bytes = &self.loaded[place].1[entry.offset as usize..];
        Record::parse(bytes).ok_or(Refusal::Damaged("a record of it is wrong"))
    }

    /// Makes a chunk be in memory; its place there.
    fn load(&mut self, number: u32) -> Result<usize, Refusal> {
        if let Some(place) = self.loaded.iter().rposition(|&(other, _)| other == number) {
            return Ok(place);
        }
        let bytes = self.read(number as usize)?;
        let checksum = self.chunks[number as usize].checksum;
        if XxHash3_64::oneshot(&bytes) != checksum {
            return Err(Refusal::Damaged("a chunk of it is wrong"));
        }
        if self.loaded.len() == LOADED {
            self.loaded.pop_front();
        }
        self.loaded.push_back((number, bytes));
        Ok(self.loaded.len() - 1)
    }

    fn read(&self, number: usize) -> Result<Box<[u8]>, Refusal> {
        let Chunk { offset, length, .. } = self.chunks[number];
        let mut bytes = vec![0; length as usize].into_boxed_slice();
        self.bytes.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// A file to be: records of an older one, and new ones.
pub struct Writer<'a, B> {
    identity: Identity,
    old: Option<(&'a Reader<B>, Vec<u32>)>,
    new: &'a [Vec<u8>],
    entries: Vec<Entry>,
}

impl<'a, B: Bytes> Writer<'a, B> {
    /// With the chunks `kept` of `old`, and the chunks `new`, whose records `entries` names.
    pub fn new(
        identity: Identity,
        old: Option<(&'a Reader<B>, Vec<u32>)>,
        new: &'a [Vec<u8>],
        entries: impl Iterator<Item = Entry>,
    ) -> Self {
        let first = old.as_ref().map_or(0, |(_, kept)| kept.len() as u32);
        let mut all: Vec<_> = entries.map(|entry| Entry { chunk: entry.chunk + first, ..entry }).collect();
        if let Some((reader, kept)) = &old {
            let mut places = vec![None; reader.chunks.len()];
            for (place, &number) in (0..).zip(kept) {
                places[number as usize] = Some(place);
            }
            let place = |entry: &Entry| places[entry.chunk as usize].map(|chunk| Entry { chunk, ..*entry });
            all.extend(reader.entries.iter().filter_map(place));
        }
        all.sort_unstable();
        Self { identity, old, new, entries: all }
    }

    /// Writes the file.
    pub fn write(&self, out: &mut impl Write) -> Result<(), Refusal> {
        let old = self.old.iter().flat_map(|(reader, kept)| {
            kept.iter().map(|&number| &reader.chunks[number as usize]).map(|c| (c.length, c.checksum))
        });
        let new = self.new.iter().map(|chunk| (chunk.len() as u64, XxHash3_64::oneshot(chunk)));
        let chunks: Vec<_> = old.chain(new).collect();
        let mut table = Vec::with_capacity((self.entries.len() + chunks.len()) * LINE);
        for Entry { key, chunk, offset } in &self.entries {
            table.extend(key.to_le_bytes());
            table.extend(chunk.to_le_bytes());
            table.extend(offset.to_le_bytes());
        }
        for (length, checksum) in &chunks {
            table.extend(length.to_le_bytes());
            table.extend(checksum.to_le_bytes());
        }
        let length = (HEADER + table.len()) as u64 + chunks.iter().map(|(length, _)| length).sum::<u64>();
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(self.identity.features.to_le_bytes());
        header.extend(self.identity.build);
        header.extend((self.entries.len() as u32).to_le_bytes());
        header.extend((chunks.len() as u32).to_le_bytes());
        header.extend(length.to_le_bytes());
        header.extend(XxHash3_64::oneshot(&table).to_le_bytes());
        header.extend(XxHash3_64::oneshot(&header).to_le_bytes());
        out.write_all(&header)?;
        out.write_all(&table)?;
        if let Some((reader, kept)) = &self.old {
            for &number in kept {
                out.write_all(&reader.read(number as usize)?)?;
            }
        }
        for chunk in self.new {
            out.write_all(chunk)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::record::tests::record;
    use super::*;

    pub const IDENTITY: Identity = Identity { build: *b"0123456789abcdef0123456789abcdef", features: 5 };

    /// A file of two chunks, with records at 0x10, 0x20 and 0x30 whose keys are 1, 2 and 2.
    pub fn file() -> Vec<u8> {
        let records = [record(0x10, &[1; 4]), record(0x20, &[2; 4]), record(0x30, &[3; 4])];
        let second = records[0].len() as u32;
        let chunks = [[records[0].clone(), records[1].clone()].concat(), records[2].clone()];
        let entries = [
            Entry { key: 2, chunk: 0, offset: second },
            Entry { key: 1, chunk: 0, offset: 0 },
            Entry { key: 2, chunk: 1, offset: 0 },
        ];
        let mut file = Vec::new();
        let writer = Writer::<&[u8]>::new(IDENTITY, None, &chunks, entries.into_iter());
        writer.write(&mut file).expect("memory takes everything");
        file
    }

    fn entry_of(reader: &mut Reader<&[u8]>, key: u64, entry: i32) -> Result<bool, Refusal> {
        Ok(reader.find(key, |record| record.origin.entry == entry)?.is_some())
    }

    #[test]
    fn records_are_found_by_key_and_content() {
        let file = file();
        let mut reader = Reader::open(&file[..], &IDENTITY).expect("it is sound");
        for (key, entry, is_there) in
            [(1, 0x10, true), (2, 0x20, true), (2, 0x30, true), (1, 0x20, false), (3, 0x10, false)]
        {
            assert_eq!(entry_of(&mut reader, key, entry).expect("it is sound"), is_there, "{key} {entry}");
        }
    }

    #[test]
    fn wrong_byte_anywhere_is_noticed() {
        let sound = file();
        for at in 0..sound.len() {
            let mut file = sound.clone();
            file[at] ^= 0x10;
            let Ok(mut reader) = Reader::open(&file[..], &IDENTITY) else { continue };
            let chunks = (entry_of(&mut reader, 1, 0x10), entry_of(&mut reader, 2, 0x30));
            assert!(matches!(chunks, (Err(_), _) | (_, Err(_))), "byte {at}");
        }
    }

    #[test]
    fn cut_or_longer_file_is_refused() {
        let mut file = file();
        for length in 0..file.len() {
            assert!(Reader::open(&file[..length], &IDENTITY).is_err(), "{length}");
        }
        file.push(0);
        assert!(matches!(Reader::open(&file[..], &IDENTITY), Err(Refusal::Damaged(_))));
    }

    #[test]
    fn file_of_another_build_or_host_is_foreign() {
        let file = file();
        for identity in [
            Identity { features: 4, ..IDENTITY },
            Identity { build: *b"1123456789abcdef0123456789abcdef", ..IDENTITY },
        ] {
            assert!(matches!(Reader::open(&file[..], &identity), Err(Refusal::Foreign)));
        }
    }

    #[test]
    fn kept_chunks_and_new_ones_become_one_file() {
        let old = file();
        let reader = Reader::open(&old[..], &IDENTITY).expect("it is sound");
        let new = [record(0x40, &[4; 4])];
        let entries = [Entry { key: 9, chunk: 0, offset: 0 }];
        let writer = Writer::new(IDENTITY, Some((&reader, vec![1])), &new, entries.into_iter());
        let mut merged = Vec::new();
        writer.write(&mut merged).expect("memory takes everything");
        let mut reader = Reader::open(&merged[..], &IDENTITY).expect("it is sound");
        for (key, entry, is_there) in [(9, 0x40, true), (2, 0x30, true), (2, 0x20, false), (1, 0x10, false)] {
            assert_eq!(entry_of(&mut reader, key, entry).expect("it is sound"), is_there, "{key} {entry}");
        }
    }
}
