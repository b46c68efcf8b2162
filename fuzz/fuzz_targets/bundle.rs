#![no_main]
//! Bundles of the type-1 home: any bytes are read or refused, and what is written is read back.

use libfuzzer_sys::fuzz_target;
use rvisor_machine::bundle::{BundledGuest, read, write};

fuzz_target!(|input: (&[u8], Vec<(&str, u64, u32, u32, &[u8], &[u8], &str)>)| {
    let (file, guests) = input;
    if let Ok(guests) = read(file) {
        assert_eq!(read(&write(&guests).expect("what was read is sound")), Ok(guests));
    }
    let guests: Vec<_> = guests
        .into_iter()
        .map(|(name, memory, harts, weight, kernel, initrd, command_line)| BundledGuest {
            name,
            memory,
            harts,
            weight,
            kernel,
            initrd: (!initrd.is_empty()).then_some(initrd),
            command_line,
        })
        .collect();
    if let Ok(file) = write(&guests) {
        assert_eq!(read(&file), Ok(guests));
    }
});
