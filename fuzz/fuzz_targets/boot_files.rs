#![no_main]
//! Headers of Linux kernels, and initrds.

use libfuzzer_sys::fuzz_target;
use rvisor_machine::boot::image::LinuxImage;
use rvisor_machine::boot::{initrd, layout};
use rvisor_waist::GuestPhysical;

const RAM: std::ops::Range<GuestPhysical> = GuestPhysical(0x8000_0000)..GuestPhysical(0x9000_0000);

fn place(file: &[u8]) {
    let Ok(image) = LinuxImage::parse(file) else { return };
    assert!(image.size >= file.len() as u64);
    let kernel = layout::Stage::linux(&image, &RAM);
    let extent = kernel.extent.clone();
    let Ok(layout) = layout::Layout::place(&RAM, &[kernel], Some(file.len() as u64), 8192) else { return };
    let initrd = layout.initrd.expect("one was asked for");
    assert!(RAM.start <= extent.start && extent.end <= initrd.start);
    assert!(initrd.end <= layout.dynamic_info && layout.dynamic_info < layout.device_tree.start);
    assert!(layout.device_tree.end <= RAM.end);
}

fuzz_target!(|noise: &[u8]| {
    place(noise);
    // With the magic numbers in place, noise gets past the first checks.
    let mut kernel = noise.to_vec();
    kernel.resize(noise.len().max(64), 0);
    kernel[56..60].copy_from_slice(b"RSC\x05");
    place(&kernel);
    kernel[..2].copy_from_slice(b"MZ");
    place(&kernel);
    let _ = initrd::check(noise);
});
