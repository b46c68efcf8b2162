//! The physical entropy device (Virtio 1.3, "Entropy Device"): asked once, at boot.

use alloc::vec;
use alloc::vec::Vec;

use crate::arch::virtio::{Buffers, Device, Requests};

/// Fills a buffer; waits for the device. `None` if it doesn't answer within `patience` looks.
pub fn read(mut device: Device, length: usize, patience: u64) -> Option<Vec<u8>> {
    device.negotiate(0);
    let mut queue = Requests::<4>::new(&mut device, 0)?;
    device.start();
    let mut bytes = Vec::new();
    let mut left = patience;
    while bytes.len() < length {
        let room = vec![0; length - bytes.len()];
        queue.submit(&mut device, Buffers { sent: Vec::new(), received: vec![room], tag: 0 }).ok()?;
        let (mut buffers, count) = loop {
            match queue.finished() {
                Some(finished) => break finished,
                None => left = left.checked_sub(1)?,
            }
            core::hint::spin_loop();
        };
        let part = buffers.received.pop()?;
        // A device that gives nothing would be asked for ever.
        left = left.checked_sub(1)?;
        bytes.extend(&part[..part.len().min(count as usize)]);
    }
    Some(bytes)
}
