//! The gateway's end of the cable: frames for the guest, and IP packets for smoltcp.

use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::HOST_MAC;
use super::addresses::Addresses;
use super::wire::ETHERNET_HEADER;

/// Bytes in an IPv4 header without options, and in a UDP header.
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// Frames wait for the guest up to this many bytes; beyond, TCP waits.
pub(super) const QUEUE_BYTES: usize = 4 << 20;
/// Answers that can't wait are dropped beyond this many bytes.
const HARD_LIMIT: usize = 2 * QUEUE_BYTES;

/// Both directions of the cable.
pub(super) struct Link {
    /// The IP packet that smoltcp is to read next, if `pending`.
    arriving: Vec<u8>,
    pending: bool,
    /// What goes to the guest.
    pub(super) out: Outgoing,
}

/// Frames on their way to the guest.
pub(super) struct Outgoing {
    /// Made in this round and not yet published.
    pub(super) frames: Vec<Vec<u8>>,
    /// Buffers to make frames in.
    pub(super) spare: Vec<Vec<u8>>,
    /// Bytes in `frames` and in the queue that the guest empties.
    pub(super) bytes: usize,
    /// Whether smoltcp had to wait for room.
    pub(super) stalled: bool,
    /// The guest's hardware address: that of its last frame.
    pub(super) guest: EthernetAddress,
    pub(super) addresses: Addresses,
    mtu: usize,
    /// Identification of the next fragmented packet.
    ident: u16,
}

impl Link {
    pub(super) fn new(mtu: u16, addresses: Addresses) -> Self {
        let out = Outgoing {
            addresses,
            frames: Vec::new(),
            spare: Vec::new(),
            bytes: 0,
            stalled: false,
            guest: EthernetAddress::BROADCAST,
            mtu: usize::from(mtu),
            ident: 0,
        };
        Self { arriving: Vec::new(), pending: false, out }
    }

    /// Lets smoltcp read `packet` next.
    pub(super) fn arrive(&mut self, packet: &[u8]) {
        self.arriving.clear();
        self.arriving.extend_from_slice(packet);
        self.pending = true;
    }
}

impl Outgoing {
    /// Whether TCP may send.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < QUEUE_BYTES
    }

    /// Makes a frame of `length` payload bytes; gives `None` where far too many are waiting.
    fn make(&mut self, to: EthernetAddress, protocol: EthernetProtocol, length: usize) -> Option<&mut [u8]> {
        if self.bytes >= HARD_LIMIT {
            return None;
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.resize(ETHERNET_HEADER + length, 0);
        self.bytes += frame.len();
        let mut header = EthernetFrame::new_unchecked(&mut frame[..]);
        header.set_dst_addr(to);
        header.set_src_addr(EthernetAddress(HOST_MAC));
        header.set_ethertype(protocol);
        self.frames.push(frame);
        self.frames.last_mut().map(|frame| &mut frame[ETHERNET_HEADER..])
    }

    /// Passes on a frame that another machine made.
    pub(super) fn pass(&mut self, frame: &[u8]) {
        if self.bytes >= HARD_LIMIT || frame.len() > ETHERNET_HEADER + self.mtu {
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.bytes += copy.len();
        self.frames.push(copy);
    }

    /// Sends an ARP packet.
    pub(super) fn send_arp(&mut self, to: EthernetAddress, arp: &ArpRepr) {
        if let Some(payload) = self.make(to, EthernetProtocol::Arp, arp.buffer_len()) {
            arp.emit(&mut ArpPacket::new_unchecked(payload));
        }
    }

    /// Sends an IP packet, in fragments if it is too long for the link.
    fn send_ipv4(&mut self, source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) {
        let to = if destination.is_broadcast() { EthernetAddress::BROADCAST } else { self.guest };
        // All fragments but the last carry a multiple of 8 bytes (RFC 791).
        let step = match payload.len() + IPV4_HEADER {
            length if length <= self.mtu => payload.len().max(1),
            _ => (self.mtu - IPV4_HEADER) & !7,
        };
        self.ident = self.ident.wrapping_add(1);
        let (ident, mut offset) = (self.ident, 0);
        loop {
            let part = &payload[offset..payload.len().min(offset + step)];
            let Some(buffer) = self.make(to, EthernetProtocol::Ipv4, IPV4_HEADER + part.len()) else {
                return;
            };
            let header = Ipv4Repr {
                src_addr: source,
                dst_addr: destination,
                next_header: protocol,
                payload_len: part.len(),
                hop_limit: HOP_LIMIT,
            };
            let mut packet = Ipv4Packet::new_unchecked(buffer);
            header.emit(&mut packet, &ChecksumCapabilities::ignored());
            let last = offset + part.len() == payload.len();
            if !last || offset > 0 {
                packet.set_dont_frag(false);
                packet.set_ident(ident);
                packet.set_more_frags(!last);
                packet.set_frag_offset(offset as u16);
            }
            packet.fill_checksum();
            packet.payload_mut().copy_from_slice(part);
            if last {
                return;
            }
            offset += step;
        }
    }

    /// Sends a UDP datagram; drops one too long for UDP.
    pub(super) fn send_udp(&mut self, source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) {
        let length = UDP_HEADER + payload.len();
        if length + IPV4_HEADER > usize::from(u16::MAX) {
            return;
        }
        let mut buffer = vec![0; length];
        UdpRepr { src_port: source.port(), dst_port: destination.port() }.emit(
            &mut UdpPacket::new_unchecked(&mut buffer[..]),
            &IpAddress::Ipv4(*source.ip()),
            &IpAddress::Ipv4(*destination.ip()),
            payload.len(),
            |place| place.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        self.send_ipv4(*source.ip(), *destination.ip(), IpProtocol::Udp, &buffer);
    }

    /// Sends an ICMP message.
    pub(super) fn send_icmp(&mut self, source: Ipv4Addr, destination: Ipv4Addr, message: &Icmpv4Repr<'_>) {
        let mut buffer = vec![0; message.buffer_len()];
        message.emit(&mut Icmpv4Packet::new_unchecked(&mut buffer[..]), &ChecksumCapabilities::default());
        self.send_ipv4(source, destination, IpProtocol::Icmp, &buffer);
    }
}

/// An IP packet that smoltcp reads.
pub(super) struct Arriving<'a>(&'a [u8]);

impl phy::RxToken for Arriving<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// Room for an IP packet that smoltcp makes.
pub(super) struct Leaving<'a>(&'a mut Outgoing);

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let guest = self.0.guest;
        match self.0.make(guest, EthernetProtocol::Ipv4, length) {
            Some(packet) => fill(packet),
            // Lost like any packet on a crowded network.
            None => fill(&mut vec![0; length]),
        }
    }
}

impl Device for Link {
    type RxToken<'a> = Arriving<'a>;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arriving<'_>, Leaving<'_>)> {
        let pending = mem::take(&mut self.pending);
        pending.then(|| (Arriving(&self.arriving), Leaving(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        if !self.out.has_room() {
            self.out.stalled = true;
            return None;
        }
        Some(Leaving(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.out.mtu;
        capabilities
    }
}
