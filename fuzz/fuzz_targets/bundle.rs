#![no_main]
//! Bundles of the type-1 home: any bytes are read or refused, and what is written is read back.

use libfuzzer_sys::fuzz_target;
use rvisor_machine::bundle::{
    Attachment, Bundle, BundledGuest, DiskRange, SavedGuest, Settings, read, write,
};

type Numbers = (u64, u32, u32, u32, u64);
type Devices = (Option<(u64, u64, bool)>, Option<(u32, [u8; 6])>, bool, bool);
type Saved<'a> = (Option<(u64, u64)>, Option<(&'a [u8], &'a [u8], &'a [u8])>);

fuzz_target!(|input: (
    &[u8],
    (u32, bool, Option<u32>),
    Vec<(&str, Numbers, Devices, Saved<'_>, &[u8], &[u8], &str)>
)| {
    let (file, (slice, prefix, uplink), guests) = input;
    if let Ok(bundle) = read(file) {
        assert_eq!(read(&write(&bundle).expect("what was read is sound")), Ok(bundle));
    }
    let guests = guests
        .into_iter()
        .map(|(name, numbers, devices, (save, saved), kernel, initrd, command_line)| {
            let (memory, harts, weight, cap, affinity) = numbers;
            let (disk, network, autostart, bare) = devices;
            BundledGuest {
                memory,
                harts,
                weight,
                cap,
                affinity,
                autostart,
                bare,
                disk: disk.map(|(start, sectors, read_only)| DiskRange { start, sectors, read_only }),
                network: network.map(|(network, mac)| Attachment { network, mac }),
                save: save.map(|(start, sectors)| DiskRange { start, sectors, read_only: false }),
                saved: saved.map(|(state, memory, notes)| SavedGuest { state, memory, notes }),
                initrd: (!initrd.is_empty()).then_some(initrd),
                command_line,
                ..BundledGuest::new(name, kernel)
            }
        })
        .collect();
    let bundle = Bundle { settings: Settings { slice, prefix, uplink }, guests };
    if let Ok(file) = write(&bundle) {
        assert_eq!(read(&file), Ok(bundle));
    }
});
