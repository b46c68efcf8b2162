//! The Linux kernel's `Image` for RISC-V (Linux documentation, "Boot image header in RISC-V Linux").
//!
//! Only the header is read; the whole file goes into memory as it is. What isn't such a kernel is refused with
//! a word on what it is instead.

use object::read::pe::PeFile64;
use thiserror::Error;

/// Bytes in the header.
pub const HEADER_SIZE: usize = 64;

/// Fields of the header: offsets in bytes, values little-endian.
mod field {
    pub const TEXT_OFFSET: usize = 8;
    pub const IMAGE_SIZE: usize = 16;
    pub const FLAGS: usize = 24;
    pub const MAGIC2: usize = 56;
}

const MAGIC2: &[u8] = b"RSC\x05";
/// Bit 0 of the flags: a big-endian kernel.
const FLAG_BIG_ENDIAN: u64 = 1 << 0;
/// First bytes of a kernel that is an EFI application too.
const EFI_MAGIC: &[u8] = b"MZ";

const DECOMPRESS: &str = "decompress it first";
const NEED_RISCV: &str = "give a kernel built for riscv64";
const NEED_IMAGE: &str = "give the kernel's arch/riscv/boot/Image";

/// Other things that people call a kernel: offset and bytes of their magic number, their name, what to do.
const OTHER_KINDS: [(usize, &[u8], &str, &str); 23] = [
    (0, b"\x1f\x8b", "gzip-compressed", DECOMPRESS),
    (0, b"\xfd7zXZ\0", "xz-compressed", DECOMPRESS),
    (0, b"BZh", "bzip2-compressed", DECOMPRESS),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", DECOMPRESS),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", DECOMPRESS),
    (0, b"\x02\x21\x4c\x18", "lz4-compressed", DECOMPRESS),
    (0, b"\x89LZO\0", "lzo-compressed", DECOMPRESS),
    (0, b"\x5d\0\0", "lzma-compressed", DECOMPRESS),
    (4, b"zimg", "a compressed EFI kernel (vmlinuz.efi)", NEED_IMAGE),
    (0x202, b"HdrS", "an x86 kernel (bzImage)", NEED_RISCV),
    (56, b"ARM\x64", "an arm64 kernel", NEED_RISCV),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm kernel (zImage)", NEED_RISCV),
    (56, b"\xcd\x23\x82\x81", "a LoongArch kernel", NEED_RISCV),
    (0, b"\x7fELF", "an ELF file", NEED_IMAGE),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage", NEED_IMAGE),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or U-Boot FIT", NEED_IMAGE),
    (0, b"ANDROID!", "an Android boot image", NEED_IMAGE),
    (0, b"070701", "a cpio archive (an initrd?)", NEED_IMAGE),
    (0, b"QFI\xfb", "a qcow2 disk", "give a kernel here and the disk as a disk"),
    (0, b"!<arch>\n", "a Debian package or static library", NEED_IMAGE),
    (0x101, b"ustar", "a tar archive", NEED_IMAGE),
    (0, b"#!", "a script", NEED_IMAGE),
    (0, EFI_MAGIC, "an EFI or Windows program", NEED_IMAGE),
];

/// Why a file isn't a kernel that can be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ImageError {
    /// Nothing in it.
    #[error("the kernel file is empty; {NEED_IMAGE}")]
    Empty,
    /// Shorter than its headers say.
    #[error("the kernel file is cut short: {have} bytes of at least {need}; copy it again")]
    Truncated {
        /// Bytes in the file.
        have: u64,
        /// Bytes there should be.
        need: u64,
    },
    /// Something else that was recognised.
    #[error("the kernel file is {kind}, not a RISC-V Linux Image; {advice}")]
    OtherKind {
        /// What it is.
        kind: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Something else.
    #[error("the kernel file isn't a RISC-V Linux Image; {NEED_IMAGE}")]
    Unknown,
    /// A big-endian kernel.
    #[error("the kernel is big-endian, the machine little-endian; {NEED_RISCV}")]
    BigEndian,
    /// Headers that contradict the file.
    #[error("the kernel file is damaged: {0}; copy it again")]
    Damaged(&'static str),
}

/// What a kernel's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinuxImage {
    /// Where the kernel wants to be, in bytes from a 2 MiB boundary at the start of RAM.
    pub text_offset: u64,
    /// Bytes that the kernel occupies once it runs; at least the file's length.
    pub size: u64,
}

impl LinuxImage {
    /// Reads the header of the kernel in `file`.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        if file.is_empty() {
            return Err(ImageError::Empty);
        }
        if magic_at(file, field::MAGIC2, MAGIC2).is_none() {
            return Err(name_other_kind(file));
        }
        let word = |offset| magic_word(file, offset);
        let (text_offset, size, flags) =
            (word(field::TEXT_OFFSET), word(field::IMAGE_SIZE), word(field::FLAGS));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        let have = file.len() as u64;
        if file.starts_with(EFI_MAGIC) {
            let need = efi_size(file)?;
            if need > have {
                return Err(ImageError::Truncated { have, need });
            }
        }
        // Kernels before 4.6 leave the size zero.
        if size != 0 && size < have {
            return Err(ImageError::Damaged("it is longer than its header says"));
        }
        Ok(Self { text_offset, size: size.max(have) })
    }
}

fn magic_at<'a>(file: &'a [u8], offset: usize, magic: &[u8]) -> Option<&'a [u8]> {
    file.get(offset..)?.get(..magic.len()).filter(|found| *found == magic)
}

/// A header field, zero where the file ends before.
fn magic_word(file: &[u8], offset: usize) -> u64 {
    let bytes = file.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn name_other_kind(file: &[u8]) -> ImageError {
    let found = OTHER_KINDS.iter().find(|(offset, magic, ..)| magic_at(file, *offset, magic).is_some());
    match found {
        Some((_, _, kind, advice)) => ImageError::OtherKind { kind, advice },
        None if file.len() < HEADER_SIZE => {
            ImageError::Truncated { have: file.len() as u64, need: HEADER_SIZE as u64 }
        }
        None => ImageError::Unknown,
    }
}

/// Bytes that the file must have for its EFI header's sections to be whole: the only length a kernel file
/// carries, for the size in the `Image` header counts memory.
fn efi_size(file: &[u8]) -> Result<u64, ImageError> {
    let damaged = |_| ImageError::Damaged("its EFI header can't be read");
    let pe = PeFile64::parse(file).map_err(damaged)?;
    let ends = pe.section_table().iter().map(|section| {
        let (start, length) = section.pe_file_range();
        u64::from(start) + u64::from(length)
    });
    Ok(ends.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    /// A kernel without EFI header.
    fn kernel(length: usize, image_size: u64) -> Vec<u8> {
        let mut file = vec![0; length.max(HEADER_SIZE)];
        file[field::TEXT_OFFSET..][..8].copy_from_slice(&0x20_0000u64.to_le_bytes());
        file[field::IMAGE_SIZE..][..8].copy_from_slice(&image_size.to_le_bytes());
        file[field::MAGIC2..][..4].copy_from_slice(MAGIC2);
        file
    }

    /// A kernel with an EFI header of one section, from 0x1000 for 0x1000 bytes of the file.
    fn efi_kernel(length: usize) -> Vec<u8> {
        let mut file = kernel(length, 0x1_0000);
        let pe = 0x40;
        let optional = pe + 24;
        let optional_size = 112;
        let section = optional + optional_size;
        file[..2].copy_from_slice(EFI_MAGIC);
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0x3c, &(pe as u32).to_le_bytes());
        put(pe, b"PE\0\0");
        put(pe + 4, &0x5064u16.to_le_bytes());
        put(pe + 6, &1u16.to_le_bytes());
        put(pe + 20, &(optional_size as u16).to_le_bytes());
        put(optional, &0x20bu16.to_le_bytes());
        put(section, b".text\0\0\0");
        put(section + 8, &0x1000u32.to_le_bytes());
        put(section + 12, &0x1000u32.to_le_bytes());
        put(section + 16, &0x1000u32.to_le_bytes());
        put(section + 20, &0x1000u32.to_le_bytes());
        file
    }

    #[test]
    fn header_gives_offset_and_size() {
        let image = LinuxImage::parse(&kernel(100, 0x1234)).unwrap();
        assert_eq!(image, LinuxImage { text_offset: 0x20_0000, size: 0x1234 });
    }

    #[test]
    fn size_zero_means_the_length_of_the_file() {
        assert_eq!(LinuxImage::parse(&kernel(100, 0)).unwrap().size, 100);
    }

    #[test]
    fn whole_efi_kernel_is_accepted_and_a_shorter_one_refused() {
        assert_eq!(LinuxImage::parse(&efi_kernel(0x2000)).unwrap().size, 0x1_0000);
        assert_eq!(
            LinuxImage::parse(&efi_kernel(0x1fff)),
            Err(ImageError::Truncated { have: 0x1fff, need: 0x2000 })
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = efi_kernel(0x2000);
        for length in 0..file.len() {
            assert!(LinuxImage::parse(&file[..length]).is_err(), "at {length}");
        }
    }

    #[test]
    fn empty_and_unknown_files_are_refused() {
        assert_eq!(LinuxImage::parse(&[]), Err(ImageError::Empty));
        assert_eq!(LinuxImage::parse(&[1; 10]), Err(ImageError::Truncated { have: 10, need: 64 }));
        assert_eq!(LinuxImage::parse(&[1; 100]), Err(ImageError::Unknown));
    }

    #[test]
    fn longer_file_than_image_size_is_refused() {
        assert!(matches!(LinuxImage::parse(&kernel(101, 100)), Err(ImageError::Damaged(_))));
    }

    #[test]
    fn big_endian_kernel_is_refused() {
        let mut file = kernel(100, 100);
        file[field::FLAGS] = 1;
        assert_eq!(LinuxImage::parse(&file), Err(ImageError::BigEndian));
    }

    #[test]
    fn other_kinds_are_named() {
        for (offset, magic, kind, _) in OTHER_KINDS {
            let mut file = vec![0; 0x400];
            file[offset..offset + magic.len()].copy_from_slice(magic);
            let message = LinuxImage::parse(&file).unwrap_err().to_string();
            assert!(message.contains(kind) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn efi_zboot_is_told_from_a_plain_efi_program() {
        let mut file = vec![0; 0x400];
        file[..8].copy_from_slice(b"MZ\0\0zimg");
        assert!(LinuxImage::parse(&file).unwrap_err().to_string().contains("vmlinuz.efi"));
    }
}
