//! Translations that are kept from one run to the next, in a file for each build of the translator and each
//! kind of host. What is in the file is described in [`file`], what a block is there in [`record`].
//!
//! A block is found by where it is entered in its page and its first bytes of guest code, and taken if all of
//! its guest code is the same. What the code of a block depends on beside that belongs in the file's
//! [`Identity`].

pub mod directory;
pub mod file;
pub mod fresh;
pub mod record;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use rvisor_waist::PAGE_SIZE;
use twox_hash::XxHash3_64;

use crate::frontend::{LAST, reaches_over};
use crate::ir::Offset;
use crate::runtime::cache::PageBytes;
use directory::Directory;
use file::{Chunk, Identity, Reader, Refusal, Writer};
use fresh::Fresh;
use record::{Origin, Parts, Record};

/// Reads all of a file of kept translations as if it were this build's: the number of its records.
///
/// # Errors
/// If it isn't sound.
pub fn check(file: &[u8]) -> Result<usize, Refusal> {
    Reader::open(file, &Identity::of(file)?)?.check()
}

/// Most bytes of the file's chunks.
const LIMIT: u64 = 128 << 20;

/// New bytes that are worth to be written.
const LEAST: u64 = 64 << 10;

/// Of the file: fewer new bytes aren't worth that all of it is written again.
const LEAST_PART: u64 = 16;

/// Lengths of what a block is found by: the longest that its guest code has at its entry.
const KEY_LENGTHS: [usize; 4] = [16, 8, 4, 2];

/// Guest code that a block is wanted of.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// At an offset of a page.
    InPage(Offset, &'a PageBytes),
    /// The instruction across the end of a page.
    Across([u8; 4]),
}

impl Wanted<'_> {
    fn keys(&self) -> impl Iterator<Item = u64> {
        let (entry, is_across, bytes) = match self {
            Self::InPage(entry, page) => (*entry, false, &page.0[*entry as usize % PAGE_SIZE as usize..]),
            Self::Across(bytes) => (LAST, true, &bytes[..]),
        };
        let lengths = KEY_LENGTHS.into_iter().filter(|&length| length <= bytes.len());
        lengths.map(move |length| key(entry, is_across, &bytes[..length]))
    }

    fn fits(&self, record: &Record<'_>) -> bool {
        let Origin { entry, is_across, reaches_over: must_reach, .. } = record.origin;
        match self {
            Self::InPage(wanted, page) => {
                let at =
                    |range: std::ops::Range<u16>| &page.0[usize::from(range.start)..usize::from(range.end)];
                !is_across
                    && entry == *wanted
                    && must_reach.is_none_or(|must_reach| must_reach == reaches_over(*page))
                    && record.pieces().all(|(range, bytes)| at(range) == bytes)
            }
            Self::Across(wanted) => is_across && record.pieces().flat_map(|(_, bytes)| bytes).eq(wanted),
        }
    }
}

fn key(entry: Offset, is_across: bool, bytes: &[u8]) -> u64 {
    let seed = (entry as u64) << 8 | u64::from(is_across) << 7 | bytes.len() as u64;
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// The key of a block.
fn key_of(parts: &Parts<'_>) -> Option<u64> {
    let Origin { entry, is_across, .. } = parts.origin;
    let bytes = match (is_across, parts.pieces) {
        (true, pieces) => pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect(),
        (false, pieces) => pieces.first()?.1.to_vec(),
    };
    let length = KEY_LENGTHS.into_iter().find(|&length| length <= bytes.len())?;
    Some(key(entry, is_across, &bytes[..length]))
}

/// Kept translations, and those that will be.
pub struct Store {
    directory: Directory,
    /// Of the file.
    name: String,
    identity: Identity,
    kept: Option<Reader<File>>,
    fresh: Fresh,
    /// The file is wrong and shall be replaced whatever there is to write.
    is_wrong: bool,
    limit: u64,
    /// Blocks taken.
    pub taken: u64,
}

impl Store {
    /// Opens the file of this build and a host with `features` in a directory, which is made if it isn't there.
    /// `None`, and a warning, where the directory can't be used.
    pub fn open(directory: &Path, features: u32) -> Option<Self> {
        const BUILD: &[u8; 32] = match env!("TRANSLATOR_BUILD").as_bytes().first_chunk() {
            Some(build) => build,
            None => panic!("the build script gives 32 digits"),
        };
        let identity = Identity { build: *BUILD, features };
        match Directory::open(directory) {
            Ok(directory) => Some(Self::with(directory, identity, LIMIT)),
            Err(error) => {
                log::warn!("translations aren't kept in {}: {error}", directory.display());
                None
            }
        }
    }

    fn with(directory: Directory, identity: Identity, limit: u64) -> Self {
        let build = String::from_utf8_lossy(&identity.build[..16]).into_owned();
        let name = format!("{build}-{:x}", identity.features);
        let fresh = Fresh::default();
        let mut store =
            Self { directory, name, identity, kept: None, fresh, is_wrong: false, limit, taken: 0 };
        match store.read() {
            Ok(kept) => store.kept = kept,
            Err(refusal) => store.refuse(&refusal),
        }
        store
    }

    fn read(&self) -> Result<Option<Reader<File>>, Refusal> {
        self.directory.read(&self.name)?.map(|file| Reader::open(file, &self.identity)).transpose()
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let path = self.directory.path().display();
        log::warn!("kept translations {} in {path} aren't used: the file {refusal}", self.name);
        self.kept = None;
        self.is_wrong = true;
    }

    /// The block that was made of some guest code.
    pub fn take(&mut self, wanted: Wanted<'_>) -> Option<Record<'_>> {
        let fits = |record: &Record<'_>| wanted.fits(record);
        let mut found = None;
        for key in wanted.keys() {
            if let Some(kept) = &mut self.kept {
                match kept.find(key, fits) {
                    Ok(entry) => found = entry.map(|entry| (entry, true)),
                    Err(refusal) => self.refuse(&refusal),
                }
            }
            found = found.or_else(|| Some((self.fresh.find(key, fits)?, false)));
            if found.is_some() {
                break;
            }
        }
        let (entry, is_kept) = found?;
        self.taken += 1;
        if is_kept { self.kept.as_mut()?.take(entry).ok() } else { self.fresh.record(entry) }
    }

    /// Keeps a block that wasn't found, as long as the new ones leave some room for those of earlier runs.
    pub fn keep(&mut self, parts: &Parts<'_>) {
        if self.fresh.bytes() < self.limit / 4 * 3
            && let Some(key) = key_of(parts)
        {
            self.fresh.add(key, parts);
        }
    }

    /// Writes what is new, if it is worth it. A failure is told in the log.
    pub fn save(&mut self) {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.chunks().iter().map(Chunk::length).sum());
        if !self.is_wrong && self.fresh.bytes() < LEAST.max(kept / LEAST_PART) {
            return;
        }
        let (start, new) = (Instant::now(), self.fresh.bytes());
        match self.write() {
            Ok(()) => log::info!("{new} bytes of translations were kept in {:?}", start.elapsed()),
            Err(refusal) => {
                let path = self.directory.path().display();
                log::warn!("translations aren't kept: the file {} in {path} {refusal}", self.name);
            }
        }
    }

    fn write(&mut self) -> Result<(), Refusal> {
        // Who writes now has much of the same.
        let Some(lock) = self.directory.lock()? else { return Ok(()) };
        if !self.is_wrong {
            self.refresh();
        }
        let room = self.limit.saturating_sub(self.fresh.bytes());
        let old = self.kept.as_ref().map(|kept| (kept, chosen(kept.chunks(), room)));
        let entries = self.fresh.entries().iter().copied();
        let writer = Writer::new(self.identity, old, self.fresh.chunks(), entries);
        self.directory.replace(&lock, &self.name, |file| {
            writer.write(&mut io::BufWriter::with_capacity(1 << 20, file))
        })?;
        self.fresh = Fresh::default();
        Ok(self.directory.tidy(&lock, &self.name)?)
    }

    /// Takes over a file that another process has written meanwhile.
    fn refresh(&mut self) {
        let Ok(Some(now)) = self.read() else { return };
        if self.kept.as_ref().is_some_and(|kept| kept.is_of_same_file(&now)) {
            return;
        }
        let mut kept = now;
        self.fresh.retain(|key, record| {
            !matches!(kept.find(key, |other| other.is_same_guest_code(record)), Ok(Some(_)))
        });
        self.kept = Some(kept);
    }
}

/// Numbers of the chunks that stay where there is `room` for so many bytes: those that were used, then the ones
/// that came last.
fn chosen(chunks: &[Chunk], mut room: u64) -> Vec<u32> {
    let mut order: Vec<_> = (0..chunks.len() as u32).rev().collect();
    order.sort_by_key(|&number| !chunks[number as usize].is_used);
    order.retain(|&number| {
        let length = chunks[number as usize].length();
        let fits = length <= room;
        room -= if fits { length } else { 0 };
        fits
    });
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests;
