//! Blocks that were translated in this run, in the form in which they are kept.

use rustc_hash::FxHashMap;

use super::file::Entry;
use super::record::{Parts, Record};

/// Bytes of a chunk: it ends with the record that reaches them.
const CHUNK: usize = 64 << 10;

/// New blocks.
#[derive(Default)]
pub struct Fresh {
    chunks: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    /// Numbers of the entries of each key.
    by_key: FxHashMap<u64, Vec<u32>>,
    bytes: u64,
}

impl Fresh {
    /// Bytes of all chunks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn chunks(&self) -> &[Vec<u8>] {
        &self.chunks
    }

    /// Where the records are, in the order in which they came.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a block.
    pub fn add(&mut self, key: u64, parts: &Parts<'_>) {
        self.append(key, |chunk| parts.write(chunk));
    }

    fn append(&mut self, key: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.chunks.last().is_none_or(|chunk| chunk.len() >= CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK + CHUNK / 8));
        }
        let number = self.chunks.len() as u32 - 1;
        let Some(chunk) = self.chunks.last_mut() else { return };
        let offset = chunk.len();
        write(chunk);
        self.bytes += (chunk.len() - offset) as u64;
        self.by_key.entry(key).or_default().push(self.entries.len() as u32);
        self.entries.push(Entry { key, chunk: number, offset: offset as u32 });
    }

    /// Where the record of `key` is that `fits`.
    pub fn find(&self, key: u64, fits: impl Fn(&Record<'_>) -> bool) -> Option<Entry> {
        let entries = self.by_key.get(&key)?.iter().map(|&number| self.entries[number as usize]);
        entries.into_iter().find(|&entry| self.record(entry).is_some_and(|record| fits(&record)))
    }

    /// The record at an entry.
    pub fn record(&self, entry: Entry) -> Option<Record<'_>> {
        Record::parse(self.chunks.get(entry.chunk as usize)?.get(entry.offset as usize..)?)
    }

    /// Forgets the blocks that aren't `wanted`.
    pub fn retain(&mut self, mut wanted: impl FnMut(u64, &Record<'_>) -> bool) {
        let all = std::mem::take(self);
        for &entry in &all.entries {
            if let Some(record) = all.record(entry)
                && wanted(entry.key, &record)
            {
                let bytes = &all.chunks[entry.chunk as usize][entry.offset as usize..][..record.length()];
                self.append(entry.key, |chunk| chunk.extend_from_slice(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn blocks_are_found_until_they_are_forgotten() {
        let mut fresh = Fresh::default();
        for (key, entry) in [(1, 0x10), (2, 0x20), (2, 0x30)] {
            fresh.append(key, |chunk| chunk.extend(record(entry, &[0; 4])));
        }
        let has =
            |fresh: &Fresh, key, entry| fresh.find(key, |record| record.origin.entry == entry).is_some();
        assert!(has(&fresh, 1, 0x10) && has(&fresh, 2, 0x20) && has(&fresh, 2, 0x30));
        assert!(!has(&fresh, 1, 0x20) && !has(&fresh, 3, 0x10));
        let bytes = fresh.bytes();
        fresh.retain(|_, record| record.origin.entry != 0x20);
        assert!(has(&fresh, 1, 0x10) && !has(&fresh, 2, 0x20) && has(&fresh, 2, 0x30));
        assert_eq!(fresh.bytes(), bytes / 3 * 2);
    }
}
