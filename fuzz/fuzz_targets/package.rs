#![no_main]
//! The reader of Debian packages: ar, the compressions, tar.

use std::io::{Cursor, Read};

use libfuzzer_sys::fuzz_target;
use rvisor_images::deb::Deb;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut deb) = Deb::new(Cursor::new(bytes), "fuzz") else { return };
    let _ = deb.control();
    let Ok(mut data) = deb.data() else { return };
    let Ok(entries) = data.entries() else { return };
    for entry in entries.take(100) {
        let Ok(entry) = entry else { return };
        let _ = entry.take(1 << 20).read_to_end(&mut Vec::new());
    }
});
