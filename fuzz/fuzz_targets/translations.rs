#![no_main]
//! Files of kept translations, with checksums that are right: what is in them is read or refused.

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use twox_hash::XxHash3_64;

#[derive(Arbitrary, Debug)]
struct Translations {
    /// Key, chunk and place of each record.
    entries: Vec<(u64, u32, u32)>,
    chunks: Vec<Vec<u8>>,
    /// Bytes of the file that are changed once everything fits.
    changes: Vec<(u16, u8)>,
}

impl Translations {
    fn file(&mut self) -> Vec<u8> {
        self.entries.sort_unstable();
        let mut tables = Vec::new();
        for (key, chunk, offset) in &self.entries {
            tables.extend(key.to_le_bytes());
            tables.extend(chunk.to_le_bytes());
            tables.extend(offset.to_le_bytes());
        }
        for chunk in &self.chunks {
            tables.extend((chunk.len() as u64).to_le_bytes());
            tables.extend(XxHash3_64::oneshot(chunk).to_le_bytes());
        }
        let content = self.chunks.concat();
        let mut file = b"RVISORTC".to_vec();
        file.extend(1_u32.to_le_bytes());
        file.extend([0; 36]);
        file.extend((self.entries.len() as u32).to_le_bytes());
        file.extend((self.chunks.len() as u32).to_le_bytes());
        file.extend((80 + tables.len() as u64 + content.len() as u64).to_le_bytes());
        file.extend(XxHash3_64::oneshot(&tables).to_le_bytes());
        file.extend(XxHash3_64::oneshot(&file).to_le_bytes());
        [file, tables, content].concat()
    }
}

fuzz_target!(|translations: Translations| {
    let mut translations = translations;
    let mut file = translations.file();
    if let Ok(records) = rvisor_translator::check_store(&file) {
        assert_eq!(records, translations.entries.len());
    }
    for &(at, byte) in &translations.changes {
        if let Some(changed) = file.get_mut(usize::from(at)) {
            *changed ^= byte;
        }
    }
    let _ = rvisor_translator::check_store(&file);
});
