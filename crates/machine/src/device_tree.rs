//! The flattened device tree that describes the board to a guest (Devicetree Specification 0.4; bindings as
//! Linux, OpenSBI and U-Boot know them from QEMU's `virt`).
//!
//! It describes [`crate::memory_map`]; where kernels go is decided in [`crate::boot::layout`]. The size of
//! a tree doesn't depend on the addresses in it, so one built with a stand-in for the initrd has its final size.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use rvisor_devices::{aclint, plic, uart};
use rvisor_hart::TranslationMode;
use rvisor_waist::{GuestPhysical, TIMEBASE_FREQUENCY};
use thiserror::Error;
use vm_fdt::FdtWriter;

use crate::extensions::EXTENSIONS;
use crate::memory_map::{self, Window};

/// What writing one piece of the tree gives.
type Written<T = ()> = Result<T, vm_fdt::Error>;

/// Bytes of a cache block, for Zicbom, Zicbop and Zicboz.
pub const CACHE_BLOCK_SIZE: u32 = 64;

/// Single-letter extensions that all harts have, in canonical order.
const SINGLE_LETTERS: &str = "imafdc";

/// `phandle`s; those of harts are computed.
mod phandle {
    pub const PLIC: u32 = 1;
    pub const FINISHER: u32 = 2;

    pub const fn hart(hart: u32) -> u32 {
        3 + 2 * hart
    }

    pub const fn hart_interrupts(hart: u32) -> u32 {
        4 + 2 * hart
    }
}

/// Interrupt numbers of a hart's own controller: bits of `mip` (Privileged ISA, "Machine Cause Register").
mod cause {
    pub const SUPERVISOR_SOFTWARE: u32 = 1;
    pub const MACHINE_SOFTWARE: u32 = 3;
    pub const MACHINE_TIMER: u32 = 7;
    pub const SUPERVISOR_EXTERNAL: u32 = 9;
    pub const MACHINE_EXTERNAL: u32 = 11;
}

/// `mmu-type` of a hart with this largest translation mode.
const fn mmu_type(translation: TranslationMode) -> &'static str {
    match translation {
        TranslationMode::Bare => "riscv,none",
        TranslationMode::Sv39 => "riscv,sv39",
        TranslationMode::Sv48 => "riscv,sv48",
        TranslationMode::Sv57 => "riscv,sv57",
    }
}

/// Why a device tree can't be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DeviceTreeError {
    /// No hart, or more than the interrupt controllers serve.
    #[error("a machine has 1 to {max} harts, not {0}; choose another number of CPUs", max = aclint::MAX_HARTS)]
    Harts(u32),
    /// A range that ends before it begins.
    #[error("the {0} range ends before it begins")]
    Range(&'static str),
    /// The writer refused a value: the kernel command line holds a NUL byte.
    #[error("the kernel command line holds a NUL byte; remove it")]
    CommandLine,
    /// The tree exceeds what the format can hold.
    #[error("the device tree is too large; use fewer CPUs or a shorter kernel command line")]
    TooLarge,
}

/// What the device tree says; [`build`](Self::build) says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceTree<'a> {
    /// Number of harts; their ids count from 0.
    pub harts: u32,
    /// RAM.
    pub memory: Range<GuestPhysical>,
    /// Whether the guest starts in M-mode. Without, the board's machine-level interrupt controllers are left
    /// out: they belong to the built-in SBI.
    pub machine_mode: bool,
    /// `mmu-type` of the harts.
    pub translation: TranslationMode,
    /// Whether the harts have the hypervisor extension.
    pub hypervisor: bool,
    /// Those of [`EXTENSIONS`] that the harts lack.
    pub lacking: &'a [&'a str],
    /// Number of virtio-mmio transports.
    pub virtio_slots: u32,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Where the initial RAM disk was loaded.
    pub initrd: Option<Range<GuestPhysical>>,
    /// Unpredictable bytes for the kernel's random number generator; none if empty.
    pub rng_seed: &'a [u8],
}

impl DeviceTree<'_> {
    /// The flattened tree.
    pub fn build(&self) -> Result<Vec<u8>, DeviceTreeError> {
        self.check()?;
        self.write().map_err(|_| DeviceTreeError::TooLarge)
    }

    fn check(&self) -> Result<(), DeviceTreeError> {
        if self.harts == 0 || self.harts as usize > aclint::MAX_HARTS {
            return Err(DeviceTreeError::Harts(self.harts));
        }
        if self.memory.start > self.memory.end {
            return Err(DeviceTreeError::Range("memory"));
        }
        if self.initrd.as_ref().is_some_and(|initrd| initrd.start > initrd.end) {
            return Err(DeviceTreeError::Range("initrd"));
        }
        if self.command_line.contains('\0') {
            return Err(DeviceTreeError::CommandLine);
        }
        Ok(())
    }

    fn write(&self) -> Written<Vec<u8>> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_string("compatible", "riscv-virtio")?;
        fdt.property_string("model", "rvisor,virt")?;
        self.write_aliases(&mut fdt)?;
        self.write_chosen(&mut fdt)?;
        self.write_memory(&mut fdt)?;
        self.write_cpus(&mut fdt)?;
        write_power(&mut fdt, "poweroff", 0x5555)?;
        write_power(&mut fdt, "reboot", 0x7777)?;
        self.write_soc(&mut fdt)?;
        fdt.end_node(root)?;
        fdt.finish()
    }

    /// The extensions with names of several letters that the harts have.
    fn named_extensions(&self) -> impl Iterator<Item = &'static str> {
        EXTENSIONS.into_iter().filter(|extension| !self.lacking.contains(extension))
    }

    /// The extensions with names of one letter that the harts have.
    fn letters(&self) -> impl Iterator<Item = char> {
        SINGLE_LETTERS.chars().chain(self.hypervisor.then_some('h'))
    }

    fn isa_string(&self) -> String {
        let letters: String = self.letters().collect();
        self.named_extensions().fold(format!("rv64{letters}"), |isa, extension| isa + "_" + extension)
    }

    fn extensions(&self) -> Vec<String> {
        let letters = self.letters().map(|letter| letter.to_string());
        letters.chain(self.named_extensions().map(String::from)).collect()
    }

    fn write_aliases(&self, fdt: &mut FdtWriter) -> Written {
        let aliases = fdt.begin_node("aliases")?;
        fdt.property_string("serial0", &uart_path())?;
        fdt.end_node(aliases)
    }

    fn write_chosen(&self, fdt: &mut FdtWriter) -> Written {
        let chosen = fdt.begin_node("chosen")?;
        fdt.property_string("bootargs", self.command_line)?;
        fdt.property_string("stdout-path", &uart_path())?;
        if let Some(initrd) = &self.initrd {
            fdt.property_u64("linux,initrd-start", initrd.start.0)?;
            fdt.property_u64("linux,initrd-end", initrd.end.0)?;
        }
        if !self.rng_seed.is_empty() {
            fdt.property("rng-seed", self.rng_seed)?;
        }
        fdt.end_node(chosen)
    }

    fn write_memory(&self, fdt: &mut FdtWriter) -> Written {
        let memory = fdt.begin_node(&format!("memory@{:x}", self.memory.start.0))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[self.memory.start.0, self.memory.end.0 - self.memory.start.0])?;
        fdt.end_node(memory)
    }

    fn write_cpus(&self, fdt: &mut FdtWriter) -> Written {
        let cpus = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 1)?;
        fdt.property_u32("#size-cells", 0)?;
        fdt.property_u32("timebase-frequency", TIMEBASE_FREQUENCY as u32)?;
        (0..self.harts).try_for_each(|hart| self.write_hart(fdt, hart))?;
        let map = fdt.begin_node("cpu-map")?;
        let cluster = fdt.begin_node("cluster0")?;
        for hart in 0..self.harts {
            let core = fdt.begin_node(&format!("core{hart}"))?;
            fdt.property_u32("cpu", phandle::hart(hart))?;
            fdt.end_node(core)?;
        }
        fdt.end_node(cluster)?;
        fdt.end_node(map)?;
        fdt.end_node(cpus)
    }

    fn write_hart(&self, fdt: &mut FdtWriter, hart: u32) -> Written {
        let cpu = fdt.begin_node(&format!("cpu@{hart:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_u32("reg", hart)?;
        fdt.property_string("status", "okay")?;
        fdt.property_string("compatible", "riscv")?;
        fdt.property_string("riscv,isa", &self.isa_string())?;
        fdt.property_string("riscv,isa-base", "rv64i")?;
        fdt.property_string_list("riscv,isa-extensions", self.extensions())?;
        for (extension, name) in BLOCK_SIZES {
            if !self.lacking.contains(&extension) {
                fdt.property_u32(name, CACHE_BLOCK_SIZE)?;
            }
        }
        fdt.property_string("mmu-type", mmu_type(self.translation))?;
        fdt.property_phandle(phandle::hart(hart))?;
        let controller = fdt.begin_node("interrupt-controller")?;
        write_controller(fdt, 1)?;
        fdt.property_string("compatible", "riscv,cpu-intc")?;
        fdt.property_phandle(phandle::hart_interrupts(hart))?;
        fdt.end_node(controller)?;
        fdt.end_node(cpu)
    }

    fn write_soc(&self, fdt: &mut FdtWriter) -> Written {
        let soc = fdt.begin_node("soc")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_string("compatible", "simple-bus")?;
        fdt.property_null("ranges")?;
        write_device(
            fdt,
            "test",
            memory_map::FINISHER,
            &["sifive,test1", "sifive,test0", "syscon"],
            |fdt| fdt.property_phandle(phandle::FINISHER),
        )?;
        write_device(fdt, "rtc", memory_map::RTC, &["google,goldfish-rtc"], |fdt| {
            write_interrupt(fdt, memory_map::RTC_IRQ)
        })?;
        self.write_aclint(fdt)?;
        self.write_plic(fdt)?;
        write_device(fdt, "serial", memory_map::UART, &["ns16550a"], |fdt| {
            fdt.property_u32("clock-frequency", uart::CLOCK_FREQUENCY)?;
            write_interrupt(fdt, memory_map::UART_IRQ)
        })?;
        for slot in 0..self.virtio_slots {
            write_device(fdt, "virtio_mmio", memory_map::virtio(slot), &["virtio,mmio"], |fdt| {
                write_interrupt(fdt, memory_map::virtio_irq(slot))
            })?;
        }
        fdt.end_node(soc)
    }

    fn write_aclint(&self, fdt: &mut FdtWriter) -> Written {
        if self.machine_mode {
            write_device(fdt, "clint", memory_map::CLINT, &["sifive,clint0", "riscv,clint0"], |fdt| {
                self.write_hart_interrupts(fdt, &[cause::MACHINE_SOFTWARE, cause::MACHINE_TIMER])
            })?;
        }
        write_device(fdt, "sswi", memory_map::SSWI, &["riscv,aclint-sswi"], |fdt| {
            write_controller(fdt, 0)?;
            self.write_hart_interrupts(fdt, &[cause::SUPERVISOR_SOFTWARE])
        })
    }

    fn write_plic(&self, fdt: &mut FdtWriter) -> Written {
        let contexts: &[u32] = if self.machine_mode {
            &[cause::MACHINE_EXTERNAL, cause::SUPERVISOR_EXTERNAL]
        } else {
            &[cause::SUPERVISOR_EXTERNAL]
        };
        write_device(fdt, "plic", memory_map::PLIC, &["sifive,plic-1.0.0", "riscv,plic0"], |fdt| {
            write_controller(fdt, 1)?;
            fdt.property_u32("riscv,ndev", plic::MAX_SOURCE)?;
            fdt.property_phandle(phandle::PLIC)?;
            self.write_hart_interrupts(fdt, contexts)
        })
    }

    /// Says which interrupts of every hart a controller drives, in the order of its registers.
    fn write_hart_interrupts(&self, fdt: &mut FdtWriter, causes: &[u32]) -> Written {
        let hart_cells = |hart| causes.iter().flat_map(move |cause| [phandle::hart_interrupts(hart), *cause]);
        let cells: Vec<u32> = (0..self.harts).flat_map(hart_cells).collect();
        fdt.property_array_u32("interrupts-extended", &cells)
    }
}

/// Properties that say how large a cache block is, each with the extension it belongs to.
const BLOCK_SIZES: [(&str, &str); 3] = [
    ("zicbom", "riscv,cbom-block-size"),
    ("zicbop", "riscv,cbop-block-size"),
    ("zicboz", "riscv,cboz-block-size"),
];

fn uart_path() -> String {
    format!("/soc/serial@{:x}", memory_map::UART.base.0)
}

fn write_device(
    fdt: &mut FdtWriter,
    name: &str,
    window: Window,
    compatible: &[&str],
    properties: impl FnOnce(&mut FdtWriter) -> Written,
) -> Written {
    let node = fdt.begin_node(&format!("{name}@{:x}", window.base.0))?;
    fdt.property_string_list("compatible", compatible.iter().map(|name| name.to_string()).collect())?;
    fdt.property_array_u64("reg", &[window.base.0, window.size])?;
    properties(fdt)?;
    fdt.end_node(node)
}

/// Makes a node an interrupt controller whose interrupts take so many cells.
fn write_controller(fdt: &mut FdtWriter, cells: u32) -> Written {
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", cells)?;
    fdt.property_u32("#address-cells", 0)
}

fn write_interrupt(fdt: &mut FdtWriter, source: u32) -> Written {
    fdt.property_u32("interrupt-parent", phandle::PLIC)?;
    fdt.property_u32("interrupts", source)
}

/// A way to turn the machine off or restart it: storing `value` to the finisher.
fn write_power(fdt: &mut FdtWriter, name: &str, value: u32) -> Written {
    let node = fdt.begin_node(name)?;
    fdt.property_string("compatible", &format!("syscon-{name}"))?;
    fdt.property_u32("regmap", phandle::FINISHER)?;
    fdt.property_u32("offset", 0)?;
    fdt.property_u32("value", value)?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use fdt::Fdt;
    use fdt::node::FdtNode;
    use rvisor_waist::Width;

    use super::*;
    use crate::testing::TestVm;

    const RAM: Range<GuestPhysical> = GuestPhysical(0x8000_0000)..GuestPhysical(0xc000_0000);

    fn tree() -> DeviceTree<'static> {
        DeviceTree {
            harts: 2,
            memory: RAM,
            machine_mode: true,
            translation: TranslationMode::Sv57,
            hypervisor: false,
            lacking: &[],
            virtio_slots: 8,
            command_line: "console=ttyS0 root=/dev/vda",
            initrd: Some(GuestPhysical(0xb000_0000)..GuestPhysical(0xb100_0000)),
            rng_seed: &[7; 32],
        }
    }

    fn cells(node: FdtNode, property: &str) -> Vec<u32> {
        let value = node.property(property).unwrap().value;
        value.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    fn text<'a>(node: FdtNode<'_, 'a>, property: &str) -> &'a str {
        node.property(property).unwrap().as_str().unwrap()
    }

    #[test]
    fn chosen_carries_command_line_initrd_and_seed() {
        let blob = tree().build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let chosen = fdt.find_node("/chosen").unwrap();
        assert_eq!(text(chosen, "bootargs"), "console=ttyS0 root=/dev/vda");
        assert_eq!(cells(chosen, "linux,initrd-start"), [0, 0xb000_0000]);
        assert_eq!(cells(chosen, "linux,initrd-end"), [0, 0xb100_0000]);
        assert_eq!(chosen.property("rng-seed").unwrap().value, [7; 32]);
        assert_eq!(fdt.chosen().stdout().unwrap().name, "serial@10000000");
    }

    #[test]
    fn absent_initrd_and_seed_leave_no_property() {
        let blob = DeviceTree { initrd: None, rng_seed: &[], ..tree() }.build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let chosen = fdt.find_node("/chosen").unwrap();
        assert!(chosen.properties().all(|property| ["bootargs", "stdout-path"].contains(&property.name)));
    }

    #[test]
    fn hypervisor_extension_is_named_where_it_is() {
        for (hypervisor, start) in [(false, "rv64imafdc_"), (true, "rv64imafdch_")] {
            let blob = DeviceTree { hypervisor, ..tree() }.build().unwrap();
            let fdt = Fdt::new(&blob).unwrap();
            let cpu = fdt.find_node("/cpus/cpu@0").unwrap();
            assert!(text(cpu, "riscv,isa").starts_with(start));
            let names = cpu.property("riscv,isa-extensions").unwrap().value;
            assert_eq!(names.split(|&byte| byte == 0).any(|name| name == b"h"), hypervisor);
        }
    }

    #[test]
    fn memory_is_the_range_given() {
        let blob = tree().build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let region = fdt.memory().regions().next().unwrap();
        assert_eq!((region.starting_address as usize, region.size), (0x8000_0000, Some(0x4000_0000)));
    }

    #[test]
    fn each_hart_has_its_node_and_place_in_the_map() {
        let blob = DeviceTree { harts: 5, translation: TranslationMode::Sv39, ..tree() }.build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        assert_eq!(fdt.cpus().count(), 5);
        for hart in 0..5 {
            let cpu = fdt.find_node(&format!("/cpus/cpu@{hart}")).unwrap();
            assert_eq!(cells(cpu, "reg"), [hart]);
            assert_eq!(text(cpu, "mmu-type"), "riscv,sv39");
            let core = fdt.find_node(&format!("/cpus/cpu-map/cluster0/core{hart}")).unwrap();
            assert_eq!(cells(core, "cpu"), cells(cpu, "phandle"));
        }
    }

    #[test]
    fn lacking_extensions_are_left_out() {
        let blob = DeviceTree { lacking: &["zacas", "zicboz"], ..tree() }.build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let cpu = fdt.find_node("/cpus/cpu@0").unwrap();
        let isa = cpu.property("riscv,isa").unwrap().as_str().unwrap();
        assert!(!isa.contains("zacas") && !isa.contains("zicboz") && isa.contains("zicbom"), "{isa}");
        assert!(
            cpu.property("riscv,cboz-block-size").is_none()
                && cpu.property("riscv,cbom-block-size").is_some()
        );
    }

    #[test]
    fn isa_string_and_list_name_the_same_extensions() {
        let blob = tree().build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let cpu = fdt.find_node("/cpus/cpu@0").unwrap();
        let (letters, rest) = text(cpu, "riscv,isa").strip_prefix("rv64").unwrap().split_once('_').unwrap();
        let mut names: Vec<&str> = letters.split("").filter(|letter| !letter.is_empty()).collect();
        names.extend(rest.split('_'));
        let list = cpu.property("riscv,isa-extensions").unwrap().value;
        let list: Vec<&str> =
            list.split(|byte| *byte == 0).map(|name| core::str::from_utf8(name).unwrap()).collect();
        assert_eq!(list, [names.as_slice(), &[""]].concat());
    }

    #[test]
    fn plic_contexts_are_machine_and_supervisor_of_each_hart() {
        let blob = tree().build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let plic = fdt.find_node("/soc/plic@c000000").unwrap();
        assert_eq!(cells(plic, "interrupts-extended"), [4, 11, 4, 9, 6, 11, 6, 9]);
        assert!(fdt.find_node("/soc/clint@2000000").is_some());
    }

    /// Every context that the tree lists gets an interrupt on the board; the line that it names must rise, and
    /// no other.
    #[test]
    fn plic_contexts_are_those_of_the_board() {
        const IER: u64 = 1;
        const TRANSMITTER_EMPTY: u64 = 2;
        for machine_mode in [true, false] {
            let blob = DeviceTree { machine_mode, ..tree() }.build().unwrap();
            let fdt = Fdt::new(&blob).unwrap();
            let contexts = cells(fdt.find_node("/soc/plic@c000000").unwrap(), "interrupts-extended");
            for (context, named) in contexts.chunks(2).enumerate() {
                let test = TestVm::new(2, machine_mode);
                let store = |window: Window, offset, width, value| {
                    let stored = test.vm.board().write(window.base.offset(offset), width, value);
                    assert!(matches!(stored, Ok(Ok(_))));
                };
                let source = memory_map::UART_IRQ;
                store(memory_map::PLIC, 4 * u64::from(source), Width::Word, 1);
                store(memory_map::PLIC, 0x2000 + 0x80 * context as u64, Width::Word, 1 << source);
                store(memory_map::UART, IER, Width::Byte, TRANSMITTER_EMPTY);
                for (hart, signals) in (0..).zip(test.vm.harts()) {
                    let is_named = named[0] == phandle::hart_interrupts(hart);
                    let expected = if is_named { 1 << named[1] } else { 0 };
                    assert_eq!(signals.lines(), expected, "context {context}, hart {hart}");
                }
            }
        }
    }

    #[test]
    fn without_machine_mode_only_supervisor_interrupts_are_described() {
        let blob = DeviceTree { machine_mode: false, ..tree() }.build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let plic = fdt.find_node("/soc/plic@c000000").unwrap();
        assert_eq!(cells(plic, "interrupts-extended"), [4, 9, 6, 9]);
        assert!(fdt.find_node("/soc/clint@2000000").is_none());
    }

    #[test]
    fn virtio_slots_follow_each_other() {
        let blob = tree().build().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        for slot in 0..8u32 {
            let node = fdt.find_node(&format!("/soc/virtio_mmio@{:x}", 0x1000_1000 + 0x1000 * slot)).unwrap();
            assert_eq!(cells(node, "interrupts"), [slot + 1]);
            assert_eq!(cells(node, "interrupt-parent"), [phandle::PLIC]);
        }
        assert!(fdt.find_node("/soc/virtio_mmio@10009000").is_none());
    }

    #[test]
    fn size_does_not_depend_on_addresses() {
        let other = DeviceTree { initrd: Some(GuestPhysical(0)..GuestPhysical(0)), ..tree() };
        assert_eq!(tree().build().unwrap().len(), other.build().unwrap().len());
    }

    #[test]
    fn impossible_machines_are_refused() {
        let refused = |tree: DeviceTree| tree.build().unwrap_err();
        assert_eq!(refused(DeviceTree { harts: 0, ..tree() }), DeviceTreeError::Harts(0));
        assert_eq!(refused(DeviceTree { harts: 5000, ..tree() }), DeviceTreeError::Harts(5000));
        assert_eq!(refused(DeviceTree { command_line: "a\0b", ..tree() }), DeviceTreeError::CommandLine);
        let backwards = RAM.end..RAM.start;
        assert_eq!(
            refused(DeviceTree { memory: backwards.clone(), ..tree() }),
            DeviceTreeError::Range("memory")
        );
        assert_eq!(
            refused(DeviceTree { initrd: Some(backwards), ..tree() }),
            DeviceTreeError::Range("initrd")
        );
    }
}
