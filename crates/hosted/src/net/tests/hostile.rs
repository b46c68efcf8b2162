//! Frames by hand: what the guest's own stack would never send.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, Icmpv4Packet, Icmpv4Repr, IpAddress,
    IpProtocol, Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::{DNS_SERVER, GATEWAY, GATEWAY6, GUEST, GUEST6};
use super::{Guest, pattern, udp_socket};
use crate::net::NetOptions;
use crate::net::addresses::Addresses;
use crate::net::engine::Isolated;
use crate::net::fragment::Reassembly;
use crate::net::link::{Link, Outgoing};
use crate::net::wire::{self, Packet};
use rvisor_waist::NetBackend;

/// Frames as a guest makes them.
pub(super) fn frames(mtu: u16, make: impl FnOnce(&mut Outgoing)) -> Vec<Vec<u8>> {
    let mut link = Link::new(mtu, Addresses::USER);
    make(&mut link.out);
    link.out.frames
}

fn echo_request(data: &[u8]) -> Vec<Vec<u8>> {
    let message = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data };
    frames(1500, |out| out.send_icmp(GUEST, GATEWAY, &message))
}

fn syn(to: Ipv4Addr) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: 1000,
        dst_port: 80,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(7),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(
        &mut TcpPacket::new_unchecked(&mut bytes[..]),
        &IpAddress::Ipv4(GUEST),
        &IpAddress::Ipv4(to),
        &ChecksumCapabilities::default(),
    );
    // The frame of a UDP datagram of the same length, with another content and protocol.
    let (from, to) = (SocketAddr::from((GUEST, 1)), SocketAddr::from((to, 2)));
    let mut frame = frames(1500, |out| out.send_udp(from, to, &bytes[8..])).remove(0);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.set_next_header(IpProtocol::Tcp);
    packet.fill_checksum();
    packet.payload_mut().copy_from_slice(&bytes);
    frame
}

fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        source_protocol_addr: GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    frames(1500, |out| out.send_arp(EthernetAddress::BROADCAST, &request)).remove(0)
}

/// A neighbour solicitation.
pub(super) fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1, 2, 0, 0, 0, 0, 1]].concat()
}

pub(super) fn exchange(network: &mut Isolated, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().flat_map(|frame| network.exchange(frame)).collect()
}

#[test]
fn gateway_and_dns_server_answer_arp_and_nobody_else_does() {
    let mut network = Isolated::new().unwrap();
    for target in [GATEWAY, DNS_SERVER] {
        let answers = network.exchange(&arp_request(target));
        let arp = ArpPacket::new_checked(&answers[0][14..]).unwrap();
        assert_eq!(arp.source_protocol_addr(), target.octets());
    }
    // A guest that looks whether its address is taken must not hear that it is.
    assert!(network.exchange(&arp_request(GUEST)).is_empty());
    assert!(network.exchange(&arp_request(Ipv4Addr::new(10, 0, 2, 4))).is_empty());
}

#[test]
fn gateway_answers_pings_large_ones_too() {
    let mut network = Isolated::new().unwrap();
    for length in [0, 56, 1472, 1473, 5000, 65_000] {
        let data = pattern(length);
        let answers = exchange(&mut network, &echo_request(&data));
        let mut reassembly = Reassembly::default();
        let mut payload = None;
        for answer in &answers {
            assert!(answer.len() <= 1514);
            payload = match wire::parse(answer) {
                Some((_, Packet::Fragment(part))) => {
                    reassembly.add(&part, std::time::Instant::now()).map(|whole| whole.payload)
                }
                _ => Some(Ipv4Packet::new_checked(&answer[14..]).unwrap().payload().to_vec()),
            };
        }
        let payload = payload.expect("no whole answer");
        let packet = Icmpv4Packet::new_checked(&payload[..]).unwrap();
        let reply = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
        assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 3, seq_no: 4, data: &data });
    }
}

#[test]
fn connection_from_a_restricted_guest_is_reported_prohibited() {
    let answers = Isolated::new().unwrap().exchange(&syn(GATEWAY));
    let packet = Ipv4Packet::new_checked(&answers[0][14..]).unwrap();
    assert_eq!((packet.next_header(), packet.dst_addr()), (IpProtocol::Icmp, GUEST));
}

#[test]
fn closed_udp_port_is_reported_unreachable() {
    let port = udp_socket().1.port();
    let mut guest = Guest::new(&NetOptions::default());
    let (from, to) = (SocketAddr::from((GUEST, 7)), SocketAddr::from((GATEWAY, port)));
    let frame = frames(1500, |out| out.send_udp(from, to, b"x")).remove(0);
    guest.card.network.send(&frame);
    let start = std::time::Instant::now();
    let mut answer = Vec::new();
    while !guest.card.network.receive(&mut answer) {
        assert!(start.elapsed().as_secs() < 100);
    }
    let packet = Ipv4Packet::new_checked(&answer[14..]).unwrap();
    assert_eq!(packet.next_header(), IpProtocol::Icmp);
    // Type 3, code 3: destination unreachable, port.
    assert_eq!(packet.payload()[..2], [3, 3]);
}

#[test]
fn frames_from_addresses_not_the_guests_are_ignored() {
    let mut network = Isolated::new().unwrap();
    let message = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data: b"x" };
    for source in [[10, 0, 2, 2], [10, 0, 2, 255], [8, 8, 8, 8], [127, 0, 0, 1], [224, 0, 0, 1]] {
        let frames = frames(1500, |out| out.send_icmp(source.into(), GATEWAY, &message));
        assert!(exchange(&mut network, &frames).is_empty(), "{source:?}");
    }
    let mut frame = echo_request(b"x").remove(0);
    EthernetFrame::new_unchecked(&mut frame[..]).set_src_addr(EthernetAddress::BROADCAST);
    assert!(network.exchange(&frame).is_empty());
}

#[test]
fn truncated_and_corrupted_frames_do_no_harm() {
    let mut network = Isolated::new().unwrap();
    let mut samples = echo_request(&pattern(3000));
    samples.extend(echo_request(b"x"));
    samples.extend([syn(GATEWAY), syn(Ipv4Addr::new(10, 0, 2, 77)), arp_request(GATEWAY)]);
    let dhcp = (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)), SocketAddr::from((Ipv4Addr::BROADCAST, 67)));
    samples.extend(frames(1500, |out| out.send_udp(dhcp.0, dhcp.1, &pattern(300))));
    let (from, to) = (SocketAddr::from((GUEST6, 7)), SocketAddr::from((GATEWAY6, 53)));
    samples.extend(frames(1500, |out| out.send_udp(from, to, &pattern(2000))));
    samples.extend(frames(1500, |out| out.send_discovery(GUEST6, GATEWAY6, &mut solicitation(GATEWAY6))));
    for sample in &samples {
        for length in 0..sample.len().min(120) {
            network.exchange(&sample[..length]);
        }
        let mut random = 1u64;
        for _ in 0..20_000 {
            let mut frame = sample.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let place = (random >> 40) as usize % frame.len().min(80);
                frame[place] = (random >> 32) as u8;
            }
            // Half of them with the IP header's checksum put right, so that they get further.
            if random & 1 << 20 != 0 && frame.len() > 34 {
                let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
                if packet.check_len().is_ok() {
                    packet.fill_checksum();
                }
            }
            network.exchange(&frame);
        }
    }
    // It still works.
    assert_eq!(exchange(&mut network, &echo_request(b"x")).len(), 1);
}

#[test]
fn flood_without_reading_is_bounded() {
    let mut guest = Guest::new(&NetOptions::default());
    let ping = echo_request(&pattern(1400)).remove(0);
    for _ in 0..20_000 {
        guest.card.network.send(&ping);
    }
    let mut bytes = 0;
    let mut answer = Vec::new();
    while guest.card.network.receive(&mut answer) {
        bytes += answer.len();
    }
    assert!(bytes <= 9 << 20);
}

#[test]
fn datagram_from_a_restricted_guest_is_reported_unless_for_a_group() {
    let mut network = Isolated::new().unwrap();
    let mut answers = |to: [u8; 4]| {
        let (from, to) = (SocketAddr::from((GUEST, 7)), SocketAddr::from((to, 7)));
        exchange(&mut network, &frames(1500, |out| out.send_udp(from, to, b"x"))).len()
    };
    assert_eq!((answers([10, 0, 2, 2]), answers([8, 8, 8, 8])), (1, 1));
    assert_eq!((answers([224, 0, 0, 251]), answers([10, 0, 2, 255])), (0, 0));
}
