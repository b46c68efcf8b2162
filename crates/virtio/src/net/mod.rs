//! The network device (Virtio 1.3, "Network Device"): Ethernet frames on a [`NetBackend`], one queue each way.
//!
//! Checksums of frames that the guest sends may be left to the device, and TCP segments larger than the network's packets: they
//! go on as they are to a back end that takes them, else they are cut here. Other offloads aren't offered.

mod header;
pub(crate) mod persist;
mod segments;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use header::Header;
use rvisor_waist::{GuestMemory, NetBackend, StateError, StateReader, StateWriter};

use crate::front_end::{FrontEnd, Queues};
use crate::queue::{Chain, QueueError};

/// `VIRTIO_NET_F_CSUM`
pub const F_CSUM: u64 = 1 << 0;
/// `VIRTIO_NET_F_GUEST_CSUM`
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// `VIRTIO_NET_F_MTU`
pub const F_MTU: u64 = 1 << 3;
/// `VIRTIO_NET_F_MAC`
pub const F_MAC: u64 = 1 << 5;
/// `VIRTIO_NET_F_HOST_TSO4`
pub const F_HOST_TSO4: u64 = 1 << 11;
/// `VIRTIO_NET_F_HOST_TSO6`
pub const F_HOST_TSO6: u64 = 1 << 12;
/// `VIRTIO_NET_F_MRG_RXBUF`
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// `VIRTIO_NET_F_STATUS`
pub const F_STATUS: u64 = 1 << 16;

/// Queue of frames for the driver.
pub const RECEIVE: usize = 0;
/// Queue of frames from the driver.
pub const TRANSMIT: usize = 1;

/// The device id.
pub(crate) const DEVICE_ID: u32 = 1;
const QUEUE_SIZE: u16 = 256;
/// Longest frame that is carried, in bytes.
const MAX_FRAME: usize = 14 + (1 << 16);
/// Frames and buffers looked at in one go; a busy network must not hold a hart up.
const FRAME_BUDGET: u32 = 1024;
/// `VIRTIO_NET_S_LINK_UP`
const LINK_UP: u16 = 1;

/// Network front end.
pub struct Net {
    back_end: Box<dyn NetBackend>,
    mac: [u8; 6],
    mtu: Option<u16>,
    /// Whether it keeps its address when it takes over another's state.
    keeps_mac: bool,
    /// Negotiated.
    features: u64,
    /// Chains for the next frame to the driver.
    room: Vec<Chain>,
    /// The frame that waits for room, where `has_incoming`.
    incoming: Vec<u8>,
    has_incoming: bool,
    outgoing: Vec<u8>,
    /// Where packets of a large segment are made.
    packet: Vec<u8>,
}

impl Net {
    /// A network card with the address `mac`.
    #[must_use]
    pub fn new(mac: [u8; 6], back_end: Box<dyn NetBackend>) -> Self {
        Self {
            back_end,
            mac,
            mtu: None,
            keeps_mac: false,
            features: 0,
            room: Vec::new(),
            incoming: Vec::new(),
            has_incoming: false,
            outgoing: Vec::new(),
            packet: Vec::new(),
        }
    }

    /// Tells the driver the network's largest packet, in bytes after the Ethernet header.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Lets it keep its address when it takes over another's state, because its network gives it that one.
    #[must_use]
    pub fn with_assigned_mac(mut self) -> Self {
        self.keeps_mac = true;
        self
    }

    fn transmit<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(mut chain) = queues.pop(TRANSMIT)? {
            self.send(&mut chain, queues.memory())?;
            queues.push_used(TRANSMIT, chain, 0)?;
        }
        Ok(())
    }

    /// Sends one frame; what is none, or too long, or asks for what wasn't negotiated, is lost.
    fn send<M: GuestMemory>(&mut self, chain: &mut Chain, memory: &M) -> Result<(), QueueError> {
        let mut bytes = [0; header::SIZE];
        let complete = chain.readable.read(memory, &mut bytes)? == header::SIZE;
        let length = chain.readable.length() as usize;
        if !complete || length == 0 || length > MAX_FRAME {
            return Ok(());
        }
        self.outgoing.resize(length, 0);
        chain.readable.read(memory, &mut self.outgoing)?;
        let header = Header::parse(&bytes);
        if header.apply(&mut self.outgoing, self.features).is_err() {
            return Ok(());
        }
        match header.segment_size().filter(|_| !self.back_end.is_local()) {
            None => self.back_end.send(&self.outgoing),
            Some(size) => {
                let Self { back_end, outgoing, packet, .. } = self;
                // What can't be cut is lost.
                let _ = segments::cut(outgoing, size, packet, |packet| back_end.send(packet));
            }
        }
        Ok(())
    }

    fn receive<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        for _ in 0..FRAME_BUDGET {
            if !self.has_room(queues)? || !self.has_frame() {
                return Ok(());
            }
            let room: usize = self.room.iter().map(|chain| chain.writable.length() as usize).sum();
            if room >= header::SIZE + self.incoming.len() {
                self.deliver(queues)?;
            } else if self.features & F_MRG_RXBUF == 0 || self.incoming.len() > MAX_FRAME {
                // The driver was to supply buffers that hold any frame.
                self.has_incoming = false;
            } else {
                let Some(chain) = queues.pop(RECEIVE)? else { return Ok(()) };
                self.room.push(chain);
            }
        }
        queues.defer(RECEIVE);
        Ok(())
    }

    fn has_room<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<bool, QueueError> {
        if self.room.is_empty() {
            self.room.extend(queues.pop(RECEIVE)?);
        }
        Ok(!self.room.is_empty())
    }

    fn has_frame(&mut self) -> bool {
        if !self.has_incoming {
            self.incoming.clear();
            self.has_incoming = self.back_end.receive(&mut self.incoming);
        }
        self.has_incoming
    }

    /// Stores the frame in the chains gathered for it, which are just enough.
    fn deliver<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        self.has_incoming = false;
        let valid = self.features & F_GUEST_CSUM != 0 && self.back_end.is_local();
        let header = header::incoming(self.room.len() as u16, valid);
        let mut parts = [&header[..], &self.incoming[..]];
        for mut chain in self.room.drain(..) {
            let mut written = 0;
            for part in &mut parts {
                let count = chain.writable.write(queues.memory(), part)?;
                *part = &part[count..];
                written += count;
            }
            queues.push_used(RECEIVE, chain, written as u32)?;
        }
        Ok(())
    }
}

impl FrontEnd for Net {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        let mtu = if self.mtu.is_some() { F_MTU } else { 0 };
        mtu | F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_MAC | F_MRG_RXBUF | F_STATUS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn config(&self) -> impl AsRef<[u8]> {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.unwrap_or_default().to_le_bytes());
        config
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
    }

    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        if index == TRANSMIT {
            self.transmit(queues)?;
        }
        // What was sent may have an answer already.
        self.receive(queues)
    }

    fn poll<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        self.receive(queues)
    }

    fn stop_queue(&mut self, index: usize) {
        if index == RECEIVE {
            self.room.clear();
        }
    }

    fn reset(&mut self) {
        self.features = 0;
        self.room.clear();
        self.has_incoming = false;
    }

    fn save(&self, state: &mut StateWriter) -> Result<(), StateError> {
        self.save_state(state);
        Ok(())
    }

    fn restore<M: GuestMemory>(&mut self, state: &mut StateReader<'_>, memory: &M) -> Result<(), StateError> {
        self.restore_state(state, memory)
    }
}

#[cfg(test)]
mod tests;
