//! As much of the Internet's protocols as it takes to ping and be pinged: ARP (RFC 826), IPv4 without options or fragments (RFC 791),
//! ICMP echo (RFC 792).

use crate::net::{Frame, MOST};

/// An address of IPv4.
pub type Address = [u8; 4];
/// A hardware address.
pub type Mac = [u8; 6];

const ETHERNET: usize = 14;
const IP: usize = 20;
const ICMP: usize = 8;
const ARP: usize = 28;
/// Bytes that an echo request carries.
const PAYLOAD: usize = 32;
const TYPE_IP: [u8; 2] = [8, 0];
const TYPE_ARP: [u8; 2] = [8, 6];
/// ARP for Ethernet and IPv4, up to the operation.
const ARP_START: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];
const BROADCAST: Mac = [0xff; 6];
/// Identifier of this host's echo requests.
const IDENTIFIER: [u8; 2] = [0x72, 0x76];

/// This host.
pub struct Host {
    /// Its hardware address.
    pub mac: Mac,
    /// Its address.
    pub address: Address,
}

/// What a frame means to this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// It wants the answer that was written: so many bytes.
    Answer(usize),
    /// A host told where it is.
    Place(Address, Mac),
    /// A host answered the echo request of this number.
    Echo(Address, u16),
}

impl Host {
    /// Takes a frame apart; an answer is written to `out`.
    pub fn take(&self, frame: &[u8], out: &mut Frame) -> Option<Meaning> {
        let (start, rest) = frame.split_at_checked(ETHERNET)?;
        match *start.last_chunk()? {
            TYPE_ARP => self.take_arp(rest, out),
            TYPE_IP => self.take_ip(frame, rest, out),
            _ => None,
        }
    }

    fn take_arp(&self, packet: &[u8], out: &mut Frame) -> Option<Meaning> {
        let packet = packet.get(..ARP)?;
        let (mac, address) = (*packet[8..].first_chunk()?, *packet[14..].first_chunk()?);
        if packet[..7] != ARP_START || packet[24..] != self.address {
            return None;
        }
        match packet[7] {
            1 => Some(Meaning::Answer(self.arp(2, mac, address, out))),
            2 => Some(Meaning::Place(address, mac)),
            _ => None,
        }
    }

    fn take_ip(&self, frame: &[u8], packet: &[u8], out: &mut Frame) -> Option<Meaning> {
        let length = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
        let packet = packet.get(..length).filter(|packet| packet.len() >= IP + ICMP)?;
        // No options, no fragment, ICMP, to this host, sums that are right.
        let is_whole = packet[0] == 0x45 && packet[6] & 0x3f == 0 && packet[7] == 0;
        let is_sound = checksum(&packet[..IP]) == 0 && checksum(&packet[IP..]) == 0;
        if !is_whole || packet[9] != 1 || packet[16..20] != self.address || !is_sound {
            return None;
        }
        let from = *packet[12..].first_chunk()?;
        match packet[IP] {
            8 => {
                let message = out.get_mut(..ETHERNET + length)?;
                message[ETHERNET + IP..].copy_from_slice(&packet[IP..]);
                message[ETHERNET + IP] = 0;
                Some(Meaning::Answer(self.ip(*frame[6..].first_chunk()?, from, length, out)))
            }
            0 if packet[IP + 4..][..2] == IDENTIFIER && packet[IP + ICMP..] == payload() => {
                Some(Meaning::Echo(from, u16::from_be_bytes(*packet[IP + 6..].first_chunk()?)))
            }
            _ => None,
        }
    }

    /// Asks where a host is.
    pub fn ask(&self, address: Address, out: &mut Frame) -> usize {
        self.arp(1, BROADCAST, address, out)
    }

    /// An echo request.
    pub fn ping(&self, mac: Mac, address: Address, number: u16, out: &mut Frame) -> usize {
        let message = &mut out[ETHERNET + IP..];
        message[..ICMP].fill(0);
        message[0] = 8;
        message[4..6].copy_from_slice(&IDENTIFIER);
        message[6..8].copy_from_slice(&number.to_be_bytes());
        message[ICMP..][..PAYLOAD].copy_from_slice(&payload());
        self.ip(mac, address, IP + ICMP + PAYLOAD, out)
    }

    fn ethernet(&self, to: Mac, kind: [u8; 2], out: &mut Frame) {
        out[..6].copy_from_slice(&to);
        out[6..12].copy_from_slice(&self.mac);
        out[12..14].copy_from_slice(&kind);
    }

    fn arp(&self, operation: u8, mac: Mac, address: Address, out: &mut Frame) -> usize {
        self.ethernet(mac, TYPE_ARP, out);
        let packet = &mut out[ETHERNET..][..ARP];
        packet[..7].copy_from_slice(&ARP_START);
        packet[7] = operation;
        packet[8..14].copy_from_slice(&self.mac);
        packet[14..18].copy_from_slice(&self.address);
        packet[18..24].copy_from_slice(if mac == BROADCAST { &[0; 6] } else { &mac });
        packet[24..].copy_from_slice(&address);
        ETHERNET + ARP
    }

    /// Puts what is before an ICMP message in front of it, and its sum into it: `length` bytes with the header of IP.
    fn ip(&self, mac: Mac, address: Address, length: usize, out: &mut Frame) -> usize {
        self.ethernet(mac, TYPE_IP, out);
        let packet = &mut out[ETHERNET..][..length];
        packet[..IP].fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        (packet[8], packet[9]) = (64, 1);
        packet[12..16].copy_from_slice(&self.address);
        packet[16..20].copy_from_slice(&address);
        let sum = checksum(&packet[..IP]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[IP + 2..][..2].fill(0);
        let sum = checksum(&packet[IP..]);
        packet[IP + 2..][..2].copy_from_slice(&sum.to_be_bytes());
        (ETHERNET + length).min(MOST)
    }
}

fn payload() -> [u8; PAYLOAD] {
    core::array::from_fn(|at| 0x40 + at as u8)
}

/// The Internet's checksum (RFC 1071): zero over what has a right one.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2);
    let words = pairs.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Reads `10.0.2.15`.
pub fn address(text: &str) -> Option<Address> {
    let mut address = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut address {
        *byte = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(address)
}
