//! IPv6: what a guest is told, and that all that works with IPv4 works with it. The host has ::1 at least.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp;
use smoltcp::wire::{
    Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscPrefixInformation, NdiscRepr,
    RawHardwareAddress,
};

use super::guest::Guest;
use super::hostile::{exchange, frames, solicitation};
use super::{GATEWAY6, GUEST6, forward, pattern};
use crate::net::addresses::{Addresses, GATEWAY_LINK_LOCAL};
use crate::net::engine::Isolated;
use crate::net::fragment::Reassembly;
use crate::net::wire::{self, Packet};
use crate::net::{Forward, HOST_MAC, NetOptions, Protocol};

const DNS_SERVER6: Ipv6Addr = Addresses::USER.dns6;
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

fn guest(options: &NetOptions) -> Guest {
    let mut guest = Guest::new(options);
    guest.set_address6(GUEST6);
    guest
}

/// The ICMPv6 message in a frame, its sender, and the hop limit.
fn message(frame: &[u8]) -> (Ipv6Repr, Vec<u8>) {
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    let header = Ipv6Repr::parse(&packet).unwrap();
    assert_eq!(header.next_header, IpProtocol::Icmpv6);
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    assert!(message.verify_checksum(&header.src_addr, &header.dst_addr));
    (header, packet.payload().to_vec())
}

#[test]
fn router_tells_prefix_mtu_and_dns_server_and_that_nothing_leads_out_of_a_restricted_network() {
    let solicit = [133, 0, 0, 0, 0, 0, 0, 0];
    let asked = frames(1500, |out| out.send_discovery(LINK_LOCAL, ALL_ROUTERS, &mut solicit.clone()));
    let answers = exchange(&mut Isolated::new().unwrap(), &asked);
    let (header, bytes) = message(&answers[0]);
    assert_eq!((header.src_addr, header.hop_limit), (GATEWAY_LINK_LOCAL, 255));
    assert_eq!(answers[0][..6], [0x33, 0x33, 0, 0, 0, 1]);
    let packet = Icmpv6Packet::new_checked(&bytes[..]).unwrap();
    let Ok(Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { router_lifetime, lladdr, mtu, prefix_info, .. })) =
        Icmpv6Repr::parse(&header.src_addr, &header.dst_addr, &packet, &ChecksumCapabilities::default())
    else {
        panic!("no advertisement");
    };
    assert_eq!((router_lifetime.secs(), mtu), (0, Some(1500)));
    assert_eq!(lladdr, Some(RawHardwareAddress::from_bytes(&HOST_MAC)));
    let Some(NdiscPrefixInformation { prefix, prefix_len, .. }) = prefix_info else { panic!("no prefix") };
    assert_eq!((prefix, prefix_len), ("fd00:10:0:2::".parse().unwrap(), 64));
    // With a network that leads somewhere there is a DNS server as well.
    let mut guest = Guest::new(&NetOptions::default());
    let frame = &asked[0];
    let mut answer = Vec::new();
    rvisor_waist::NetBackend::send(&mut guest.card.network, frame);
    let deadline = Instant::now() + Duration::from_secs(100);
    while !rvisor_waist::NetBackend::receive(&mut guest.card.network, &mut answer) {
        assert!(Instant::now() < deadline);
    }
    let (_, bytes) = message(&answer);
    assert_eq!(bytes[bytes.len() - 24..][..2], [25, 3]);
    assert_eq!(bytes[bytes.len() - 16..], DNS_SERVER6.octets());
}

#[test]
fn gateway_and_dns_server_answer_for_their_addresses_and_nobody_else_does() {
    let mut network = Isolated::new().unwrap();
    let mut ask = |from: Ipv6Addr, target| {
        exchange(
            &mut network,
            &frames(1500, |out| out.send_discovery(from, target, &mut solicitation(target))),
        )
    };
    for (target, is_router) in [(GATEWAY6, true), (DNS_SERVER6, false), (GATEWAY_LINK_LOCAL, true)] {
        let answers = ask(GUEST6, target);
        let (header, bytes) = message(&answers[0]);
        assert_eq!((header.dst_addr, header.hop_limit, bytes[0]), (GUEST6, 255, 136));
        assert_eq!((bytes[4] & 0x80 != 0, bytes[4] & 0x40 != 0), (is_router, true));
        assert_eq!((&bytes[8..24], &bytes[26..32]), (&target.octets()[..], &HOST_MAC[..]));
    }
    // A guest that looks whether its address is taken must not hear that it is.
    assert!(ask(Ipv6Addr::UNSPECIFIED, GUEST6).is_empty());
    // But that the gateway's is.
    let (header, bytes) = message(&ask(Ipv6Addr::UNSPECIFIED, GATEWAY6)[0]);
    assert_eq!((header.dst_addr.is_multicast(), bytes[4] & 0x40), (true, 0));
}

#[test]
fn gateway_answers_pings_large_ones_too() {
    let mut network = Isolated::new().unwrap();
    for (to, length) in
        [(GATEWAY6, 0), (GATEWAY_LINK_LOCAL, 56), (GATEWAY6, 1452), (GATEWAY6, 1453), (GATEWAY6, 60_000)]
    {
        let data = pattern(length);
        let request = Icmpv6Repr::EchoRequest { ident: 3, seq_no: 4, data: &data };
        let sent = frames(1500, |out| out.send_icmp6(GUEST6, to, &request));
        let (mut reassembly, mut payload) = (Reassembly::default(), None);
        for answer in exchange(&mut network, &sent) {
            assert!(answer.len() <= 1514);
            payload = match wire::parse(&answer) {
                Some((_, Packet::Fragment(part))) => {
                    reassembly.add(&part, Instant::now()).map(|whole| whole.payload)
                }
                _ => Some(Ipv6Packet::new_checked(&answer[14..]).unwrap().payload().to_vec()),
            };
        }
        let payload = payload.expect("no whole answer");
        let packet = Icmpv6Packet::new_checked(&payload[..]).unwrap();
        let reply = Icmpv6Repr::parse(&to, &GUEST6, &packet, &ChecksumCapabilities::default()).unwrap();
        assert_eq!(reply, Icmpv6Repr::EchoReply { ident: 3, seq_no: 4, data: &data });
    }
}

#[test]
fn tcp_reaches_the_hosts_loopback_and_comes_back_unharmed() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let data = pattern(2 << 20);
    let sent = data.clone();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 7];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&sent).unwrap();
        request
    });
    let mut guest = guest(&NetOptions::default());
    let handle = guest.connected(GATEWAY6, port);
    guest.write(handle, b"request");
    assert!(guest.read(handle, data.len() + 1) == data);
    assert_eq!(&server.join().unwrap(), b"request");
}

#[test]
fn refused_connection_is_refused_to_the_guest() {
    let port = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let mut guest = guest(&NetOptions::default());
    let handle = guest.connect(GATEWAY6, port);
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
}

#[test]
fn udp_goes_out_and_answers_come_back() {
    let server = UdpSocket::bind("[::1]:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = guest(&NetOptions::default());
    let handle = guest.udp(5000);
    guest.send_to(handle, b"ping", GATEWAY6, port);
    let echoing = thread::spawn(move || {
        let mut data = [0; 16];
        let (length, from) = server.recv_from(&mut data).unwrap();
        server.send_to(&data[..length], from).unwrap();
    });
    assert_eq!(guest.receive_from(handle), (b"ping".to_vec(), IpAddress::Ipv6(GATEWAY6), port));
    echoing.join().unwrap();
}

#[test]
fn dns_query_reaches_a_resolver() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolvers = vec![server.local_addr().unwrap()];
    let mut guest = guest(&NetOptions { resolvers, ..NetOptions::default() });
    let handle = guest.udp(5000);
    guest.send_to(handle, b"query", DNS_SERVER6, 53);
    server.set_nonblocking(true).unwrap();
    let (_, from) = guest.until(|_| server.recv_from(&mut [0; 16]).ok());
    server.send_to(b"answer", from).unwrap();
    assert_eq!(guest.receive_from(handle), (b"answer".to_vec(), IpAddress::Ipv6(DNS_SERVER6), 53));
}

#[test]
fn forwarded_port_of_an_ipv6_address_leads_to_the_guest() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (Forward { guest: port, .. }, host) = forward(protocol, 80);
        let host: SocketAddr = (Ipv6Addr::LOCALHOST, host.port()).into();
        let forwards = vec![Forward { protocol, host, guest: port }];
        let mut guest = Guest::new(&NetOptions { forwards, ..NetOptions::default() });
        if protocol == Protocol::Udp {
            let handle = guest.udp(80);
            let client = UdpSocket::bind("[::1]:0").unwrap();
            client.send_to(b"hello", host).unwrap();
            let (data, from, port) = guest.receive_from(handle);
            assert_eq!(data, b"hello");
            guest
                .sockets
                .get_mut::<smoltcp::socket::udp::Socket<'_>>(handle)
                .send_slice(b"back", (from, port))
                .unwrap();
            client.set_nonblocking(true).unwrap();
            assert_eq!(guest.until(|_| client.recv(&mut [0; 8]).ok()), 4);
            continue;
        }
        let handle = guest.listen(80);
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(host).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = [0; 7];
            stream.read_exact(&mut answer).unwrap();
            answer
        });
        guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
        assert_eq!(guest.read(handle, 5), b"hello");
        guest.write(handle, b"welcome");
        guest.until(|_| client.is_finished().then_some(()));
        assert_eq!(&client.join().unwrap(), b"welcome");
    }
}

#[test]
fn hosts_loopback_cannot_be_reached_by_its_other_names() {
    let mut guest = guest(&NetOptions::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for address in ["::ffff:127.0.0.1", "::127.0.0.1"] {
        guest.connect(address.parse::<Ipv6Addr>().unwrap(), port);
    }
    let waited = Instant::now();
    guest.until(|_| (waited.elapsed() > Duration::from_millis(200)).then_some(()));
    assert!(listener.accept().is_err());
}
