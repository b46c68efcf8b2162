#![no_main]
//! The ELF loader.

use libfuzzer_sys::fuzz_target;
use rvisor_machine::boot::elf::Elf;
use rvisor_virtio::testing::TestMemory;
use rvisor_waist::GuestMemory;

/// The start of an ELF header, up to the machine: lets noise get past the first checks.
const HEADER: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xf3\0";

fn load(file: &[u8], memory: &TestMemory) {
    let ram = memory.range();
    let Ok(elf) = Elf::parse(file, &ram) else { return };
    let extent = elf.extent();
    assert!(ram.start <= extent.start && extent.end <= ram.end && extent.contains(&elf.entry()));
    assert_eq!(elf.load(memory), Ok(()), "what was accepted can be loaded");
    if let Some(symbol) = elf.symbol("tohost") {
        assert!(extent.contains(&symbol));
    }
}

fuzz_target!(|noise: &[u8]| {
    let memory = TestMemory::new(1 << 20);
    load(noise, &memory);
    load(&[HEADER, noise].concat(), &memory);
});
