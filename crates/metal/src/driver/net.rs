//! The physical network card (Virtio 1.3, "Network Device").

use alloc::vec;
use alloc::vec::Vec;

use crate::arch::virtio::{Buffers, Device, Requests};

const QUEUE: usize = 64;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Bytes of `struct virtio_net_hdr`: twelve since version 1.0.
const HEADER: usize = 12;
/// Bytes of a frame without VLAN tag.
const FRAME: usize = 1514;
const F_MAC: u64 = 1 << 5;
/// `VIRTIO_F_VERSION_1`
const F_VERSION_1: u64 = 1 << 32;

/// A card that works.
pub struct Net {
    device: Device,
    receive: Requests<QUEUE>,
    transmit: Requests<QUEUE>,
}

impl Net {
    /// Sets a card up. `None` if it isn't usable.
    pub fn new(mut device: Device) -> Option<Self> {
        // Before version 1.0 the header has another length.
        if device.negotiate(F_MAC) & F_VERSION_1 == 0 {
            return None;
        }
        let mut receive = Requests::new(&mut device, RECEIVE)?;
        let transmit = Requests::new(&mut device, TRANSMIT)?;
        device.start();
        let room = || Buffers { sent: Vec::new(), received: vec![vec![0; HEADER + FRAME]], tag: 0 };
        while receive.submit(&mut device, room()).is_ok() {}
        Some(Self { device, receive, transmit })
    }

    /// Sends a frame; drops it where the card is busy with many.
    pub fn send(&mut self, frame: &[u8]) {
        while self.transmit.finished().is_some() {}
        let mut bytes = vec![0; HEADER];
        bytes.extend(frame);
        // Not sent is lost, as on any network.
        let _ = self
            .transmit
            .submit(&mut self.device, Buffers { sent: vec![bytes], received: Vec::new(), tag: 0 });
    }

    /// The device interrupted.
    pub fn acknowledge(&mut self) {
        self.device.acknowledge();
    }

    /// Takes a frame that has come.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let (buffers, length) = self.receive.finished()?;
        let frame = buffers
            .received
            .first()
            .and_then(|bytes| bytes.get(HEADER..(length as usize).min(bytes.len())))
            .map(<[u8]>::to_vec);
        // There is room: this one was just taken out.
        let _ = self.receive.submit(&mut self.device, buffers);
        Some(frame.unwrap_or_default())
    }
}
