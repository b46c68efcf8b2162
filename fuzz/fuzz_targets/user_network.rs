#![no_main]
//! The user-mode network: any frames, most of them right enough to get far. The network is one that reaches
//! nothing of the host.

use std::net::Ipv6Addr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_hosted::net::Isolated;

#[derive(Arbitrary, Debug)]
enum Frame {
    Raw(Vec<u8>),
    Arp { operation: u16, source: Address, target: Address },
    Ip { source: Address, destination: Address, fragment: u16, options: bool, payload: Payload },
    Ip6 { source: Address, destination: Address, hops: bool, fragment: Option<(u16, u32)>, payload: Payload },
}

#[derive(Arbitrary, Debug)]
enum Address {
    Guest,
    Gateway,
    DnsServer,
    Nobody,
    Broadcast,
    Other([u8; 4]),
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Raw { protocol: u8, bytes: Vec<u8> },
    Discovery { kind: u8, target: Address, options: Vec<u8> },
    Icmp { kind: u8, code: u8, rest: Vec<u8> },
    Udp { source: u16, destination: Port, data: Vec<u8> },
    Dhcp { kind: u8, flags: u16, client: Address, options: Vec<(u8, Vec<u8>)> },
    Tcp { source: u16, destination: Port, flags: u8, sequence: u32, data: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
enum Port {
    Dns,
    Dhcp,
    Other(u16),
}

impl Address {
    fn octets(&self) -> [u8; 4] {
        match self {
            Self::Guest => [10, 0, 2, 15],
            Self::Gateway => [10, 0, 2, 2],
            Self::DnsServer => [10, 0, 2, 3],
            Self::Nobody => [0; 4],
            Self::Broadcast => [255; 4],
            Self::Other(octets) => *octets,
        }
    }

    fn octets6(&self) -> [u8; 16] {
        let address: Ipv6Addr = match self {
            Self::Guest => "fd00:10:0:2::15".parse().unwrap(),
            Self::Gateway => "fd00:10:0:2::2".parse().unwrap(),
            Self::DnsServer => "fd00:10:0:2::3".parse().unwrap(),
            Self::Nobody => Ipv6Addr::UNSPECIFIED,
            Self::Broadcast => "ff02::1".parse().unwrap(),
            Self::Other([a, b, c, d]) => [*a, *b, *c, *d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into(),
        };
        address.octets()
    }
}

impl Port {
    fn bytes(&self) -> [u8; 2] {
        match self {
            Self::Dns => 53u16,
            Self::Dhcp => 67,
            Self::Other(port) => *port,
        }
        .to_be_bytes()
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Puts the checksum of a UDP or TCP payload right.
fn seal(bytes: &mut [u8], at: usize, protocol: u8, ends: &[u8]) {
    let length = (bytes.len() as u16).to_be_bytes();
    let sum = checksum(&[ends, &[0, protocol], &length, bytes]);
    bytes[at..at + 2].copy_from_slice(&sum);
}

fn udp(source: u16, destination: [u8; 2], data: &[u8], ends: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination);
    bytes.extend((data.len() as u16 + 8).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(data);
    seal(&mut bytes, 6, 17, ends);
    bytes
}

impl Payload {
    fn bytes(&self, ends: &[u8]) -> (u8, Vec<u8>) {
        match self {
            Self::Raw { protocol, bytes } => (*protocol, bytes.clone()),
            Self::Icmp { kind, code, rest } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                if ends.len() > 8 {
                    seal(&mut bytes, 2, 58, ends);
                    return (58, bytes);
                }
                let sum = checksum(&[&bytes]);
                bytes[2..4].copy_from_slice(&sum);
                (1, bytes)
            }
            Self::Discovery { kind, target, options } => {
                let mut bytes = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
                bytes.extend(target.octets6());
                bytes.extend(options);
                seal(&mut bytes, 2, 58, ends);
                (58, bytes)
            }
            Self::Udp { source, destination, data } => (17, udp(*source, destination.bytes(), data, ends)),
            Self::Dhcp { kind, flags, client, options } => {
                let mut message = vec![0; 236];
                message[..3].copy_from_slice(&[1, 1, 6]);
                message[10..12].copy_from_slice(&flags.to_be_bytes());
                message[12..16].copy_from_slice(&client.octets());
                message.extend([99, 130, 83, 99, 53, 1, *kind]);
                for (number, data) in options {
                    message.extend([*number, data.len() as u8]);
                    message.extend(data);
                }
                message.push(255);
                (17, udp(68, [0, 67], &message, ends))
            }
            Self::Tcp { source, destination, flags, sequence, data } => {
                let mut bytes = source.to_be_bytes().to_vec();
                bytes.extend(destination.bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend([0, 0, 0, 0, 0x50, *flags, 0x10, 0, 0, 0, 0, 0]);
                bytes.extend(data);
                seal(&mut bytes, 16, 6, ends);
                (6, bytes)
            }
        }
    }
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1];
        match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Arp { operation, source, target } => {
                frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
                frame.extend(operation.to_be_bytes());
                frame.extend([2, 0, 0, 0, 0, 1]);
                frame.extend(source.octets());
                frame.extend([0; 6]);
                frame.extend(target.octets());
            }
            Self::Ip { source, destination, fragment, options, payload } => {
                let ends = [source.octets(), destination.octets()].concat();
                let (protocol, payload) = payload.bytes(&ends);
                let words = if *options { 6 } else { 5 };
                let length = (words * 4 + payload.len()) as u16;
                let mut header = vec![0x40 | words as u8, 0];
                header.extend(length.to_be_bytes());
                header.extend([0, 7]);
                header.extend((fragment & 0x3fff).to_be_bytes());
                header.extend([64, protocol, 0, 0]);
                header.extend(ends);
                header.resize(words * 4, 1);
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum);
                frame.extend([8, 0]);
                frame.extend(header);
                frame.extend(payload);
            }
            Self::Ip6 { source, destination, hops, fragment, payload } => {
                let ends = [source.octets6(), destination.octets6()].concat();
                let (mut protocol, mut payload) = payload.bytes(&ends);
                if let Some((place, ident)) = fragment {
                    let header = [&[protocol, 0][..], &place.to_be_bytes(), &ident.to_be_bytes()].concat();
                    payload.splice(0..0, header);
                    protocol = 44;
                }
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([protocol, if *hops { 255 } else { 64 }]);
                frame.extend(ends);
                frame.extend(payload);
            }
        }
        frame
    }
}

fuzz_target!(|frames: Vec<Frame>| {
    let mut network = Isolated::new().expect("a network");
    for frame in frames {
        for answer in network.exchange(&frame.bytes()) {
            assert!((14..=1514).contains(&answer.len()));
        }
    }
    // Whatever there was, an ARP request is answered.
    let request = Frame::Arp { operation: 1, source: Address::Guest, target: Address::Gateway };
    assert_eq!(network.exchange(&request.bytes()).len(), 1);
});
