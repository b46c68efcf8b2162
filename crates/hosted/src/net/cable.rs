//! Frames between the members of a named network, as datagrams over their sockets.
//!
//! A datagram carries as many frames as are ready: each one's length (16 bits, little-endian) and its bytes. A host
//! lets few datagrams wait at a socket; what doesn't fit waits here for a moment, and is lost if the other machine
//! doesn't take it, as on a busy cable.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet,
};

use super::addresses::{Addresses, interface_identifier};
use super::member::{Listed, Member, addresses, mac};
use super::names;

/// Bytes of a datagram that is full.
const FULL: usize = 48 << 10;
/// Most bytes that wait for a member.
const WAITING: usize = 2 << 20;
/// How long they wait for one that takes nothing.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it takes to try again.
pub(super) const PAUSE: Duration = Duration::from_micros(500);
/// How long what was seen in the directory holds.
const FRESH: Duration = Duration::from_millis(500);
/// Datagrams taken before others get their turn.
const BURST: usize = 64;
/// Longest datagram: a full one, and a frame on top.
const LONGEST: usize = FULL + (64 << 10) + 2;

/// How long it takes until an address that a host has asked about is its own, if nobody objects (RFC 4862, 5.4; RFC 4861, 10),
/// and a little more.
const UNCONTESTED: Duration = Duration::from_millis(1100);

/// Types of ICMPv6 messages by which hosts learn where to send (RFC 4861, 4).
const NEIGHBOUR_SOLICITATION: u8 = 135;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// What waits for a member.
#[derive(Default)]
struct Outbox {
    datagrams: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Since when it takes nothing.
    stuck: Option<Instant>,
}

/// The machine's end of the network.
pub(super) struct Cable {
    member: Arc<Member>,
    outboxes: BTreeMap<u8, Outbox>,
    others: Seen<Vec<u8>>,
    names: Seen<Vec<Listed>>,
    own_address: OwnAddress,
    buffer: Vec<u8>,
    /// Whether more datagrams may wait.
    pub(super) is_due: bool,
}

/// Whether the guest has the IPv6 address that is made of its hardware address. It may have none, or make others; and a name
/// mustn't lead where nobody answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnAddress {
    Unknown,
    /// It has asked whether somebody else has it.
    Asked(Instant),
    Has,
}

/// Something looked up a moment ago.
struct Seen<T>(Option<(Instant, T)>);

impl<T> Seen<T> {
    fn get(&mut self, look: impl FnOnce() -> T) -> &T {
        let old = self.0.take().filter(|(at, _)| at.elapsed() < FRESH);
        &self.0.insert(old.unwrap_or_else(|| (Instant::now(), look()))).1
    }
}

impl Cable {
    pub(super) fn new(member: &Arc<Member>) -> Self {
        Self {
            member: Arc::clone(member),
            outboxes: BTreeMap::new(),
            others: Seen(None),
            names: Seen(None),
            own_address: OwnAddress::Unknown,
            buffer: vec![0; LONGEST],
            is_due: false,
        }
    }

    /// Whether something waits for a member.
    pub(super) fn has_backlog(&self) -> bool {
        !self.outboxes.is_empty()
    }

    /// The answer to a DNS query about members; `None` for one about others.
    pub(super) fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let Self { member, names, .. } = self;
        let prefix = member.network.prefix;
        names::answer(query, &member.network.name, |name| {
            let known = names.get(|| member.names());
            let found = known.iter().find(|it| it.name.eq_ignore_ascii_case(name))?;
            let (v4, v6) = addresses(prefix, found.number);
            Some((v4, found.has_ipv6.then_some(v6)))
        })
    }

    /// Learns from a frame of the guest's whether it has its IPv6 address.
    pub(super) fn learn(&mut self, frame: &[u8]) {
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return };
        if ethernet.ethertype() != EthernetProtocol::Ipv6 || ethernet.src_addr().0 != self.member.mac() {
            return;
        }
        let Ok(packet) = Ipv6Packet::new_checked(ethernet.payload()) else { return };
        let own = addresses(self.member.network.prefix, self.member.number).1;
        if packet.src_addr() == own && self.own_address != OwnAddress::Has {
            return self.knows_own_address(OwnAddress::Has);
        }
        if !packet.src_addr().is_unspecified() {
            return;
        }
        match (packet.next_header(), packet.payload()) {
            (IpProtocol::Icmpv6, [NEIGHBOUR_SOLICITATION, _, _, _, _, _, _, _, target @ ..])
                if target.first_chunk() == Some(&own.octets()) =>
            {
                self.knows_own_address(OwnAddress::Asked(Instant::now()));
            }
            // It reports its groups, and hasn't even a link-local address to do so (RFC 3590, 4): its link has just come up.
            (IpProtocol::HopByHop, _) => self.knows_own_address(OwnAddress::Unknown),
            _ => {}
        }
    }

    /// How long until nobody has objected to the guest's address.
    pub(super) fn uncontested_in(&self) -> Option<Duration> {
        match self.own_address {
            OwnAddress::Asked(since) => Some(UNCONTESTED.saturating_sub(since.elapsed())),
            _ => None,
        }
    }

    /// To be called when that is over.
    pub(super) fn tick(&mut self) {
        if self.uncontested_in() == Some(Duration::ZERO) {
            self.knows_own_address(OwnAddress::Has);
        }
    }

    fn knows_own_address(&mut self, state: OwnAddress) {
        let has = |state| state == OwnAddress::Has;
        if has(state) != has(self.own_address) {
            // On a full disk the name leads to the IPv4 address only, as before.
            let _ = self.member.announce_ipv6(has(state));
        }
        self.own_address = state;
    }

    /// Takes a frame from the guest, which goes out with [`flush`](Self::flush). One that has another's address is
    /// dropped.
    pub(super) fn send(&mut self, frame: &[u8]) {
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return };
        if ethernet.src_addr().0 != self.member.mac() {
            return;
        }
        let to = ethernet.dst_addr();
        let [x, y, a, b, c, number] = to.0;
        if !to.is_unicast() {
            let Self { member, others, .. } = self;
            for number in others.get(|| member.others()).clone() {
                self.put(number, frame);
            }
        } else if mac([a, b, c], number)[..2] == [x, y] && [a, b, c] == self.member.network.prefix {
            self.put(number, frame);
        }
    }

    fn put(&mut self, number: u8, frame: &[u8]) {
        let Ok(length) = u16::try_from(frame.len()) else { return };
        let outbox = self.outboxes.entry(number).or_default();
        if outbox.bytes + frame.len() > WAITING {
            return;
        }
        outbox.bytes += frame.len() + 2;
        let is_full = |last: &Vec<u8>| last.len() + frame.len() + 2 > FULL;
        if outbox.datagrams.back().is_none_or(is_full) {
            outbox.datagrams.push_back(Vec::new());
        }
        if let Some(last) = outbox.datagrams.back_mut() {
            last.extend(length.to_le_bytes());
            last.extend(frame);
        }
    }

    /// Sends what members take.
    pub(super) fn flush(&mut self) {
        let member = &self.member;
        self.outboxes.retain(|number, outbox| {
            let path = member.socket_of(*number);
            while let Some(datagram) = outbox.datagrams.front() {
                match member.socket.send_to(datagram, &path) {
                    Ok(_) => {
                        outbox.bytes -= datagram.len();
                        outbox.stuck = None;
                        outbox.datagrams.pop_front();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let since = *outbox.stuck.get_or_insert_with(Instant::now);
                        return since.elapsed() < PATIENCE;
                    }
                    // Nobody is there.
                    Err(_) => return false,
                }
            }
            false
        });
    }

    /// Takes what has come, and gives each frame that is the guest's to `deliver`.
    pub(super) fn receive(&mut self, mut deliver: impl FnMut(&[u8])) {
        self.is_due = false;
        for _ in 0..BURST {
            let (length, sender) = match self.member.socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let Some(number) = sender.as_pathname().and_then(|path| self.member.number_of(path)) else {
                continue;
            };
            let own = self.member.mac();
            frames(&self.buffer[..length], |frame| {
                if is_from(frame, self.member.network.prefix, number) && is_for(frame, own) {
                    deliver(frame);
                }
            });
        }
        self.is_due = true;
    }
}

/// What a member of 10.89.0.0/24 with number 11 makes of a datagram that number 10 sent, for fuzzing: how many frames.
#[doc(hidden)]
pub fn take_datagram(datagram: &[u8]) -> usize {
    let (prefix, mut taken) = ([10, 89, 0], 0);
    frames(datagram, |frame| {
        taken += usize::from(is_from(frame, prefix, 10) && is_for(frame, mac(prefix, 11)));
    });
    taken
}

/// Cuts a datagram into frames; what is left over is nothing.
pub(super) fn frames(mut datagram: &[u8], mut take: impl FnMut(&[u8])) {
    while let Some((length, rest)) = datagram.split_first_chunk() {
        let Some((frame, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else {
            return;
        };
        take(frame);
        datagram = rest;
    }
}

/// Whether a frame carries the addresses of the member that sent it.
fn is_from(frame: &[u8], prefix: [u8; 3], number: u8) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    let [a, b, c] = prefix;
    let address = std::net::Ipv4Addr::new(a, b, c, number);
    let is_own = match ethernet.ethertype() {
        EthernetProtocol::Arp => {
            let arp = ArpPacket::new_checked(ethernet.payload()).and_then(|packet| ArpRepr::parse(&packet));
            // Without an address of its own yet, it asks whether somebody has the one that it wants (RFC 5227).
            matches!(arp, Ok(ArpRepr::EthernetIpv4 { source_protocol_addr, source_hardware_addr, .. })
                if source_hardware_addr.0 == mac(prefix, number)
                    && (source_protocol_addr == address || source_protocol_addr.is_unspecified()))
        }
        EthernetProtocol::Ipv4 => {
            Ipv4Packet::new_checked(ethernet.payload()).is_ok_and(|packet| packet.src_addr() == address)
        }
        EthernetProtocol::Ipv6 => speaks_for_itself(ethernet.payload(), prefix, number),
        _ => false,
    };
    is_own && ethernet.src_addr().0 == mac(prefix, number)
}

/// Whether an IPv6 packet of a member says nothing in another's name, or the gateway's. It may have any address besides.
fn speaks_for_itself(packet: &[u8], prefix: [u8; 3], number: u8) -> bool {
    let Ok(packet) = Ipv6Packet::new_checked(packet) else { return false };
    let own = Addresses::shared(prefix, number);
    let is_free = |address: Ipv6Addr| {
        let [.., a, b, c, d, e, f, g, h] = address.octets();
        let identifier = [a, b, c, d, e, f, g, h];
        let is_members =
            identifier[..6] == interface_identifier(mac(prefix, number))[..6] && identifier[6] == prefix[2];
        let is_own = identifier == interface_identifier(mac(prefix, number));
        own.host(address.into()).is_none() && (is_own || !is_members)
    };
    // Who leads out is the gateway's to say, which never sends anything this way; and who has an address, its owner's.
    let says = match (packet.next_header(), packet.payload()) {
        (IpProtocol::Icmpv6, [ROUTER_ADVERTISEMENT | REDIRECT, ..]) => false,
        (IpProtocol::Icmpv6, [NEIGHBOUR_ADVERTISEMENT, _, _, _, _, _, _, _, target @ ..]) => {
            target.first_chunk().is_some_and(|target| is_free(Ipv6Addr::from_octets(*target)))
        }
        // What is behind other headers isn't looked for.
        (IpProtocol::Tcp | IpProtocol::Udp | IpProtocol::Icmpv6 | IpProtocol::HopByHop, _) => true,
        (IpProtocol::Ipv6Frag, [protocol, ..]) => IpProtocol::from(*protocol) != IpProtocol::Icmpv6,
        _ => false,
    };
    says && is_free(packet.src_addr())
}

/// Whether a frame is for this hardware address, or for all.
fn is_for(frame: &[u8], own: [u8; 6]) -> bool {
    let to = EthernetFrame::new_unchecked(frame).dst_addr();
    to.0 == own || !to.is_unicast()
}
