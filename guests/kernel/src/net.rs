//! The first virtio network card (Virtio 1.3, "Network Device"): frames of Ethernet, one sent at a time.

use crate::csr::{TICKS_PER_MILLISECOND, time};
use crate::virtio::{Descriptor, QUEUE, Queue, Ring, Transport, WRITE};

const NETWORK_CARD: u32 = 1;
const F_MAC: u64 = 1 << 5;
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
/// Bytes in front of each frame.
const HEADER: usize = 12;

/// How long a frame may take to be sent.
const PATIENCE: u64 = 1000 * TICKS_PER_MILLISECOND;

/// The longest frame.
pub const MOST: usize = 1514;
/// A frame's memory.
pub type Frame = [u8; MOST];

type Buffer = [u8; HEADER + MOST];

static mut RINGS: [Ring; 2] = [Ring::new(), Ring::new()];
static mut INCOMING: [Buffer; QUEUE] = [[0; HEADER + MOST]; QUEUE];
static mut OUTGOING: Buffer = [0; HEADER + MOST];

/// The card.
pub struct Card {
    device: Transport,
    receive: Queue,
    transmit: Queue,
}

impl Card {
    /// Finds the first card and sets it up. There is one driver of it only.
    pub fn find() -> Option<Self> {
        let device = Transport::find(NETWORK_CARD, F_MAC)?;
        // SAFETY: the rings belong to this driver.
        let [receive, transmit] = unsafe {
            let rings = &raw mut RINGS;
            [
                Queue::new(&device, RECEIVE, &raw mut (*rings)[0]),
                Queue::new(&device, TRANSMIT, &raw mut (*rings)[1]),
            ]
        };
        let mut card = Self { device, receive, transmit };
        for index in 0..QUEUE {
            let address = &raw const INCOMING as u64 + (index * size_of::<Buffer>()) as u64;
            let length = size_of::<Buffer>() as u32;
            card.receive.describe(index, Descriptor { address, length, flags: WRITE, next: 0 });
            card.receive.offer(index as u16);
        }
        card.device.start();
        card.receive.notify(&card.device);
        Some(card)
    }

    /// Its hardware address.
    pub fn address(&self) -> [u8; 6] {
        let (low, high) = (self.device.configuration(0).to_le_bytes(), self.device.configuration(4));
        let [fifth, sixth, ..] = high.to_le_bytes();
        [low[0], low[1], low[2], low[3], fifth, sixth]
    }

    /// Its bit among the interrupt controller's sources.
    pub fn source(&self) -> u32 {
        self.device.source()
    }

    /// Makes its interrupt be quiet.
    pub fn acknowledge(&self) {
        self.device.acknowledge();
    }

    /// Sends a frame, and waits until the card has it. False if it doesn't take it.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let out = (&raw mut OUTGOING).cast::<u8>();
        let length = frame.len().min(MOST);
        // SAFETY: the buffer is this driver's; the device reads it only until the end of the request.
        unsafe { out.wrapping_add(HEADER).copy_from(frame.as_ptr(), length) };
        let (address, length) = (out as u64, (HEADER + length) as u32);
        self.transmit.describe(0, Descriptor { address, length, flags: 0, next: 0 });
        self.transmit.offer(0);
        self.transmit.notify(&self.device);
        let patience = time() + PATIENCE;
        while self.transmit.ended().is_none() {
            if time() > patience {
                return false;
            }
        }
        true
    }

    /// A frame that has come, as its length.
    pub fn receive(&mut self, frame: &mut Frame) -> Option<usize> {
        let (index, length) = self.receive.ended()?;
        let length = (length as usize).saturating_sub(HEADER).min(MOST);
        let from = (&raw const INCOMING).cast::<Buffer>().wrapping_add(usize::from(index) % QUEUE);
        // SAFETY: the buffer is this driver's, and the device is done with it until it is offered again.
        let buffer = unsafe { from.read_volatile() };
        frame[..length].copy_from_slice(&buffer[HEADER..][..length]);
        self.receive.offer(index);
        self.receive.notify(&self.device);
        Some(length)
    }
}
