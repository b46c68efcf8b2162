//! Where kernel, firmware, initrd and device tree go in RAM, and what the harts find in their registers.
//!
//! Code goes where it wants to be (a kernel at `text_offset`, firmware at the start of RAM, what the firmware
//! starts 2 MiB above); the rest goes as high as 32-bit addresses reach, so that kernel and boot loader can
//! grow upwards:
//!
//! ```text
//! RAM base                                                              RAM end or 4 GiB
//! | firmware | kernel or boot loader …              | initrd | info | device tree, headroom |
//! ```
//!
//! This module computes addresses; it loads nothing.

use alloc::vec::Vec;
use core::ops::Range;

use rvisor_waist::{GuestPhysical, PAGE_SIZE};
use thiserror::Error;

use crate::boot::elf::Elf;
use crate::boot::image::LinuxImage;

/// From the start of RAM to what firmware starts, and the alignment of kernels.
pub const NEXT_STAGE_OFFSET: u64 = 2 << 20;
/// Bytes left free behind the device tree: firmware adds to it in place.
pub const DEVICE_TREE_HEADROOM: u64 = 64 << 10;
/// Initrd and device tree stay below, where RAM has the room: 32-bit code must reach them.
const REACH: GuestPhysical = GuestPhysical(1 << 32);
const MIB: u64 = 1 << 20;

/// Why the pieces can't be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LayoutError {
    /// RAM is smaller than the pieces.
    #[error(
        "{have_mib} MiB of memory is too little: at least {need_mib} MiB are needed; use --memory {need_mib}M"
    )]
    TooLittleMemory {
        /// What there is, in MiB.
        have_mib: u64,
        /// The least that holds everything, in MiB.
        need_mib: u64,
    },
    /// A piece of code below RAM.
    #[error("the {0} wants to be at {1}, where there is no RAM; link it for an address in RAM")]
    OutsideRam(&'static str, GuestPhysical),
    /// Two pieces of code in one place.
    #[error("the {0} overlaps the {1}; link one of them for another address")]
    Overlap(&'static str, &'static str),
}

/// A piece of code that has its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// What error messages call it.
    pub name: &'static str,
    /// The memory it occupies once it runs.
    pub extent: Range<GuestPhysical>,
    /// Where it begins to execute.
    pub entry: GuestPhysical,
}

impl Stage {
    /// A raw file of `size` bytes that begins to execute at its first one.
    #[must_use]
    pub fn raw(name: &'static str, start: GuestPhysical, size: u64) -> Self {
        // The end saturates: a size beyond the address space is too much for any RAM.
        let end = GuestPhysical(start.0.saturating_add(size));
        Self { name, extent: start..end, entry: start }
    }

    /// A Linux kernel that the built-in SBI starts.
    #[must_use]
    pub fn linux(image: &LinuxImage, ram: &Range<GuestPhysical>) -> Self {
        let start = GuestPhysical(ram.start.0.saturating_add(image.text_offset));
        Self::raw("kernel", start, image.size)
    }

    /// Firmware of `size` bytes, at the start of RAM.
    #[must_use]
    pub fn firmware(size: u64, ram: &Range<GuestPhysical>) -> Self {
        Self::raw("firmware", ram.start, size)
    }

    /// What firmware starts: a kernel or boot loader of `size` bytes.
    #[must_use]
    pub fn next(size: u64, ram: &Range<GuestPhysical>) -> Self {
        Self::raw("kernel", ram.start.offset(NEXT_STAGE_OFFSET), size)
    }

    /// An ELF program, where it was linked.
    #[must_use]
    pub fn elf(name: &'static str, elf: &Elf) -> Self {
        Self { name, extent: elf.extent(), entry: elf.entry() }
    }
}

/// Where everything that isn't code goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The initial RAM disk, as long as it is.
    pub initrd: Option<Range<GuestPhysical>>,
    /// Room for [`DynamicInfo`], zero where no firmware asks for it.
    pub dynamic_info: GuestPhysical,
    /// The device tree, with its headroom.
    pub device_tree: Range<GuestPhysical>,
}

impl Layout {
    /// Places an initrd and a device tree of so many bytes around `stages`, all in `ram`.
    pub fn place(
        ram: &Range<GuestPhysical>,
        stages: &[Stage],
        initrd: Option<u64>,
        device_tree: u64,
    ) -> Result<Self, LayoutError> {
        let floor = check_stages(ram, stages)?;
        let sizes = [device_tree.saturating_add(DEVICE_TREE_HEADROOM), PAGE_SIZE, initrd.unwrap_or(0)];
        let pages = sizes.map(|size| size.div_ceil(PAGE_SIZE));
        // Page counts are below 2^52, so their sum can't wrap.
        let needed = u128::from(pages.iter().sum::<u64>()) * u128::from(PAGE_SIZE);
        let top = |end: GuestPhysical| end.page().0.checked_sub(u64::try_from(needed).ok()?);
        let fits = |bottom: &u64| *bottom >= floor.0;
        let Some(bottom) = top(ram.end.min(REACH)).filter(fits).or_else(|| top(ram.end).filter(fits)) else {
            let need = u128::from(floor.0 - ram.start.0) + needed;
            return Err(LayoutError::TooLittleMemory {
                have_mib: (ram.end.0 - ram.start.0) / MIB,
                need_mib: need.div_ceil(u128::from(MIB)) as u64,
            });
        };
        let dynamic_info = GuestPhysical(bottom + pages[2] * PAGE_SIZE);
        let tree = dynamic_info.offset(PAGE_SIZE);
        Ok(Self {
            initrd: initrd.map(|size| GuestPhysical(bottom)..GuestPhysical(bottom + size)),
            dynamic_info,
            device_tree: tree..tree.offset(pages[0] * PAGE_SIZE),
        })
    }
}

/// Checks that every stage lies in RAM, or would if there were more, and none on another. Returns the first
/// page above all of them.
fn check_stages(ram: &Range<GuestPhysical>, stages: &[Stage]) -> Result<GuestPhysical, LayoutError> {
    let mut sorted: Vec<&Stage> = stages.iter().collect();
    sorted.sort_unstable_by_key(|stage| stage.extent.start);
    if let Some(stage) = sorted.first().filter(|stage| stage.extent.start < ram.start) {
        return Err(LayoutError::OutsideRam(stage.name, stage.extent.start));
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].extent.end > pair[1].extent.start) {
        return Err(LayoutError::Overlap(pair[0].name, pair[1].name));
    }
    let end = sorted.last().map_or(ram.start, |stage| stage.extent.end);
    Ok(GuestPhysical(end.0.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX)))
}

/// What OpenSBI's `fw_dynamic` finds where register `a2` points: what to start next, in S-mode
/// (`struct fw_dynamic_info`, version 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DynamicInfo {
    /// Where the next stage begins to execute.
    pub next: GuestPhysical,
    /// The hart that boots; the others wait to be started.
    pub boot_hart: u64,
}

impl DynamicInfo {
    const MAGIC: u64 = 0x4942_534f;
    const VERSION: u64 = 2;
    const SUPERVISOR_MODE: u64 = 1;
    const NO_OPTIONS: u64 = 0;

    /// The structure as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 48] {
        let words = [
            Self::MAGIC,
            Self::VERSION,
            self.next.0,
            Self::SUPERVISOR_MODE,
            Self::NO_OPTIONS,
            self.boot_hart,
        ];
        let mut bytes = [0; 48];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// What a hart's registers hold at its first instruction; all others are zero. Every hart of a machine that
/// starts in M-mode starts so, the boot hart of one that starts in S-mode too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// The program counter.
    pub program_counter: GuestPhysical,
    /// `a1`: the device tree. `a0` is the hart's id.
    pub device_tree: GuestPhysical,
    /// `a2`: the [`DynamicInfo`], or 0.
    pub dynamic_info: GuestPhysical,
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const BASE: u64 = 0x8000_0000;

    fn ram(mib: u64) -> Range<GuestPhysical> {
        GuestPhysical(BASE)..GuestPhysical(BASE + mib * MIB)
    }

    fn kernel(mib: u64) -> LinuxImage {
        LinuxImage { text_offset: 2 * MIB, size: mib * MIB }
    }

    /// Every range of a layout, with the stages, in order of addresses.
    fn ranges(layout: &Layout, stages: &[Stage]) -> Vec<Range<GuestPhysical>> {
        let info = layout.dynamic_info..layout.dynamic_info.offset(48);
        let mut ranges = alloc::vec![info, layout.device_tree.clone()];
        ranges.extend(layout.initrd.clone());
        ranges.extend(stages.iter().map(|stage| stage.extent.clone()));
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    #[test]
    fn kernel_goes_to_its_text_offset_and_the_rest_to_the_top() {
        let ram = ram(256);
        let stage = Stage::linux(&kernel(20), &ram);
        assert_eq!(stage.entry, GuestPhysical(BASE + 2 * MIB));
        let layout = Layout::place(&ram, &[stage], Some(5_000_000), 6_000).unwrap();
        assert_eq!(layout.device_tree.end, ram.end);
        assert!(layout.device_tree.start.is_aligned(8));
        let initrd = layout.initrd.unwrap();
        assert_eq!(initrd.end.0 - initrd.start.0, 5_000_000);
        assert!(initrd.start.is_aligned(PAGE_SIZE) && initrd.start > GuestPhysical(BASE + 200 * MIB));
    }

    #[test]
    fn nothing_overlaps_or_leaves_ram() {
        let ram = ram(64);
        let stages = [Stage::firmware(300_000, &ram), Stage::next(30 * MIB + 1, &ram)];
        for initrd in [None, Some(1), Some(4096), Some(30_000_000)] {
            for tree in [1, 4095, 4096, 10_000] {
                let layout = Layout::place(&ram, &stages, initrd, tree).unwrap();
                let ranges = ranges(&layout, &stages);
                assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
                assert!(ranges[0].start >= ram.start && ranges.last().unwrap().end <= ram.end);
                assert!(layout.device_tree.end.0 - layout.device_tree.start.0 >= tree + DEVICE_TREE_HEADROOM);
            }
        }
    }

    #[test]
    fn large_memory_keeps_the_rest_within_32_bits() {
        let layout = Layout::place(&ram(8192), &[], Some(MIB), 4096).unwrap();
        assert_eq!(layout.device_tree.end, REACH);
    }

    #[test]
    fn initrd_too_large_for_32_bits_goes_above() {
        let layout = Layout::place(&ram(8192), &[], Some(3 << 30), 4096).unwrap();
        assert_eq!(layout.device_tree.end, ram(8192).end);
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed_and_that_suffices() {
        let place = |mib| {
            let ram = ram(mib);
            Layout::place(&ram, &[Stage::linux(&kernel(20), &ram)], Some(10 * MIB), 4096)
        };
        let error = place(16).unwrap_err();
        assert_eq!(error, LayoutError::TooLittleMemory { have_mib: 16, need_mib: 33 });
        assert!(error.to_string().contains("--memory 33M"));
        assert!(place(32).is_err());
        assert!(place(33).is_ok());
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let ram = ram(64);
        let huge = LinuxImage { text_offset: u64::MAX, size: u64::MAX };
        assert!(Layout::place(&ram, &[Stage::linux(&huge, &ram)], None, 0).is_err());
        assert!(Layout::place(&ram, &[], Some(u64::MAX), 0).is_err());
        assert!(Layout::place(&ram, &[], None, u64::MAX).is_err());
        assert!(Layout::place(&ram, &[], Some(u64::MAX), u64::MAX).is_err());
    }

    #[test]
    fn firmware_that_reaches_into_the_kernel_is_refused() {
        let ram = ram(64);
        let stages = [Stage::next(MIB, &ram), Stage::firmware(2 * MIB + 1, &ram)];
        assert_eq!(Layout::place(&ram, &stages, None, 0), Err(LayoutError::Overlap("firmware", "kernel")));
    }

    #[test]
    fn code_below_ram_is_refused() {
        let stage = Stage::raw("program", GuestPhysical(0x1000), 4096);
        assert_eq!(
            Layout::place(&ram(64), &[stage], None, 0),
            Err(LayoutError::OutsideRam("program", GuestPhysical(0x1000)))
        );
    }

    #[test]
    fn dynamic_info_is_six_little_endian_words() {
        let bytes = DynamicInfo { next: GuestPhysical(0x8020_0000), boot_hart: 3 }.to_bytes();
        let words: Vec<u64> =
            bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [0x4942_534f, 2, 0x8020_0000, 1, 0, 3]);
        assert!(bytes.starts_with(b"OSBI"));
    }
}
