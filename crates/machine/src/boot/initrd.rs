//! The initial RAM disk: archives one behind the other, each plain or compressed (Linux documentation,
//! "initramfs buffer format").
//!
//! The kernel unpacks it; [`check`] only makes sure, before a machine starts, that it is one and that it is
//! whole. LZMA, LZO and bzip2 don't say how long they are: of these only the beginning is checked.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use thiserror::Error;

use crate::bundle::{self, BundleError};

/// Why a file isn't an initrd.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum InitrdError {
    /// Nothing in it, or nothing but zeros.
    #[error("the initrd file is empty; give a cpio archive, plain or compressed")]
    Empty,
    /// Not a format the kernel unpacks.
    #[error(
        "the initrd file isn't a cpio archive, plain or compressed; give one made by mkinitramfs or cpio -H newc"
    )]
    Unknown,
    /// It ends in the middle.
    #[error("the initrd file is cut short (in its {0} part); copy it again")]
    Truncated(&'static str),
    /// It can't be unpacked.
    #[error("the initrd file is damaged (in its {0} part); copy it again")]
    Damaged(&'static str),
}

/// Reads one archive at the start of the bytes and returns what is behind it.
type Skip = fn(&[u8]) -> Result<&[u8], InitrdError>;

/// First bytes of each format and how to find its end.
const FORMATS: [(&[u8], Skip); 12] = [
    (b"070701", skip_cpio),
    (b"070702", skip_cpio),
    (b"\x1f\x8b", skip_gzip),
    (b"\x28\xb5\x2f\xfd", skip_zstd),
    (b"\xfd7zXZ\0", skip_xz),
    (b"\x02\x21\x4c\x18", skip_lz4),
    (b"BZh", skip_all),
    (b"\x5d\0\0", skip_all),
    (b"\x89LZO\0", skip_all),
    // Formats of file systems in RAM that kernels still take: cramfs and squashfs.
    (b"\x45\x3d\xcd\x28", skip_all),
    (b"hsqs", skip_all),
    // What Rvisor's own type-1 home takes as its initrd.
    (bundle::MAGIC, skip_bundle),
];

/// Checks that `file` is an initrd and isn't cut short.
pub fn check(file: &[u8]) -> Result<(), InitrdError> {
    let mut rest = skip_zeros(file);
    if rest.is_empty() {
        return Err(InitrdError::Empty);
    }
    while !rest.is_empty() {
        let format = FORMATS.iter().find(|(magic, _)| rest.starts_with(magic));
        let (_, skip) = format.ok_or(InitrdError::Unknown)?;
        rest = skip_zeros(skip(rest)?);
    }
    Ok(())
}

fn skip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// A bundle; only the beginning of the file is one.
fn skip_bundle(file: &[u8]) -> Result<&[u8], InitrdError> {
    const FORMAT: &str = "bundle";
    match bundle::read(file) {
        Ok(_) => Ok(&[]),
        Err(BundleError::Truncated { .. }) => Err(InitrdError::Truncated(FORMAT)),
        Err(_) => Err(InitrdError::Damaged(FORMAT)),
    }
}

fn skip_all(_: &[u8]) -> Result<&[u8], InitrdError> {
    Ok(&[])
}

/// The bytes behind the first `count`.
fn skip<'a>(bytes: &'a [u8], count: usize, format: &'static str) -> Result<&'a [u8], InitrdError> {
    bytes.get(count..).ok_or(InitrdError::Truncated(format))
}

/// A little-endian number of `size` (at most 4) bytes at `offset`.
fn number(bytes: &[u8], offset: usize, size: usize, format: &'static str) -> Result<usize, InitrdError> {
    let field = bytes.get(offset..offset + size).ok_or(InitrdError::Truncated(format))?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

/// A "newc" cpio archive, up to its trailer.
fn skip_cpio(archive: &[u8]) -> Result<&[u8], InitrdError> {
    const FORMAT: &str = "cpio";
    const HEADER: usize = 110;
    const FILE_SIZE: usize = 54;
    const NAME_SIZE: usize = 94;
    let mut rest = archive;
    loop {
        let header = rest.get(..HEADER).ok_or(InitrdError::Truncated(FORMAT))?;
        if !header.starts_with(b"07070") {
            return Err(InitrdError::Damaged(FORMAT));
        }
        let hexadecimal = |offset: usize| {
            let digits = core::str::from_utf8(&header[offset..offset + 8]).ok();
            let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            value.map(|value| value as usize).ok_or(InitrdError::Damaged(FORMAT))
        };
        let (name_size, file_size) = (hexadecimal(NAME_SIZE)?, hexadecimal(FILE_SIZE)?);
        let name = rest.get(HEADER..HEADER + name_size).ok_or(InitrdError::Truncated(FORMAT))?;
        if name == b"TRAILER!!!\0" {
            return skip(rest, HEADER + name_size, FORMAT);
        }
        rest = skip(rest, (HEADER + name_size).next_multiple_of(4), FORMAT)?;
        // The last file may lack its padding.
        let data = skip(rest, file_size, FORMAT)?;
        let padding = (file_size.next_multiple_of(4) - file_size).min(data.len());
        rest = &data[padding..];
    }
}

/// A gzip member (RFC 1952).
fn skip_gzip(member: &[u8]) -> Result<&[u8], InitrdError> {
    const FORMAT: &str = "gzip";
    const TRAILER: usize = 8;
    let flags = number(member, 3, 1, FORMAT)?;
    let mut rest = skip(member, 10, FORMAT)?;
    if flags & 1 << 2 != 0 {
        rest = skip(rest, 2 + number(rest, 0, 2, FORMAT)?, FORMAT)?;
    }
    for _ in 0..(flags >> 3 & 1) + (flags >> 4 & 1) {
        let end = rest.iter().position(|byte| *byte == 0).ok_or(InitrdError::Truncated(FORMAT))?;
        rest = &rest[end + 1..];
    }
    if flags & 1 << 1 != 0 {
        rest = skip(rest, 2, FORMAT)?;
    }
    skip(skip_deflate(rest, FORMAT)?, TRAILER, FORMAT)
}

/// A stream of RFC 1951.
fn skip_deflate<'a>(stream: &'a [u8], format: &'static str) -> Result<&'a [u8], InitrdError> {
    const WINDOW: usize = 1 << 15;
    let mut state = alloc::boxed::Box::new(DecompressorOxide::new());
    let mut window = alloc::vec![0; WINDOW];
    let (mut rest, mut position) = (stream, 0);
    loop {
        let (status, consumed, produced) = decompress(&mut state, rest, &mut window, position, 0);
        rest = &rest[consumed..];
        position = (position + produced) % WINDOW;
        match status {
            TINFLStatus::Done => return Ok(rest),
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(InitrdError::Truncated(format));
            }
            _ => return Err(InitrdError::Damaged(format)),
        }
    }
}

/// A Zstandard frame (RFC 8878): its blocks say how long they are.
fn skip_zstd(frame: &[u8]) -> Result<&[u8], InitrdError> {
    const FORMAT: &str = "zstd";
    let descriptor = number(frame, 4, 1, FORMAT)?;
    let single_segment = descriptor >> 5 & 1;
    let dictionary_id = [0, 1, 2, 4][descriptor & 3];
    let content_size = [single_segment, 2, 4, 8][descriptor >> 6];
    let checksum = (descriptor >> 2 & 1) * 4;
    let mut rest = skip(frame, 5 + (1 - single_segment) + dictionary_id + content_size, FORMAT)?;
    loop {
        let header = number(rest, 0, 3, FORMAT)?;
        let size = match header >> 1 & 3 {
            0 | 2 => header >> 3,
            1 => 1,
            _ => return Err(InitrdError::Damaged(FORMAT)),
        };
        rest = skip(rest, 3 + size, FORMAT)?;
        if header & 1 != 0 {
            return skip(rest, checksum, FORMAT);
        }
    }
}

/// An xz file, which ends in a magic number and is the last part.
fn skip_xz(file: &[u8]) -> Result<&[u8], InitrdError> {
    let end = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if file[..end].ends_with(b"YZ") { Ok(&[]) } else { Err(InitrdError::Truncated("xz")) }
}

/// A legacy LZ4 file, blocks up to its end, and the last part.
fn skip_lz4(file: &[u8]) -> Result<&[u8], InitrdError> {
    const FORMAT: &str = "lz4";
    let mut rest = skip(file, 4, FORMAT)?;
    while rest.iter().any(|byte| *byte != 0) {
        rest = skip(rest, 4 + number(rest, 0, 4, FORMAT)?, FORMAT)?;
    }
    Ok(&[])
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;

    use miniz_oxide::deflate::compress_to_vec;

    use super::*;

    fn cpio_entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut entry =
            format!("070701{:048x}{:08x}{:032x}{:08x}{:08x}", 0, data.len(), 0, name.len() + 1, 0);
        entry += name;
        let mut entry = entry.into_bytes();
        entry.push(0);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend(data);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    }

    fn cpio() -> Vec<u8> {
        let mut archive = [cpio_entry("init", b"#!/bin/sh\n"), cpio_entry("TRAILER!!!", b"")].concat();
        // Without the padding behind the trailer, every byte counts.
        archive.truncate(archive.len() - 3);
        archive
    }

    fn gzip() -> Vec<u8> {
        let noise: Vec<u8> =
            (0..200_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut file = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03name\0".to_vec();
        file.extend(compress_to_vec(&noise, 1));
        file.extend([0; 7]);
        file.push(1);
        file
    }

    /// One raw block of five bytes and one of RLE, with a checksum.
    fn zstd() -> Vec<u8> {
        let mut file = b"\x28\xb5\x2f\xfd\x04\x58".to_vec();
        file.extend([5 << 3, 0, 0]);
        file.extend(b"hello");
        file.extend([12 << 3 | 1 << 1 | 1, 0, 0, b'x']);
        file.extend([1, 2, 3, 4]);
        file
    }

    fn xz() -> Vec<u8> {
        b"\xfd7zXZ\0 whatever YZ".to_vec()
    }

    fn lz4() -> Vec<u8> {
        b"\x02\x21\x4c\x18\x05\0\0\0hello\x01\0\0\0x".to_vec()
    }

    #[test]
    fn archives_plain_compressed_and_behind_each_other_are_accepted() {
        for file in [cpio(), gzip(), zstd(), xz(), lz4()] {
            assert_eq!(check(&file), Ok(()));
            assert_eq!(check(&[cpio(), [0; 512].to_vec(), file].concat()), Ok(()));
        }
    }

    #[test]
    fn truncated_archives_are_refused() {
        for file in [cpio(), gzip(), zstd(), xz(), lz4()] {
            // Not every byte of the large one.
            let step = file.len() / 200 + 1;
            for length in (6..file.len()).step_by(step).chain([file.len() - 1]) {
                let cut = &file[..length];
                // A file that ends between two legacy LZ4 blocks looks whole.
                let whole_blocks = cut.len() == 13 && cut.starts_with(b"\x02\x21");
                assert!(whole_blocks || matches!(check(cut), Err(InitrdError::Truncated(_))), "{length}");
            }
        }
    }

    #[test]
    fn whole_bundle_is_accepted_and_a_shorter_one_refused() {
        let guests = alloc::vec![bundle::BundledGuest::new("one", b"kernel")];
        let file = bundle::write(&bundle::Bundle { settings: bundle::Settings::default(), guests }).unwrap();
        assert_eq!(check(&file), Ok(()));
        assert_eq!(check(&file[..file.len() - 1]), Err(InitrdError::Truncated("bundle")));
    }

    #[test]
    fn empty_files_and_other_kinds_are_refused() {
        assert_eq!(check(&[]), Err(InitrdError::Empty));
        assert_eq!(check(&[0; 4096]), Err(InitrdError::Empty));
        assert_eq!(check(b"\x7fELF"), Err(InitrdError::Unknown));
        assert_eq!(check(b"hello"), Err(InitrdError::Unknown));
        assert_eq!(check(&[cpio(), b"garbage".to_vec()].concat()), Err(InitrdError::Unknown));
    }

    #[test]
    fn damaged_archives_are_refused() {
        let mut file = cpio();
        file[58] = b'x';
        assert_eq!(check(&file), Err(InitrdError::Damaged("cpio")));
        let mut file = zstd();
        file[6] |= 3 << 1;
        assert_eq!(check(&file), Err(InitrdError::Damaged("zstd")));
        let mut file = gzip();
        file[15] |= 7;
        assert_eq!(check(&file), Err(InitrdError::Damaged("gzip")));
    }
}
