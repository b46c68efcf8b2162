#![no_main]
//! Save areas of the type-1 home's guests: any bytes on a disk are read or refused, and used again.

use libfuzzer_sys::fuzz_target;
use rvisor_machine::save_area::{SaveArea, SaveError, Storage};

struct Disk<'a>(&'a mut Vec<u8>);

impl Storage for Disk<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SaveError> {
        let start = usize::try_from(offset).expect("inside");
        let found = self.0.get(start..start + buffer.len()).ok_or(SaveError::Disk)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SaveError> {
        let start = usize::try_from(offset).expect("inside");
        let place = self.0.get_mut(start..start + bytes.len()).ok_or(SaveError::Disk)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SaveError> {
        Ok(())
    }
}

// The second header is at 4096 and the rest at 8192: so that few bytes reach all of them, they are given apart. Headers
// get checksums that fit.
fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<u8>, u64)| {
    let (first, second, rest, origin) = input;
    let mut bytes = vec![0; 8192];
    for (at, header) in [(0, first), (4096, second)] {
        let length = header.len().min(512 - 16);
        bytes[at..at + 8].copy_from_slice(b"RVSAVEAR");
        bytes[at + 8] = 1;
        bytes[at + 16..at + 16 + length].copy_from_slice(&header[..length]);
        let sum = crc32fast::hash(&bytes[at + 16..at + 512]);
        bytes[at + 12..at + 16].copy_from_slice(&sum.to_le_bytes());
    }
    bytes.extend(rest);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let size = bytes.len() as u64;
    let Ok(mut area) = SaveArea::open(Disk(&mut bytes), size) else { return };
    let _ = area.content();
    let _ = area.state();
    let _ = area.memory(1 << 16, |run| {
        assert!(run.first + (run.bytes.len() / 4096) as u64 <= 1 << 16);
        Ok(())
    });
    area.note_use(origin).expect("there is room for headers");
    assert!(area.content().is_some_and(|content| !content.is_kept));
});
