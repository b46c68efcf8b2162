//! What the hardware is, by the device tree that the firmware hands over.
//!
//! The firmware is trusted: it could do anything anyway.

use core::ops::Range;

use fdt::Fdt;
use fdt::node::FdtNode;
use thiserror::Error;

use crate::address::MachineAddress;
use crate::backend::entropy::SEED;
use crate::regions::Regions;

/// Physical harts that are used; more stay off.
pub const MAX_PHYSICAL_HARTS: usize = 64;

/// Why the monitor can't run here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PlatformError {
    /// No device tree.
    #[error("the firmware gave no device tree")]
    DeviceTree,
    /// A node or property that must be there.
    #[error("the device tree lacks {0}")]
    Lacks(&'static str),
    /// Another frequency of `time` than the board's.
    #[error("time counts at {0} Hz here; guests are promised 10 MHz, which this version can't convert to")]
    Timebase(u64),
}

/// The hardware.
pub struct Platform<'a> {
    tree: Fdt<'a>,
    /// Memory that nobody uses: without what the firmware keeps, and without the device tree and the initrd.
    pub memory: Regions,
    /// All memory, for the direct map.
    pub all_memory: Regions,
    /// What the boot loader put next to the image: the bundle.
    pub initrd: Option<Range<MachineAddress>>,
    /// Real-time clock of the kind that `virt` machines have.
    pub rtc: Option<MachineAddress>,
}

impl<'a> Platform<'a> {
    /// Reads a device tree, which lies at `at`.
    pub fn read(bytes: &'a [u8], at: MachineAddress) -> Result<Self, PlatformError> {
        let tree = Fdt::new(bytes).map_err(|_| PlatformError::DeviceTree)?;
        let timebase = number(&tree, "/cpus", "timebase-frequency");
        let timebase = timebase.ok_or(PlatformError::Lacks("/cpus/timebase-frequency"))?;
        if timebase != rvisor_waist::TIMEBASE_FREQUENCY {
            return Err(PlatformError::Timebase(timebase));
        }
        let mut all_memory = Regions::new();
        let is_memory = |node: &FdtNode<'_, '_>| node.name == "memory" || node.name.starts_with("memory@");
        for node in tree.find_node("/").into_iter().flat_map(FdtNode::children).filter(is_memory) {
            ranges(&node).for_each(|range| all_memory.add(range));
        }
        let mut memory = all_memory.clone();
        for reservation in tree.memory_reservations() {
            let start = MachineAddress(reservation.address() as u64);
            memory.remove(start..start.offset(reservation.size() as u64));
        }
        for node in tree.find_node("/reserved-memory").into_iter().flat_map(FdtNode::children) {
            ranges(&node).for_each(|range| memory.remove(range));
        }
        memory.remove(at..at.offset(bytes.len() as u64));
        let chosen = |name| number(&tree, "/chosen", name).map(MachineAddress);
        let initrd = chosen("linux,initrd-start").zip(chosen("linux,initrd-end"));
        let initrd = initrd.map(|(start, end)| start..end).filter(|range| range.start < range.end);
        if let Some(range) = &initrd {
            memory.remove(range.clone());
        }
        let rtc = tree.find_compatible(&["google,goldfish-rtc"]);
        let rtc = rtc.and_then(|node| ranges(&node).next()).map(|range| range.start);
        Ok(Self { tree, memory, all_memory, initrd, rtc })
    }

    /// The boot loader's random bytes (`rng-seed`), folded into a seed; `None` if there are too few.
    #[must_use]
    pub fn seed(&self) -> Option<[u8; SEED]> {
        let bytes = self.tree.find_node("/chosen")?.property("rng-seed")?.value;
        let mut seed = [0; SEED];
        bytes.iter().zip((0..SEED).cycle()).for_each(|(byte, at)| seed[at] ^= byte);
        (bytes.len() >= SEED).then_some(seed)
    }

    /// The monitor's own command line.
    #[must_use]
    pub fn command_line(&self) -> &str {
        let chosen = self.tree.find_node("/chosen").and_then(|node| node.property("bootargs"));
        chosen.and_then(|words| words.as_str()).unwrap_or_default()
    }

    /// Ids of the harts that may be used.
    pub fn harts(&self) -> impl Iterator<Item = u64> + '_ {
        let is_hart = |node: &FdtNode<'_, '_>| node.name.starts_with("cpu@");
        let is_usable = |node: &FdtNode<'_, '_>| {
            node.property("status").and_then(|status| status.as_str()).is_none_or(|status| status == "okay")
        };
        let id = |node: FdtNode<'_, '_>| node.property("reg")?.as_usize().map(|id| id as u64);
        self.tree
            .find_node("/cpus")
            .into_iter()
            .flat_map(FdtNode::children)
            .filter(move |node| is_hart(node) && is_usable(node))
            .filter_map(id)
            .take(MAX_PHYSICAL_HARTS)
    }

    /// Registers of the interrupt controller, and the number of the context of this hart's S-mode.
    #[must_use]
    pub fn plic(&self, hart: u64) -> Option<(Range<MachineAddress>, u32)> {
        const SUPERVISOR_EXTERNAL: u32 = 9;
        let plic = self.tree.find_compatible(&["sifive,plic-1.0.0", "riscv,plic0"])?;
        let controller = self.interrupt_controller(hart)?;
        let contexts = plic.property("interrupts-extended")?.value;
        let (contexts, _) = contexts.as_chunks::<8>();
        let is_ours = |context: &[u8; 8]| {
            let cell = |at: usize| u32::from_be_bytes(core::array::from_fn(|byte| context[at + byte]));
            (cell(0), cell(4)) == (controller, SUPERVISOR_EXTERNAL)
        };
        Some((ranges(&plic).next()?, contexts.iter().position(is_ours)? as u32))
    }

    /// The phandle of a hart's own interrupt controller.
    fn interrupt_controller(&self, hart: u64) -> Option<u32> {
        let mut harts = self.tree.find_node("/cpus")?.children();
        let id = |node: &FdtNode<'_, '_>| Some(node.property("reg")?.as_usize()? as u64);
        let node = harts.find(|node| node.name.starts_with("cpu@") && id(node) == Some(hart))?;
        let mut children = node.children();
        let controller = children.find(|node| node.property("interrupt-controller").is_some())?;
        Some(controller.property("phandle")?.as_usize()? as u32)
    }

    /// Virtio transports: registers, and sources of interrupts.
    pub fn virtio(&self) -> impl Iterator<Item = (Range<MachineAddress>, u32)> + '_ {
        let soc = self.tree.find_node("/soc").into_iter().flat_map(FdtNode::children);
        let nodes = self.tree.find_node("/").into_iter().flat_map(FdtNode::children).chain(soc);
        let is_transport = |node: &FdtNode<'_, '_>| {
            node.compatible().is_some_and(|names| names.all().any(|name| name == "virtio,mmio"))
        };
        nodes
            .filter(is_transport)
            .filter_map(|node| Some((ranges(&node).next()?, node.property("interrupts")?.as_usize()? as u32)))
    }

    /// Whether every hart has the extension, by its name in lower case.
    #[must_use]
    pub fn has_extension(&self, name: &str) -> bool {
        let Some(cpus) = self.tree.find_node("/cpus") else { return false };
        let mut harts = cpus.children().filter(|node| node.name.starts_with("cpu@"));
        harts.all(|hart| {
            let text = |property| hart.property(property).map(|property| property.value);
            match (text("riscv,isa-extensions"), text("riscv,isa")) {
                (Some(list), _) => list.split(|byte| *byte == 0).any(|entry| entry == name.as_bytes()),
                (None, Some(isa)) => is_in_isa_string(isa, name),
                (None, None) => false,
            }
        })
    }
}

/// Looks a name up in a string such as `rv64imafdc_zicsr_sstc`.
fn is_in_isa_string(isa: &[u8], name: &str) -> bool {
    let isa = isa.strip_suffix(b"\0").unwrap_or(isa);
    let mut words = isa.split(|byte| *byte == b'_');
    let letters = words.next().and_then(|first| first.strip_prefix(b"rv64")).unwrap_or_default();
    match name.as_bytes() {
        [letter] => letters.contains(letter),
        name => words.any(|word| word == name),
    }
}

/// A property of one or two cells.
fn number(tree: &Fdt<'_>, path: &str, property: &str) -> Option<u64> {
    tree.find_node(path)?.property(property)?.as_usize().map(|value| value as u64)
}

/// The ranges of a node's `reg`.
fn ranges<'b>(node: &FdtNode<'b, '_>) -> impl Iterator<Item = Range<MachineAddress>> + use<'b> {
    let value = node.property("reg").map_or(&[][..], |property| property.value);
    // Roots of RISC-V machines with 64 bits have two cells for each; `soc` nodes of `virt` too.
    let (entries, _) = value.as_chunks::<16>();
    entries.iter().map(|entry| {
        let cell = |at: usize| u64::from_be_bytes(core::array::from_fn(|byte| entry[at + byte]));
        let start = MachineAddress(cell(0));
        start..MachineAddress(start.0.saturating_add(cell(8)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use rvisor_machine::TranslationMode;
    use rvisor_machine::device_tree::DeviceTree;
    use rvisor_waist::GuestPhysical;

    fn tree(rng_seed: &[u8]) -> Vec<u8> {
        let tree = DeviceTree {
            harts: 3,
            memory: GuestPhysical(0x8000_0000)..GuestPhysical(0x9000_0000),
            machine_mode: false,
            translation: TranslationMode::Sv57,
            hypervisor: false,
            lacking: &[],
            virtio_slots: 8,
            command_line: "",
            initrd: Some(GuestPhysical(0x8800_0000)..GuestPhysical(0x8800_1234)),
            rng_seed,
        };
        tree.build().unwrap()
    }

    #[test]
    fn rvisors_own_board_is_understood() {
        let bytes = tree(&[]);
        let at = MachineAddress(0x8ff0_0000);
        let platform = Platform::read(&bytes, at).unwrap();
        assert_eq!(platform.harts().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(platform.rtc, Some(MachineAddress(0x10_1000)));
        assert_eq!(platform.initrd, Some(MachineAddress(0x8800_0000)..MachineAddress(0x8800_1234)));
        assert!(
            platform.has_extension("sstc") && platform.has_extension("c") && !platform.has_extension("q")
        );
        assert_eq!(platform.all_memory.total(), 0x1000_0000);
        let plic = MachineAddress(0xc00_0000)..MachineAddress(0xc60_0000);
        assert_eq!(platform.plic(2), Some((plic, 2)));
        assert_eq!(platform.plic(3), None);
        let first = MachineAddress(0x1000_1000)..MachineAddress(0x1000_2000);
        assert_eq!((platform.virtio().next(), platform.virtio().count()), (Some((first, 1)), 8));
        let is_free = |address| platform.memory.iter().any(|range| range.contains(&MachineAddress(address)));
        assert!(is_free(0x8000_0000) && is_free(0x8800_2000) && !is_free(0x8800_0000) && !is_free(at.0));
    }

    #[test]
    fn seeds_need_enough_bytes_and_use_all_of_them() {
        let seed = |bytes: &[u8]| Platform::read(&tree(bytes), MachineAddress(0x8ff0_0000)).unwrap().seed();
        assert_eq!((seed(&[]), seed(&[7; 31]), seed(&[7; 32])), (None, None, Some([7; 32])));
        let mut expected = [7; 32];
        expected[0] = 7 ^ 9;
        assert_eq!(seed(&[&[7; 32][..], &[9]].concat()), Some(expected));
    }

    #[test]
    fn rubbish_is_refused() {
        assert_eq!(Platform::read(&[0; 100], MachineAddress(0)).err(), Some(PlatformError::DeviceTree));
    }

    #[test]
    fn isa_strings_are_read_by_whole_words() {
        let isa = b"rv64imafdc_zicsr_sstc\0";
        assert!(is_in_isa_string(isa, "sstc") && is_in_isa_string(isa, "d"));
        assert!(
            !is_in_isa_string(isa, "sst") && !is_in_isa_string(isa, "h") && !is_in_isa_string(isa, "zic")
        );
    }
}
