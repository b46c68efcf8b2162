//! Machines on named networks: who hears whom.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rvisor_waist::NetBackend;
use smoltcp::wire::{EthernetAddress, EthernetProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr};

use crate::net::addresses::Addresses;
use crate::net::{Member, NetOptions, PrivateNetwork, UserNetwork};

/// A machine of which the test is the guest.
struct Machine {
    member: Arc<Member>,
    card: UserNetwork,
}

fn network(directory: &Path, name: &str, internal: bool) -> PrivateNetwork {
    let path = directory.join(name);
    std::fs::create_dir_all(&path).unwrap();
    let prefix = [10, 89, name.len() as u8];
    PrivateNetwork { name: name.into(), id: format!("{name}0id"), prefix, internal, path }
}

impl Machine {
    fn new(network: &PrivateNetwork, name: &str) -> Self {
        let member = Arc::new(Member::join(network, name).unwrap());
        let options = NetOptions { member: Some(Arc::clone(&member)), ..NetOptions::default() };
        let card = UserNetwork::new(&options, Arc::new(|| ())).unwrap();
        Self { member, card }
    }

    fn send(&mut self, frame: &[u8]) {
        self.card.send(frame);
    }

    /// The next frame, if one comes in time.
    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let (deadline, mut frame) = (Instant::now() + patience, Vec::new());
        while !self.card.receive(&mut frame) {
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Some(frame)
    }

    /// What the DNS server answers to a question for addresses of this kind.
    fn ask(&mut self, name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
        query.extend(name.bytes());
        query.extend([0, 0, kind, 0, 1]);
        let [a, b, c, _] = self.member.address().octets();
        let body = packet(self.member.address(), Ipv4Addr::new(a, b, c, 2), [5000, 53], &query);
        self.send(&frame(self.member.mac(), crate::net::HOST_MAC, EthernetProtocol::Ipv4, &body));
        loop {
            let answer = self.receive(LONG).expect("an answer");
            // Others' questions are heard, too.
            if answer[12..14] == u16::from(EthernetProtocol::Ipv4).to_be_bytes() {
                assert_eq!(answer[..6], EthernetAddress(self.member.mac()).0);
                return answer[42..].to_vec();
            }
        }
    }
}

/// Kinds of addresses.
const A: u8 = 1;
const AAAA: u8 = 28;

const LONG: Duration = Duration::from_secs(60);
/// What doesn't come within this after something that came isn't coming.
const SHORT: Duration = Duration::from_millis(100);

fn frame(from: [u8; 6], to: [u8; 6], kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &u16::from(kind).to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A packet of UDP between two addresses.
fn packet(from: Ipv4Addr, to: Ipv4Addr, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let mut udp =
        [ports[0].to_be_bytes(), ports[1].to_be_bytes(), (8 + data.len() as u16).to_be_bytes(), [0; 2]]
            .concat();
    udp.extend(data);
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: smoltcp::wire::IpProtocol::Udp,
        payload_len: udp.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; header.buffer_len() + udp.len()];
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &Default::default());
    bytes[header.buffer_len()..].copy_from_slice(&udp);
    bytes
}

fn ip(from: &Member, to: &Member, data: &[u8]) -> Vec<u8> {
    frame(from.mac(), to.mac(), EthernetProtocol::Ipv4, &packet(from.address(), to.address(), [7, 7], data))
}

fn addresses(member: &Member) -> (Ipv4Addr, Ipv6Addr) {
    crate::net::member::addresses(member.network.prefix, member.number)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ICMPv6 message of a member.
fn ipv6(by: &Member, from: Ipv6Addr, to: Ipv6Addr, mac: [u8; 6], message: &[u8]) -> Vec<u8> {
    ipv6_of(smoltcp::wire::IpProtocol::Icmpv6, by, [from, to], mac, message)
}

/// An IPv6 packet of a member with this header behind IPv6's own.
fn ipv6_of(
    next_header: smoltcp::wire::IpProtocol,
    by: &Member,
    [src_addr, dst_addr]: [Ipv6Addr; 2],
    mac: [u8; 6],
    message: &[u8],
) -> Vec<u8> {
    let header = Ipv6Repr { src_addr, dst_addr, next_header, payload_len: message.len(), hop_limit: 255 };
    let mut bytes = vec![0; header.buffer_len() + message.len()];
    header.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
    bytes[header.buffer_len()..].copy_from_slice(message);
    frame(by.mac(), mac, EthernetProtocol::Ipv6, &bytes)
}

#[test]
fn members_speak_ipv6_for_themselves_only() {
    let directory = tempfile::tempdir().unwrap();
    let lab = network(directory.path(), "lab", false);
    let (mut web, mut db) = (Machine::new(&lab, "web"), Machine::new(&lab, "db"));
    let third = Machine::new(&lab, "third");
    let (own, its, other) = (addresses(&web.member).1, addresses(&db.member).1, addresses(&third.member).1);
    let private: Ipv6Addr = "fd00:10:89:3:1234:5678:9abc:def0".parse().unwrap();
    let claim = |target: Ipv6Addr| [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets()].concat();
    let to = |from, message: &[u8]| ipv6(&web.member, from, its, db.member.mac(), message);
    let gateway = Addresses::shared(lab.prefix, 10).gateway6;
    let honest =
        [to(own, b"\x80data"), to(private, b"\x80data"), to(own, &claim(own)), to(own, &claim(private))];
    let lies = [
        to(other, b"\x80data"),
        to(gateway, b"\x80data"),
        to(own, &claim(other)),
        to(own, &claim(gateway)),
        to(own, &[&[134, 0, 0, 0][..], &[0; 12]].concat()),
        to(own, &[137, 0, 0, 0]),
    ];
    for frame in lies.iter().chain(&honest) {
        web.send(frame);
    }
    for frame in &honest {
        assert_eq!(&db.receive(LONG).unwrap(), frame);
    }
}

#[test]
fn members_of_a_network_hear_each_other_and_nobody_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let (lab, other) = (network(directory.path(), "lab", false), network(directory.path(), "other", false));
    let (mut web, mut db, mut third) =
        (Machine::new(&lab, "web"), Machine::new(&lab, "db"), Machine::new(&lab, "third"));
    let mut stranger = Machine::new(&other, "web");

    let to_db = ip(&web.member, &db.member, b"hello");
    web.send(&to_db);
    assert_eq!(db.receive(LONG).unwrap(), to_db);
    let to_all = ipv6(&web.member, addresses(&web.member).1, ALL_NODES, [0x33, 0x33, 0, 0, 0, 1], b"all");
    web.send(&to_all);
    assert_eq!((db.receive(LONG).unwrap(), third.receive(LONG).unwrap()), (to_all.clone(), to_all));
    // To a stranger's address, it isn't even sent.
    web.send(&ip(&web.member, &stranger.member, b"hello"));
    assert_eq!(stranger.receive(SHORT), None);
    assert_eq!((web.receive(SHORT), third.receive(SHORT)), (None, None));
}

#[test]
fn frames_with_anothers_address_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (lab, other) = (network(directory.path(), "lab", false), network(directory.path(), "other", false));
    let (mut web, mut db, third) =
        (Machine::new(&lab, "web"), Machine::new(&lab, "db"), Machine::new(&lab, "third"));
    // By the sender's process, and if that doesn't, by the receiver's.
    let as_third = ip(&third.member, &db.member, b"lie");
    web.send(&as_third);
    let with_wrong_ip = {
        let body = packet(third.member.address(), db.member.address(), [7, 7], b"lie");
        frame(web.member.mac(), db.member.mac(), EthernetProtocol::Ipv4, &body)
    };
    web.send(&with_wrong_ip);
    let truth = ip(&web.member, &db.member, b"truth");
    let datagram = |frame: &[u8]| [&(frame.len() as u16).to_le_bytes(), frame].concat();
    let place = web.member.socket_of(db.member.number);
    for sent in [&as_third, &truth] {
        web.member.socket.send_to(&datagram(sent), &place).unwrap();
    }
    assert_eq!(db.receive(LONG).unwrap(), truth);
    // A member of another network who knows where the socket is.
    let stranger = Member::join(&other, "web").unwrap();
    let there = lab.path.join(format!("{}-{}", lab.id, db.member.number));
    stranger.socket.send_to(&datagram(&truth), there).unwrap();
    let last = ip(&web.member, &db.member, b"last");
    web.send(&last);
    assert_eq!(db.receive(LONG).unwrap(), last);
}

#[test]
fn more_than_the_host_lets_wait_arrives_if_it_is_taken() {
    const COUNT: u32 = 2000;
    let directory = tempfile::tempdir().unwrap();
    let lab = network(directory.path(), "lab", false);
    let (mut web, mut db) = (Machine::new(&lab, "web"), Machine::new(&lab, "db"));
    // Less than may wait for a member, and far more datagrams than its socket takes.
    for number in 0..COUNT {
        let sent = ip(&web.member, &db.member, &[&number.to_le_bytes()[..], &[0; 800]].concat());
        web.send(&sent);
    }
    for number in 0..COUNT {
        let received = db.receive(LONG).expect("all of it");
        assert_eq!(received[42..46], number.to_le_bytes());
    }
}

#[test]
fn names_of_members_are_answered_and_on_an_internal_network_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let lab = network(directory.path(), "lab", true);
    let (mut web, db) = (Machine::new(&lab, "web"), Machine::new(&lab, "db"));
    let answer = web.ask("db", A);
    assert_eq!(answer[answer.len() - 4..], db.member.address().octets());
    assert_eq!(web.ask("example", A)[3] & 15, 3, "there is no such name");
}

#[test]
fn names_lead_to_ipv6_addresses_that_guests_have() {
    let directory = tempfile::tempdir().unwrap();
    let lab = network(directory.path(), "lab", true);
    let [mut web, mut db, mut third] = ["web", "db", "third"].map(|name| Machine::new(&lab, name));
    let ends_with = |answer: &[u8], address: Ipv6Addr| answer.ends_with(&address.octets());
    let wait = |web: &mut Machine, name, address| {
        let started = Instant::now();
        while !ends_with(&web.ask(name, AAAA), address) {
            assert!(started.elapsed() < LONG, "{name} has no IPv6 address");
            thread::sleep(Duration::from_millis(20));
        }
        started.elapsed()
    };
    let (own, its) = (addresses(&db.member).1, addresses(&third.member).1);
    assert!(!ends_with(&web.ask("db", AAAA), own));

    // It asks whether somebody has an address, first another one.
    let question = |target: Ipv6Addr| [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
    for target in [its, own] {
        let group = [0x33, 0x33, 0xff, 0, 0, 1];
        db.send(&ipv6(&db.member, Ipv6Addr::UNSPECIFIED, ALL_NODES, group, &question(target)));
    }
    assert!(wait(&mut web, "db", own) > Duration::from_millis(900));
    // It uses one.
    assert!(!ends_with(&web.ask("third", AAAA), its));
    third.send(&ipv6(&third.member, its, own, db.member.mac(), b"\x80data"));
    wait(&mut web, "third", its);

    // Its link goes down and up, and it tells its groups; then it asks again.
    let report = &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0];
    let (hop_by_hop, nobody) = (smoltcp::wire::IpProtocol::HopByHop, Ipv6Addr::UNSPECIFIED);
    db.send(&ipv6_of(hop_by_hop, &db.member, [nobody, ALL_NODES], [0x33, 0x33, 0, 0, 0, 0x16], report));
    let started = Instant::now();
    while web.ask("db", AAAA)[7] != 0 {
        assert!(started.elapsed() < LONG, "db still has an IPv6 address");
        thread::sleep(Duration::from_millis(20));
    }
    db.send(&ipv6(&db.member, Ipv6Addr::UNSPECIFIED, ALL_NODES, [0x33; 6], &question(own)));
    wait(&mut web, "db", own);

    // Another name leads there as well, a longer and a shorter one.
    for (old, new) in [("db", "a-longer-name"), ("a-longer-name", "d")] {
        crate::net::rename_member(&lab.path, old, new).unwrap();
        wait(&mut web, new, own);
        assert_eq!(web.ask(old, AAAA)[3] & 15, 3, "there is no such name");
    }
    // Whoever has the place next begins anew.
    drop(db);
    let next = Machine::new(&lab, "d");
    assert_eq!(addresses(&next.member).1, own);
    thread::sleep(Duration::from_millis(600));
    assert_eq!(web.ask("d", AAAA)[7], 0);
}
