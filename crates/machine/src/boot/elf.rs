//! ELF programs: bare test programs, firmware and U-Boot (System V ABI, "Object Files"; RISC-V ELF psABI).
//!
//! Segments go to their physical addresses. A position-independent program that isn't linked for RAM, as
//! OpenSBI's is, goes to the start of RAM and relocates itself.

use alloc::vec::Vec;
use core::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use rvisor_waist::{GuestMemory, GuestPhysical, PAGE_SIZE};
use thiserror::Error;

/// Why an ELF program can't be loaded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ElfError {
    /// Nothing in it.
    #[error("the file is empty; give an ELF program built for riscv64")]
    Empty,
    /// The magic number is missing.
    #[error("not an ELF file; give an ELF program built for riscv64")]
    NotElf,
    /// A header or a segment lies past the end of the file.
    #[error("the ELF file is cut short; copy or build it again")]
    Truncated,
    /// An ELF32 file.
    #[error("the ELF file is for a 32-bit machine; build the program for riscv64")]
    Not64Bit,
    /// Big-endian, or an endianness that doesn't exist.
    #[error("the ELF file isn't little-endian; build the program for riscv64")]
    NotLittleEndian,
    /// Another instruction set; the value is `e_machine`.
    #[error("the ELF file is for another processor (machine {0}); build the program for riscv64")]
    WrongMachine(u16),
    /// An object file, a core dump or the like; the value is `e_type`.
    #[error("the ELF file isn't a program (type {0}); link it first")]
    NotProgram(u16),
    /// There is nothing to load.
    #[error("the ELF program has nothing to load; link it with PT_LOAD segments")]
    NoSegments,
    /// Segments that contradict themselves or each other.
    #[error("the ELF program is damaged: {0}; build it again")]
    Damaged(&'static str),
    /// A segment that RAM doesn't hold.
    #[error(
        "the ELF program wants memory at {}..{}, outside RAM ({}..{}); link it for RAM or give more memory",
        .extent.start, .extent.end, .ram.start, .ram.end
    )]
    OutsideRam {
        /// What the program occupies.
        extent: Range<GuestPhysical>,
        /// What there is.
        ram: Range<GuestPhysical>,
    },
}

/// A piece of the program.
struct Segment<'a> {
    physical: u64,
    virtual_: u64,
    /// Bytes from the file; the rest of `size` is zero.
    bytes: &'a [u8],
    size: u64,
}

impl Segment<'_> {
    fn end(&self) -> u64 {
        self.physical + self.size
    }
}

/// A program that has been checked and can be loaded.
pub struct Elf<'a> {
    file: &'a [u8],
    header: &'a FileHeader64<LittleEndian>,
    /// In order of physical addresses; never empty.
    segments: Vec<Segment<'a>>,
    entry: GuestPhysical,
}

impl<'a> Elf<'a> {
    /// Whether `file` looks like ELF at all.
    #[must_use]
    pub fn is_elf(file: &[u8]) -> bool {
        file.starts_with(&elf::ELFMAG)
    }

    /// Reads the program in `file` for a machine with this RAM.
    pub fn parse(file: &'a [u8], ram: &Range<GuestPhysical>) -> Result<Self, ElfError> {
        let header = parse_header(file)?;
        let mut segments = parse_segments(file, header)?;
        let lowest = segments.first().ok_or(ElfError::NoSegments)?.physical;
        if header.e_type(LittleEndian) == elf::ET_DYN && !ram.contains(&GuestPhysical(lowest)) {
            relocate(&mut segments, ram.start.0.wrapping_sub(lowest / PAGE_SIZE * PAGE_SIZE))?;
        }
        let entry = physical(&segments, header.e_entry(LittleEndian))
            .ok_or(ElfError::Damaged("its entry point lies outside its segments"))?;
        let program = Self { file, header, segments, entry };
        let extent = program.extent();
        if extent.start < ram.start || extent.end > ram.end {
            return Err(ElfError::OutsideRam { extent, ram: ram.clone() });
        }
        Ok(program)
    }

    /// Where execution begins.
    #[must_use]
    pub fn entry(&self) -> GuestPhysical {
        self.entry
    }

    /// From the lowest to the highest byte that the program occupies.
    #[must_use]
    pub fn extent(&self) -> Range<GuestPhysical> {
        let start = self.segments.first().map_or(0, |segment| segment.physical);
        let end = self.segments.last().map_or(0, Segment::end);
        GuestPhysical(start)..GuestPhysical(end)
    }

    /// The address of a symbol such as `tohost`; `None` if the program has none of that name.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<GuestPhysical> {
        let sections = self.header.sections(LittleEndian, self.file).ok()?;
        let symbols = sections.symbols(LittleEndian, self.file, elf::SHT_SYMTAB).ok()?;
        let strings = symbols.strings();
        let symbol =
            symbols.iter().find(|symbol| symbol.name(LittleEndian, strings) == Ok(name.as_bytes()))?;
        physical(&self.segments, symbol.st_value(LittleEndian))
    }

    /// Writes the program into memory, which must have the RAM that [`parse`](Self::parse) was told.
    pub fn load(&self, memory: &impl GuestMemory) -> Result<(), ElfError> {
        let outside = |_| ElfError::OutsideRam { extent: self.extent(), ram: memory.range() };
        for segment in &self.segments {
            let start = GuestPhysical(segment.physical);
            memory.write(start, segment.bytes).map_err(outside)?;
            let filled = segment.bytes.len() as u64;
            memory.zero(start.offset(filled), segment.size - filled).map_err(outside)?;
        }
        Ok(())
    }
}

fn parse_header(file: &[u8]) -> Result<&FileHeader64<LittleEndian>, ElfError> {
    if file.is_empty() {
        return Err(ElfError::Empty);
    }
    if !Elf::is_elf(file) {
        return Err(ElfError::NotElf);
    }
    let (Some(class), Some(endianness)) = (file.get(4), file.get(5)) else {
        return Err(ElfError::Truncated);
    };
    if *class != elf::ELFCLASS64.0 {
        return Err(ElfError::Not64Bit);
    }
    if *endianness != elf::ELFDATA2LSB.0 {
        return Err(ElfError::NotLittleEndian);
    }
    let header = FileHeader64::<LittleEndian>::parse(file).map_err(|_| ElfError::Truncated)?;
    let (machine, kind) = (header.e_machine(LittleEndian), header.e_type(LittleEndian));
    if machine != elf::EM_RISCV {
        return Err(ElfError::WrongMachine(machine.0));
    }
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(ElfError::NotProgram(kind.0));
    }
    Ok(header)
}

/// The segments to load, in order, none wrapping around the address space or overlapping another.
fn parse_segments<'a>(
    file: &'a [u8],
    header: &FileHeader64<LittleEndian>,
) -> Result<Vec<Segment<'a>>, ElfError> {
    let headers = header.program_headers(LittleEndian, file).map_err(|_| ElfError::Truncated)?;
    let mut segments = Vec::new();
    for header in headers.iter().filter(|header| header.p_type(LittleEndian) == elf::PT_LOAD) {
        let segment = Segment {
            physical: header.p_paddr(LittleEndian),
            virtual_: header.p_vaddr(LittleEndian),
            bytes: header.data(LittleEndian, file).map_err(|()| ElfError::Truncated)?,
            size: header.p_memsz(LittleEndian),
        };
        if segment.bytes.len() as u64 > segment.size {
            return Err(ElfError::Damaged("a segment is larger in the file than in memory"));
        }
        if segment.physical.checked_add(segment.size).is_none() {
            return Err(ElfError::Damaged("a segment wraps around the address space"));
        }
        if segment.size != 0 {
            segments.push(segment);
        }
    }
    segments.sort_unstable_by_key(|segment| segment.physical);
    if segments.windows(2).any(|pair| pair[0].end() > pair[1].physical) {
        return Err(ElfError::Damaged("its segments overlap"));
    }
    Ok(segments)
}

/// Moves all segments up by `bias` (modulo 2^64, so down as well).
fn relocate(segments: &mut [Segment], bias: u64) -> Result<(), ElfError> {
    for segment in segments {
        segment.physical = segment.physical.wrapping_add(bias);
        if segment.physical.checked_add(segment.size).is_none() {
            return Err(ElfError::Damaged("its segments are spread over the whole address space"));
        }
    }
    Ok(())
}

/// Where the byte at a virtual address is loaded.
fn physical(segments: &[Segment], address: u64) -> Option<GuestPhysical> {
    segments.iter().find_map(|segment| {
        let offset = address.checked_sub(segment.virtual_)?;
        (offset < segment.size).then(|| GuestPhysical(segment.physical + offset))
    })
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;
    use crate::boot::test_utils::Ram;

    const BASE: u64 = 0x8000_0000;
    const RAM: Range<GuestPhysical> = GuestPhysical(BASE)..GuestPhysical(BASE + 0x10_0000);
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;

    /// One `PT_LOAD`: offset, virtual and physical address, bytes in the file and in memory.
    type Load = [u64; 5];

    /// A program with the given segments, whose file offsets count from the start of the file.
    fn program(kind: u16, entry: u64, loads: &[Load], length: usize) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(16, &kind.to_le_bytes());
        put(18, &elf::EM_RISCV.0.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(24, &entry.to_le_bytes());
        put(32, &(HEADER as u64).to_le_bytes());
        put(52, &(HEADER as u16).to_le_bytes());
        put(54, &(PROGRAM_HEADER as u16).to_le_bytes());
        put(56, &(loads.len() as u16).to_le_bytes());
        for [offset, virtual_, physical, in_file, in_memory] in loads {
            file.extend(elf::PT_LOAD.0.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            [*offset, *virtual_, *physical, *in_file, *in_memory, 4096]
                .iter()
                .for_each(|word| file.extend(word.to_le_bytes()));
        }
        file.extend((file.len()..length).map(|index| index as u8));
        file
    }

    fn simple() -> Vec<u8> {
        program(elf::ET_EXEC.0, BASE + 4, &[[0x100, BASE, BASE, 0x10, 0x20]], 0x110)
    }

    fn error(file: &[u8]) -> ElfError {
        Elf::parse(file, &RAM).map(|_| ()).unwrap_err()
    }

    #[test]
    fn segment_is_copied_and_its_rest_cleared() {
        let file = simple();
        let elf = Elf::parse(&file, &RAM).unwrap();
        assert_eq!(elf.entry(), GuestPhysical(BASE + 4));
        assert_eq!(elf.extent(), GuestPhysical(BASE)..GuestPhysical(BASE + 0x20));
        let ram = Ram::new(RAM.start, 0x1000);
        elf.load(&ram).unwrap();
        let mut bytes = [0; 0x21];
        ram.read(RAM.start, &mut bytes).unwrap();
        assert_eq!(bytes[..0x10], file[0x100..]);
        assert_eq!(bytes[0x10..0x20], [0; 0x10]);
        assert_eq!(bytes[0x20], 0xaa);
    }

    #[test]
    fn physical_address_counts_not_the_virtual_one() {
        let high = 0xffff_ffff_8000_0000;
        let file = program(elf::ET_EXEC.0, high + 8, &[[0x100, high, BASE + 0x1000, 16, 16]], 0x110);
        let elf = Elf::parse(&file, &RAM).unwrap();
        assert_eq!(elf.entry(), GuestPhysical(BASE + 0x1008));
    }

    #[test]
    fn position_independent_program_moves_to_the_start_of_ram() {
        let loads = [[0x100, 0, 0, 16, 16], [0x100, 0x4000, 0x4000, 8, 0x100]];
        let file = program(elf::ET_DYN.0, 0, &loads, 0x110);
        let elf = Elf::parse(&file, &RAM).unwrap();
        assert_eq!(elf.entry(), RAM.start);
        assert_eq!(elf.extent().end, GuestPhysical(BASE + 0x4100));
    }

    #[test]
    fn position_independent_program_linked_for_ram_stays() {
        let at = BASE + 0x2_0000;
        let file = program(elf::ET_DYN.0, at, &[[0x100, at, at, 16, 16]], 0x110);
        assert_eq!(Elf::parse(&file, &RAM).unwrap().entry(), GuestPhysical(at));
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = simple();
        assert_eq!(error(&[]), ElfError::Empty);
        assert_eq!(error(&file[..3]), ElfError::NotElf);
        for length in 4..file.len() {
            assert_eq!(error(&file[..length]), ElfError::Truncated, "at {length}");
        }
    }

    #[test]
    fn wrong_kinds_of_file_are_named() {
        let with = |offset: usize, byte: u8| {
            let mut file = simple();
            file[offset] = byte;
            error(&file)
        };
        assert_eq!(error(b"#!/bin/sh"), ElfError::NotElf);
        assert_eq!(with(4, 1), ElfError::Not64Bit);
        assert_eq!(with(5, 2), ElfError::NotLittleEndian);
        assert_eq!(with(18, 62), ElfError::WrongMachine(62));
        assert_eq!(with(16, 1), ElfError::NotProgram(1));
        assert_eq!(with(HEADER, 0), ElfError::NoSegments);
    }

    #[test]
    fn program_outside_ram_is_refused_with_both_ranges() {
        let file = program(elf::ET_EXEC.0, 0x1000, &[[0x100, 0x1000, 0x1000, 16, 16]], 0x110);
        let error = error(&file);
        assert!(matches!(error, ElfError::OutsideRam { .. }));
        assert!(error.to_string().contains("0x1000..0x1010, outside RAM (0x80000000..0x80100000)"));
        let file = program(elf::ET_EXEC.0, BASE, &[[0x100, BASE, BASE, 16, 0x10_0001]], 0x110);
        assert!(matches!(super::tests::error(&file), ElfError::OutsideRam { .. }));
    }

    #[test]
    fn contradictory_segments_are_refused() {
        let refused = |kind: object::elf::FileType, entry, loads: &[Load]| {
            matches!(error(&program(kind.0, entry, loads, 0x200)), ElfError::Damaged(_))
        };
        let good = [0x100, BASE, BASE, 16, 16];
        assert!(refused(elf::ET_EXEC, BASE + 16, &[good]), "entry behind the segment");
        assert!(refused(elf::ET_EXEC, BASE, &[good, [0x100, BASE + 15, BASE + 15, 1, 1]]), "overlap");
        assert!(refused(elf::ET_EXEC, BASE, &[[0x100, BASE, BASE, 16, 15]]), "larger in the file");
        assert!(refused(elf::ET_EXEC, BASE, &[good, [0x100, 0, u64::MAX, 1, 2]]), "wrap");
        let spread = [[0x100, 0, 0, 16, 16], [0x100, 1 << 63, u64::MAX - 0x2000, 1, 0x1000]];
        assert!(!refused(elf::ET_EXEC, 0, &spread[..1]));
        assert!(
            refused(elf::ET_DYN, 1, &[spread[0], [0x100, 0, u64::MAX - BASE - 0x10, 1, 0x100]]),
            "spread"
        );
    }

    /// The simple program with a symbol table: `tohost` at its eighth byte, `outside` behind its end.
    fn with_symbols() -> Vec<u8> {
        const NAMES: &[u8] = b"\0tohost\0outside\0";
        let mut file = simple();
        let symbols = file.len();
        for (name, value) in [(0, 0), (1u32, BASE + 8), (8, BASE + 0x20)] {
            file.extend(name.to_le_bytes());
            file.extend([0; 4]);
            file.extend(value.to_le_bytes());
            file.extend([0; 8]);
        }
        let names = file.len();
        file.extend(NAMES);
        let sections = file.len();
        let tables = [
            (elf::SHT_NULL.0, 0, 0, 0, 0),
            (elf::SHT_SYMTAB.0, symbols, names - symbols, 2u32, 24u64),
            (elf::SHT_STRTAB.0, names, NAMES.len(), 0, 0),
        ];
        for (kind, offset, size, link, entry_size) in tables {
            file.extend([0; 4]);
            file.extend(kind.to_le_bytes());
            file.extend([0; 16]);
            file.extend((offset as u64).to_le_bytes());
            file.extend((size as u64).to_le_bytes());
            file.extend(link.to_le_bytes());
            file.extend([0; 12]);
            file.extend(entry_size.to_le_bytes());
        }
        file[40..48].copy_from_slice(&(sections as u64).to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&3u16.to_le_bytes());
        file[62..64].copy_from_slice(&2u16.to_le_bytes());
        file
    }

    #[test]
    fn symbol_inside_the_program_is_found() {
        let file = with_symbols();
        let elf = Elf::parse(&file, &RAM).unwrap();
        assert_eq!(elf.symbol("tohost"), Some(GuestPhysical(BASE + 8)));
        assert_eq!(elf.symbol("outside"), None);
        assert_eq!(elf.symbol("fromhost"), None);
    }

    #[test]
    fn program_without_symbol_table_has_no_symbols() {
        assert_eq!(Elf::parse(&simple(), &RAM).unwrap().symbol("tohost"), None);
    }
}
