//! The gateway's end of the cable: frames for the guest, and IP packets for smoltcp.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Packet,
    Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6FragmentHeader, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

use super::HOST_MAC;
use super::addresses::Addresses;
use super::wire::{ETHERNET_HEADER, FRAGMENT_BLOCK, FRAGMENT_HEADER};

/// Bytes in an IPv4 header without options, in an IPv6 header, and in a UDP header.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;
/// The hop limit of what neighbours only may send (RFC 4861).
const NEIGHBOUR: u8 = 255;
/// Smallest MTU of a link that carries IPv6 (RFC 8200, 5).
const IPV6_MTU: usize = 1280;

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
    /// Whether TCP may send. A segment for everybody would be lost (Linux takes none that isn't for its own hardware
    /// address), and repeated only a second later; so TCP waits until the guest's is known.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < QUEUE_BYTES && self.knows_guest()
    }

    /// Whether the guest's hardware address is known: it has sent something. One that goes on from a saved state, here
    /// or on another host, may not have anything to send.
    pub(super) fn knows_guest(&self) -> bool {
        !self.guest.is_broadcast()
    }

    /// Whether the link carries IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.mtu >= IPV6_MTU
    }

    /// Largest IP packet, in bytes.
    pub(super) fn mtu(&self) -> usize {
        self.mtu
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

    /// The same with IPv6, where fragments have a header of their own (RFC 8200, 4.5).
    fn send_ipv6(
        &mut self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: IpProtocol,
        hop_limit: u8,
        payload: &[u8],
    ) {
        let to = match destination.octets() {
            [0xff, .., a, b, c, d] => EthernetAddress([0x33, 0x33, a, b, c, d]),
            _ => self.guest,
        };
        let header = |next_header, payload_len| Ipv6Repr {
            src_addr: source,
            dst_addr: destination,
            next_header,
            payload_len,
            hop_limit,
        };
        self.ident = self.ident.wrapping_add(1);
        let (ident, most) = (u32::from(self.ident), self.mtu - IPV6_HEADER);
        let mut send = |next_header, parts: [&[u8]; 2]| {
            let length = parts[0].len() + parts[1].len();
            let Some(buffer) = self.make(to, EthernetProtocol::Ipv6, IPV6_HEADER + length) else {
                return false;
            };
            header(next_header, length).emit(&mut Ipv6Packet::new_unchecked(&mut buffer[..]));
            let (first, second) = buffer[IPV6_HEADER..].split_at_mut(parts[0].len());
            first.copy_from_slice(parts[0]);
            second.copy_from_slice(parts[1]);
            true
        };
        if payload.len() <= most {
            send(protocol, [&[], payload]);
            return;
        }
        let step = (most - FRAGMENT_HEADER) & !(FRAGMENT_BLOCK - 1);
        for (number, part) in payload.chunks(step).enumerate() {
            let offset = number * step;
            let mut bytes = [0; FRAGMENT_HEADER];
            bytes[0] = protocol.into();
            let mut fragment = Ipv6FragmentHeader::new_unchecked(&mut bytes[2..]);
            fragment.set_frag_offset((offset / FRAGMENT_BLOCK) as u16);
            fragment.set_more_frags(offset + part.len() < payload.len());
            fragment.set_ident(ident);
            if !send(IpProtocol::Ipv6Frag, [&bytes, part]) {
                return;
            }
        }
    }

    /// Sends an IP packet between two addresses of one family.
    fn send_ip(&mut self, source: IpAddr, destination: IpAddr, protocol: IpProtocol, payload: &[u8]) {
        match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.send_ipv4(from, to, protocol, payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.send_ipv6(from, to, protocol, HOP_LIMIT, payload),
            _ => {}
        }
    }

    /// Sends a UDP datagram; drops one too long for UDP.
    pub(super) fn send_udp(&mut self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) {
        let length = UDP_HEADER + payload.len();
        if length + IPV4_HEADER > usize::from(u16::MAX) {
            return;
        }
        let mut buffer = vec![0; length];
        UdpRepr { src_port: source.port(), dst_port: destination.port() }.emit(
            &mut UdpPacket::new_unchecked(&mut buffer[..]),
            &source.ip().into(),
            &destination.ip().into(),
            payload.len(),
            |place| place.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        self.send_ip(source.ip(), destination.ip(), IpProtocol::Udp, &buffer);
    }

    /// Sends an ICMP message.
    pub(super) fn send_icmp(&mut self, source: Ipv4Addr, destination: Ipv4Addr, message: &Icmpv4Repr<'_>) {
        let mut buffer = vec![0; message.buffer_len()];
        message.emit(&mut Icmpv4Packet::new_unchecked(&mut buffer[..]), &ChecksumCapabilities::default());
        self.send_ipv4(source, destination, IpProtocol::Icmp, &buffer);
    }

    /// Sends an ICMPv6 message.
    pub(super) fn send_icmp6(&mut self, source: Ipv6Addr, destination: Ipv6Addr, message: &Icmpv6Repr<'_>) {
        let mut buffer = vec![0; message.buffer_len()];
        let mut packet = Icmpv6Packet::new_unchecked(&mut buffer[..]);
        message.emit(&source, &destination, &mut packet, &ChecksumCapabilities::default());
        self.send_ipv6(source, destination, IpProtocol::Icmpv6, HOP_LIMIT, &buffer);
    }

    /// Sends an ICMPv6 message of neighbour discovery, whose checksum is still missing.
    pub(super) fn send_discovery(&mut self, source: Ipv6Addr, destination: Ipv6Addr, message: &mut [u8]) {
        Icmpv6Packet::new_unchecked(&mut *message).fill_checksum(&source, &destination);
        self.send_ipv6(source, destination, IpProtocol::Icmpv6, NEIGHBOUR, message);
    }

    /// Answers an echo request.
    pub(super) fn send_echo_reply(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        ident: u16,
        seq_no: u16,
        data: &[u8],
    ) {
        match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.send_icmp(from, to, &Icmpv4Repr::EchoReply { ident, seq_no, data });
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.send_icmp6(from, to, &Icmpv6Repr::EchoReply { ident, seq_no, data });
            }
            _ => {}
        }
    }

    /// Tells the guest that what it sent doesn't reach its destination; `data` is the beginning of its payload.
    pub(super) fn send_unreachable(
        &mut self,
        reason: Unreachable,
        from: IpAddr,
        to: IpAddr,
        protocol: IpProtocol,
        data: &[u8],
    ) {
        let (payload_len, hop_limit, next_header) = (data.len(), HOP_LIMIT, protocol);
        match (from, to) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let header = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
                let message = Icmpv4Repr::DstUnreachable { reason: reason.icmp(), header, data };
                self.send_icmp(self.addresses.gateway, src_addr, &message);
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let header = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
                let message = Icmpv6Repr::DstUnreachable { reason: reason.icmp6(), header, data };
                self.send_icmp6(self.addresses.gateway6, src_addr, &message);
            }
            _ => {}
        }
    }
}

/// Why something doesn't reach its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unreachable {
    Port,
    Host,
    Network,
    Prohibited,
}

impl Unreachable {
    /// As ICMP says it (RFC 792, RFC 1122).
    fn icmp(self) -> Icmpv4DstUnreachable {
        match self {
            Self::Port => Icmpv4DstUnreachable::PortUnreachable,
            Self::Host => Icmpv4DstUnreachable::HostUnreachable,
            Self::Network => Icmpv4DstUnreachable::NetUnreachable,
            Self::Prohibited => Icmpv4DstUnreachable::NetProhibited,
        }
    }

    /// As ICMPv6 says it (RFC 4443, 3.1).
    fn icmp6(self) -> Icmpv6DstUnreachable {
        match self {
            Self::Port => Icmpv6DstUnreachable::PortUnreachable,
            Self::Host => Icmpv6DstUnreachable::AddrUnreachable,
            Self::Network => Icmpv6DstUnreachable::NoRoute,
            Self::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        }
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
        let Some(packet) = self.0.make(guest, EthernetProtocol::Ipv4, length) else {
            // Lost like any packet on a crowded network.
            return fill(&mut vec![0; length]);
        };
        let result = fill(packet);
        let is_ipv6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        if let Some(frame) = self.0.frames.last_mut().filter(|_| is_ipv6) {
            EthernetFrame::new_unchecked(&mut frame[..]).set_ethertype(EthernetProtocol::Ipv6);
        }
        result
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
