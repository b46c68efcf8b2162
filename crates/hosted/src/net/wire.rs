//! Frames from the guest: what they are, checked as far as the engine relies on it.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    IpAddress, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket, UdpRepr,
};

/// Bytes before an Ethernet frame's payload.
pub(super) const ETHERNET_HEADER: usize = 14;

/// What the engine acts on.
pub(super) enum Packet<'a> {
    /// An ARP packet.
    Arp(ArpRepr),
    /// An unfragmented TCP segment; smoltcp checks the rest of it.
    Tcp(Segment<'a>),
    /// An unfragmented UDP datagram.
    Udp(Datagram<'a>),
    /// An unfragmented ICMP echo request.
    Echo(Echo<'a>),
    /// Part of a larger IP packet.
    Fragment(Fragment<'a>),
}

/// A TCP segment.
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddrV4,
    pub(super) destination: SocketAddrV4,
    /// Whether it opens a connection: SYN without ACK and RST, with a right checksum.
    pub(super) opens: bool,
    /// Whether it does nothing but acknowledge: no data, no flag besides ACK.
    pub(super) acknowledges: bool,
    /// The whole IP packet.
    pub(super) packet: &'a [u8],
}

/// A UDP datagram.
pub(super) struct Datagram<'a> {
    pub(super) source: SocketAddrV4,
    pub(super) destination: SocketAddrV4,
    pub(super) payload: &'a [u8],
}

/// An ICMP echo request.
pub(super) struct Echo<'a> {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) ident: u16,
    pub(super) sequence: u16,
    pub(super) data: &'a [u8],
}

/// Part of an IP packet.
pub(super) struct Fragment<'a> {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: IpProtocol,
    pub(super) ident: u16,
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
        _ => return None,
    };
    Some((sender, packet))
}

fn parse_ipv4(bytes: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 || packet.header_len() < 20 || !packet.verify_checksum() {
        return None;
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let protocol = packet.next_header();
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Some(Packet::Fragment(Fragment {
            source,
            destination,
            protocol,
            ident: packet.ident(),
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

fn parse_tcp<'a>(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    packet: &'a [u8],
    segment: &[u8],
) -> Option<Segment<'a>> {
    let tcp = TcpPacket::new_checked(segment).ok()?;
    let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(destination));
    let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() && tcp.verify_checksum(&from, &to);
    let acknowledges = tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst() && tcp.payload().is_empty();
    if tcp.src_port() == 0 || tcp.dst_port() == 0 {
        return None;
    }
    Some(Segment {
        source: SocketAddrV4::new(source, tcp.src_port()),
        destination: SocketAddrV4::new(destination, tcp.dst_port()),
        opens,
        acknowledges,
        packet,
    })
}

/// Reads the payload of a whole IP packet that is UDP or an echo request.
pub(super) fn parse_datagram(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpProtocol,
    payload: &[u8],
) -> Option<Packet<'_>> {
    let checksums = ChecksumCapabilities::default();
    match protocol {
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(destination));
            let UdpRepr { src_port, dst_port } = UdpRepr::parse(&udp, &from, &to, &checksums).ok()?;
            Some(Packet::Udp(Datagram {
                source: SocketAddrV4::new(source, src_port),
                destination: SocketAddrV4::new(destination, dst_port),
                payload: udp.payload(),
            }))
        }
        IpProtocol::Icmp => match Icmpv4Repr::parse(&Icmpv4Packet::new_checked(payload).ok()?, &checksums) {
            Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => {
                Some(Packet::Echo(Echo { source, destination, ident, sequence: seq_no, data }))
            }
            _ => None,
        },
        _ => None,
    }
}
