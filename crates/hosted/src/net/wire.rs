//! Frames from the guest: what they are, checked as far as the engine relies on it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6FragmentHeader, Ipv6Packet,
    TcpPacket, UdpPacket, UdpRepr,
};

/// Bytes before an Ethernet frame's payload.
pub(super) const ETHERNET_HEADER: usize = 14;
/// Bytes of IPv6's fragment header, and the unit of its offsets (RFC 8200, 4.5).
pub(super) const FRAGMENT_HEADER: usize = 8;
pub(super) const FRAGMENT_BLOCK: usize = 8;

/// What the engine acts on.
pub(super) enum Packet<'a> {
    /// An ARP packet.
    Arp(ArpRepr),
    /// An unfragmented TCP segment; smoltcp checks the rest of it.
    Tcp(Segment<'a>),
    /// An unfragmented UDP datagram.
    Udp(Datagram<'a>),
    /// An unfragmented ICMP or ICMPv6 echo request.
    Echo(Echo<'a>),
    /// Part of a larger IP packet.
    Fragment(Fragment<'a>),
    /// A question of IPv6's neighbour discovery.
    Solicitation(Solicitation),
}

/// What a guest asks its link (RFC 4861): who has an address, or who leads out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Solicitation {
    Neighbour { source: Ipv6Addr, target: Ipv6Addr },
    Router,
}

/// A TCP segment.
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Whether it opens a connection: SYN without ACK and RST, with a right checksum.
    pub(super) opens: bool,
    /// Whether it does nothing but acknowledge: no data, no flag besides ACK.
    pub(super) acknowledges: bool,
    /// The whole IP packet.
    pub(super) packet: &'a [u8],
    /// Bytes of the IP header.
    header: usize,
}

impl Segment<'_> {
    /// From the TCP header on, of which there is a whole one at least.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.packet[self.header..]
    }
}

/// A UDP datagram.
pub(super) struct Datagram<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) payload: &'a [u8],
}

/// An echo request.
pub(super) struct Echo<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) ident: u16,
    pub(super) sequence: u16,
    pub(super) data: &'a [u8],
}

/// Part of an IP packet.
pub(super) struct Fragment<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpProtocol,
    pub(super) ident: u32,
    /// Place of `payload` in the whole packet's payload, bytes.
    pub(super) offset: usize,
    /// Whether more follow.
    pub(super) more: bool,
    pub(super) payload: &'a [u8],
}

/// Reads a frame; `None` for what is malformed or of no interest.
pub(super) fn parse(frame: &[u8]) -> Option<(EthernetAddress, Packet<'_>)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let sender = ethernet.src_addr();
    if !sender.is_unicast() {
        return None;
    }
    let packet = match ethernet.ethertype() {
        EthernetProtocol::Arp => {
            Packet::Arp(ArpRepr::parse(&ArpPacket::new_checked(ethernet.payload()).ok()?).ok()?)
        }
        EthernetProtocol::Ipv4 => parse_ipv4(ethernet.payload())?,
        EthernetProtocol::Ipv6 => parse_ipv6(ethernet.payload())?,
        _ => return None,
    };
    Some((sender, packet))
}

/// Reads an IP packet.
pub(super) fn parse_packet(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => parse_ipv4(bytes),
        6 => parse_ipv6(bytes),
        _ => None,
    }
}

fn parse_ipv4(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 || packet.header_len() < 20 || !packet.verify_checksum() {
        return None;
    }
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let protocol = packet.next_header();
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Some(Packet::Fragment(Fragment {
            source,
            destination,
            protocol,
            ident: u32::from(packet.ident()),
            offset: usize::from(packet.frag_offset()),
            more: packet.more_frags(),
            payload: packet.payload(),
        }));
    }
    match protocol {
        IpProtocol::Tcp => {
            let whole = &bytes[..usize::from(packet.total_len())];
            parse_tcp(source, destination, whole, packet.payload()).map(Packet::Tcp)
        }
        _ => parse_datagram(source, destination, protocol, packet.payload()),
    }
}

/// Of the extension headers, fragments alone are understood.
fn parse_ipv6(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    if packet.version() != 6 {
        return None;
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let payload = packet.payload();
    match packet.next_header() {
        IpProtocol::Tcp => {
            let whole = &bytes[..packet.total_len()];
            parse_tcp(source.into(), destination.into(), whole, payload).map(Packet::Tcp)
        }
        IpProtocol::Ipv6Frag => {
            // The protocol of what is fragmented, and then the header as smoltcp reads it.
            let (protocol, rest) = (IpProtocol::from(*payload.first()?), payload.get(2..)?);
            let header = Ipv6FragmentHeader::new_checked(rest).ok()?;
            Some(Packet::Fragment(Fragment {
                source: source.into(),
                destination: destination.into(),
                protocol,
                ident: header.ident(),
                offset: usize::from(header.frag_offset()) * FRAGMENT_BLOCK,
                more: header.more_frags(),
                payload: payload.get(FRAGMENT_HEADER..)?,
            }))
        }
        // Neighbours only may ask, which no router lets through (RFC 4861, 6.1.1 and 7.1.1).
        IpProtocol::Icmpv6 if packet.hop_limit() == 255 => parse_solicitation(source, destination, payload)
            .or_else(|| parse_datagram(source.into(), destination.into(), IpProtocol::Icmpv6, payload)),
        protocol => parse_datagram(source.into(), destination.into(), protocol, payload),
    }
}

fn parse_solicitation(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Option<Packet<'static>> {
    let packet = Icmpv6Packet::new_checked(payload).ok()?;
    if packet.msg_code() != 0 || !packet.verify_checksum(&source, &destination) {
        return None;
    }
    let solicitation = match packet.msg_type() {
        Icmpv6Message::RouterSolicit => Solicitation::Router,
        Icmpv6Message::NeighborSolicit => {
            let target = payload.get(8..24)?.try_into().ok().map(Ipv6Addr::from_octets)?;
            Solicitation::Neighbour { source, target }
        }
        _ => return None,
    };
    Some(Packet::Solicitation(solicitation))
}

fn parse_tcp<'a>(
    source: IpAddr,
    destination: IpAddr,
    packet: &'a [u8],
    segment: &[u8],
) -> Option<Segment<'a>> {
    let tcp = TcpPacket::new_checked(segment).ok()?;
    let (from, to) = (source.into(), destination.into());
    let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() && tcp.verify_checksum(&from, &to);
    let acknowledges = tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst() && tcp.payload().is_empty();
    if tcp.src_port() == 0 || tcp.dst_port() == 0 {
        return None;
    }
    Some(Segment {
        source: SocketAddr::new(source, tcp.src_port()),
        destination: SocketAddr::new(destination, tcp.dst_port()),
        opens,
        acknowledges,
        packet,
        header: packet.len() - segment.len(),
    })
}

/// Reads the payload of a whole IP packet that is UDP or an echo request.
pub(super) fn parse_datagram(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    payload: &[u8],
) -> Option<Packet<'_>> {
    let checksums = ChecksumCapabilities::default();
    let echo = |ident, sequence, data| Packet::Echo(Echo { source, destination, ident, sequence, data });
    match protocol {
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            let (from, to) = (source.into(), destination.into());
            let UdpRepr { src_port, dst_port } = UdpRepr::parse(&udp, &from, &to, &checksums).ok()?;
            Some(Packet::Udp(Datagram {
                source: SocketAddr::new(source, src_port),
                destination: SocketAddr::new(destination, dst_port),
                payload: udp.payload(),
            }))
        }
        IpProtocol::Icmp => match Icmpv4Repr::parse(&Icmpv4Packet::new_checked(payload).ok()?, &checksums) {
            Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => Some(echo(ident, seq_no, data)),
            _ => None,
        },
        IpProtocol::Icmpv6 => {
            let (IpAddr::V6(from), IpAddr::V6(to)) = (source, destination) else { return None };
            let packet = Icmpv6Packet::new_checked(payload).ok()?;
            // What else there is isn't for a router, and may be longer than it says.
            if packet.msg_type() != Icmpv6Message::EchoRequest {
                return None;
            }
            match Icmpv6Repr::parse(&from, &to, &packet, &checksums) {
                Ok(Icmpv6Repr::EchoRequest { ident, seq_no, data }) => Some(echo(ident, seq_no, data)),
                _ => None,
            }
        }
        _ => None,
    }
}
