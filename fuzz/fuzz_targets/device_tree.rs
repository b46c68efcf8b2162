#![no_main]
//! The device tree, read back by another implementation.

use fdt::Fdt;
use libfuzzer_sys::fuzz_target;
use rvisor_hart::TranslationMode;
use rvisor_machine::device_tree::DeviceTree;
use rvisor_waist::GuestPhysical;

fuzz_target!(|input: (u8, u64, u64, bool, u8, &str, Option<(u64, u64)>, &[u8])| {
    let (harts, start, end, machine_mode, slots, command_line, initrd, rng_seed) = input;
    // Few of a kind: more of the same only slow the reader down.
    let (harts, slots) = (harts % 8, slots % 10);
    let tree = DeviceTree {
        harts: harts.into(),
        memory: GuestPhysical(start)..GuestPhysical(end),
        machine_mode,
        translation: TranslationMode::Sv57,
        hypervisor: harts % 2 == 1,
        lacking: &[],
        virtio_slots: slots.into(),
        command_line,
        initrd: initrd.map(|(start, end)| GuestPhysical(start)..GuestPhysical(end)),
        rng_seed,
    };
    let Ok(blob) = tree.build() else { return };
    let fdt = Fdt::new(&blob).expect("a header");
    assert_eq!(fdt.total_size(), blob.len());
    assert_eq!(fdt.cpus().count(), usize::from(harts));
    assert_eq!(fdt.chosen().bootargs(), Some(command_line));
    let virtio = fdt.find_node("/soc").expect("a bus").children();
    assert_eq!(virtio.filter(|node| node.name.starts_with("virtio_mmio")).count(), usize::from(slots));
    let memory = fdt.memory().regions().next().expect("memory");
    assert_eq!((memory.starting_address as u64, memory.size), (start, Some((end - start) as usize)));
});
