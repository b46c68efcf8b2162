//! The whole network, driven by a guest on one side and ordinary sockets of loopback on the other.

mod guest;
mod hostile;
mod ipv6;
mod private;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::wire::IpAddress;

use self::guest::Guest;
use super::addresses::Addresses;
use super::*;

pub(super) const GATEWAY: Ipv4Addr = Addresses::USER.gateway;
pub(super) const DNS_SERVER: Ipv4Addr = Addresses::USER.dns;
pub(super) const GUEST: Ipv4Addr = Addresses::USER.guest;
pub(super) const GATEWAY6: Ipv6Addr = Addresses::USER.gateway6;
pub(super) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 2, 0, 0, 0, 0x15);

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn udp_socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A port that nobody listens on, most likely.
fn free_port() -> u16 {
    listener().1
}

fn forward(protocol: Protocol, guest: u16) -> (Forward, SocketAddr) {
    let port = match protocol {
        Protocol::Tcp => free_port(),
        Protocol::Udp => udp_socket().1.port(),
    };
    let host = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    (Forward { protocol, host, guest }, host)
}

/// Bytes that differ at every place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn dhcp_leases_address_router_and_dns() {
    let options = NetOptions { hostname: Some("debian".into()), ..NetOptions::default() };
    let mut guest = Guest::without_address(&options);
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let (address, router, dns) =
        guest.until(|guest| match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(lease)) => {
                Some((lease.address, lease.router, lease.dns_servers.to_vec()))
            }
            _ => None,
        });
    assert_eq!((address.address(), address.prefix_len()), (GUEST, 24));
    assert_eq!((router, dns), (Some(GATEWAY), vec![DNS_SERVER]));
}

#[test]
fn dns_query_reaches_a_resolver_and_a_repeated_one_the_next() {
    let ((silent, first), (server, second)) = (udp_socket(), udp_socket());
    let options = NetOptions { resolvers: vec![first, second], ..NetOptions::default() };
    let mut guest = Guest::new(&options);
    let handle = guest.udp(5000);
    guest.send_to(handle, b"query", DNS_SERVER, 53);
    silent.set_nonblocking(true).unwrap();
    guest.until(|_| silent.recv(&mut [0; 16]).ok());
    guest.send_to(handle, b"query", DNS_SERVER, 53);
    let answering = thread::spawn(move || {
        let mut query = [0; 16];
        let (length, from) = server.recv_from(&mut query).unwrap();
        assert_eq!(&query[..length], b"query");
        server.send_to(b"answer", from).unwrap();
    });
    assert_eq!(guest.receive_from(handle), (b"answer".to_vec(), IpAddress::Ipv4(DNS_SERVER), 53));
    answering.join().unwrap();
}

#[test]
fn dns_over_tcp_reaches_the_resolver() {
    let (listener, port) = listener();
    let resolvers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    let mut guest = Guest::new(&NetOptions { resolvers, ..NetOptions::default() });
    let handle = guest.connected(DNS_SERVER, 53);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.read(handle, 6), b"answer");
}

#[test]
fn tcp_transfers_much_in_both_directions_unharmed() {
    for mtu in [1500, 65_521] {
        let (listener, port) = listener();
        let data = pattern(16 << 20);
        let expected = data.clone();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let sent = expected.clone();
            let writing = thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert!(received == expected);
            writing.join().unwrap();
        });
        let mut guest = Guest::new(&NetOptions { mtu, ..NetOptions::default() });
        let handle = guest.connected(GATEWAY, port);
        let (mut sent, mut received) = (0, Vec::new());
        guest.until(|guest| {
            let socket = guest.tcp(handle);
            if sent < data.len() && socket.can_send() {
                sent += socket.send_slice(&data[sent..]).unwrap();
                if sent == data.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket.recv(|part| (part.len(), received.extend_from_slice(part))).unwrap();
            }
            // Closed from both sides, and all that was sent has arrived.
            matches!(socket.state(), tcp::State::TimeWait | tcp::State::Closed).then_some(())
        });
        assert!(received == data);
        server.join().unwrap();
    }
}

#[test]
fn many_connections_at_once_each_get_their_own_data() {
    const COUNT: usize = 200;
    let (listener, port) = listener();
    let server = thread::spawn(move || {
        for _ in 0..COUNT {
            let (mut stream, _) = listener.accept().unwrap();
            thread::spawn(move || {
                let mut data = [0; 8];
                stream.read_exact(&mut data).unwrap();
                stream.write_all(&data).unwrap();
            });
        }
    });
    let mut guest = Guest::new(&NetOptions::default());
    let handles: Vec<_> = (0..COUNT).map(|_| guest.connect(GATEWAY, port)).collect();
    for (number, &handle) in handles.iter().enumerate() {
        guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
        guest.write(handle, &number.to_le_bytes());
    }
    for (number, &handle) in handles.iter().enumerate() {
        assert_eq!(guest.read(handle, 9), number.to_le_bytes());
    }
    server.join().unwrap();
}

#[test]
fn connections_that_ended_leave_room_for_others() {
    const COUNT: usize = 600;
    let (listener, port) = listener();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || stream.unwrap().read_exact(&mut [0]));
        }
    });
    let mut guest = Guest::new(&NetOptions::default());
    for _ in 0..COUNT {
        let handle = guest.connect(GATEWAY, port);
        guest.until(|guest| {
            let socket = guest.tcp(handle);
            assert_ne!(socket.state(), tcp::State::Closed, "refused");
            socket.may_send().then_some(())
        });
        guest.write(handle, b"x");
        assert_eq!(guest.read(handle, 1), b"");
        guest.tcp(handle).close();
        guest.until(|guest| (guest.tcp(handle).state() != tcp::State::CloseWait).then_some(()));
        guest.sockets.remove(handle);
    }
}

#[test]
fn connection_over_the_limit_waits_until_another_ends() {
    let (listener, port) = listener();
    let mut guest = Guest::new(&NetOptions::default());
    let open: Vec<_> =
        (0..512).map(|_| (guest.connected(GATEWAY, port), listener.accept().unwrap().0)).collect();
    let waiting = guest.connect(GATEWAY, port);
    let waited = std::time::Instant::now();
    guest.until(|_| (waited.elapsed() > Duration::from_millis(200)).then_some(()));
    assert_eq!(guest.tcp(waiting).state(), tcp::State::SynSent);
    guest.tcp(open[0].0).abort();
    guest.until(|guest| guest.tcp(waiting).may_send().then_some(()));
}

#[test]
fn refused_connection_is_refused_to_the_guest() {
    let mut guest = Guest::new(&NetOptions::default());
    for (address, port) in [(GATEWAY, free_port()), (DNS_SERVER, 80)] {
        let handle = guest.connect(address, port);
        guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    }
}

#[test]
fn each_end_can_close_first_and_still_listen() {
    let (listener, port) = listener();
    let mut guest = Guest::new(&NetOptions::default());

    let handle = guest.connected(GATEWAY, port);
    let (mut stream, _) = listener.accept().unwrap();
    guest.write(handle, b"request");
    guest.tcp(handle).close();
    let mut request = Vec::new();
    guest.until(|_| Some(()));
    let reading = thread::spawn(move || {
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(b"response").unwrap();
        request
    });
    assert_eq!(guest.read(handle, 100), b"response");
    assert_eq!(reading.join().unwrap(), b"request");

    let handle = guest.connected(GATEWAY, port);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"greeting").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.read(handle, 100), b"greeting");
    guest.write(handle, b"goodbye");
    guest.tcp(handle).close();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    assert_eq!(reading.join().unwrap(), "goodbye");
}

#[test]
fn reset_passes_through_in_both_directions() {
    let (listener, port) = listener();
    let mut guest = Guest::new(&NetOptions::default());

    let handle = guest.connected(GATEWAY, port);
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));

    let handle = guest.connected(GATEWAY, port);
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).abort();
    guest.until(|_| Some(()));
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn slow_reader_holds_the_sender_back_and_loses_nothing() {
    let (listener, port) = listener();
    let data = pattern(8 << 20);
    let sent = data.clone();
    thread::spawn(move || listener.accept().unwrap().0.write_all(&sent));
    let mut guest = Guest::new(&NetOptions::default());
    let handle = guest.connected(GATEWAY, port);
    // Nothing is read for a while: buffers fill and windows close.
    let waited = std::time::Instant::now();
    guest.until(|_| (waited.elapsed() > Duration::from_millis(300)).then_some(()));
    assert!(guest.read(handle, data.len()) == data);
}

#[test]
fn full_cable_holds_all_senders_back_and_loses_nothing() {
    let (listener, port) = listener();
    let data = pattern(256 << 10);
    let mut guest = Guest::new(&NetOptions::default());
    let handles: Vec<_> = (0..60).map(|_| guest.connected(GATEWAY, port)).collect();
    for _ in &handles {
        let (mut stream, _) = listener.accept().unwrap();
        let sent = data.clone();
        thread::spawn(move || stream.write_all(&sent));
    }
    // The guest takes nothing while the windows of all connections together exceed the queue.
    thread::sleep(Duration::from_millis(300));
    for handle in handles {
        assert!(guest.read(handle, data.len()) == data);
    }
}

#[test]
fn udp_goes_out_and_answers_come_back() {
    let (server, address) = udp_socket();
    let mut guest = Guest::new(&NetOptions::default());
    let handle = guest.udp(5000);
    guest.send_to(handle, b"ping", GATEWAY, address.port());
    let echoing = thread::spawn(move || {
        // The guest has to be polled meanwhile: its first datagram waits for ARP.
        let mut data = [0; 16];
        let (length, from) = server.recv_from(&mut data).unwrap();
        server.send_to(&data[..length], from).unwrap();
    });
    let expected = (b"ping".to_vec(), IpAddress::Ipv4(GATEWAY), address.port());
    assert_eq!(guest.receive_from(handle), expected);
    echoing.join().unwrap();
}

#[test]
fn forwarded_tcp_port_leads_to_the_guest() {
    let (forward, host) = forward(Protocol::Tcp, 80);
    // Forwards work even where the guest may not go out.
    let mut guest =
        Guest::new(&NetOptions { forwards: vec![forward], restrict: true, ..NetOptions::default() });
    let handle = guest.listen(80);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(host).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
    assert_eq!(guest.read(handle, 5), b"hello");
    guest.write(handle, b"welcome");
    guest.tcp(handle).close();
    guest.until(|guest| (!guest.tcp(handle).is_open()).then_some(()));
    assert_eq!(client.join().unwrap(), "welcome");
}

/// A guest that goes on from a saved state has nothing to send by itself. Linux drops segments that are for everybody.
#[test]
fn first_forwarded_connection_waits_for_a_silent_guests_hardware_address_and_no_longer() {
    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    let mut ports = std::collections::HashSet::new();
    for _ in 0..3 {
        let (forward, host) = forward(Protocol::Tcp, 80);
        let options = NetOptions { forwards: vec![forward], ..NetOptions::default() };
        let mut network = UserNetwork::new(&options, std::sync::Arc::new(|| ())).unwrap();
        let _client = TcpStream::connect(host).unwrap();
        let mut next = || loop {
            let mut frame = Vec::new();
            if rvisor_waist::NetBackend::receive(&mut network, &mut frame) {
                return frame;
            }
            thread::sleep(Duration::from_millis(1));
        };
        // It is asked for again where the first question was lost.
        let mut question = next();
        for _ in 0..2 {
            assert_eq!((&question[..6], &question[12..14], question[21]), (&[0xff; 6][..], &[8, 6][..], 1));
            question = next();
        }
        let asker = question[6..12].to_vec();
        let addresses = [&MAC[..], &GUEST.octets(), &asker, &GATEWAY.octets()].concat();
        let answer = [&asker[..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &addresses].concat();
        let asked = std::time::Instant::now();
        rvisor_waist::NetBackend::send(&mut network, &answer);
        let frame = loop {
            let mut frame = Vec::new();
            if rvisor_waist::NetBackend::receive(&mut network, &mut frame) && frame[12..14] == [8, 0] {
                break frame;
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert_eq!((&frame[..6], frame[23], frame[47]), (&MAC[..], 6, 2), "a SYN for the guest");
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        ports.insert([frame[34], frame[35]]);
    }
    assert!(ports.len() > 1, "processes begin with other ports");
}

#[test]
fn forward_to_a_port_the_guest_does_not_listen_on_is_reset() {
    let (forward, host) = forward(Protocol::Tcp, 81);
    let mut guest = Guest::new(&NetOptions { forwards: vec![forward], ..NetOptions::default() });
    // smoltcp answers with a reset as soon as there is any TCP socket.
    guest.listen(80);
    let client = thread::spawn(move || TcpStream::connect(host).unwrap().read(&mut [0]));
    guest.until(|_| client.is_finished().then_some(()));
    let error = client.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn forwarded_udp_port_leads_to_the_guest_and_back() {
    let (forward, host) = forward(Protocol::Udp, 53);
    let mut guest = Guest::new(&NetOptions { forwards: vec![forward], ..NetOptions::default() });
    let handle = guest.udp(53);
    for text in [b"one", b"two"] {
        let (client, _) = udp_socket();
        client.send_to(text, host).unwrap();
        let (data, from, port) = guest.receive_from(handle);
        assert_eq!((&data[..], from), (&text[..], IpAddress::Ipv4(GATEWAY)));
        guest.send_to(handle, b"back", GATEWAY, port);
        client.set_nonblocking(true).unwrap();
        let mut answer = [0; 8];
        assert_eq!(guest.until(|_| client.recv(&mut answer).ok()), 4);
        assert_eq!(&answer[..4], b"back");
    }
}

#[test]
fn restricted_guest_reaches_nothing() {
    let (listener, port) = listener();
    listener.set_nonblocking(true).unwrap();
    let (server, address) = udp_socket();
    server.set_nonblocking(true).unwrap();
    let mut guest = Guest::new(&NetOptions { restrict: true, ..NetOptions::default() });
    guest.connect(GATEWAY, port);
    let handle = guest.udp(5000);
    guest.send_to(handle, b"x", GATEWAY, address.port());
    let waited = std::time::Instant::now();
    guest.until(|_| (waited.elapsed() > Duration::from_millis(200)).then_some(()));
    assert!(listener.accept().is_err() && server.recv(&mut [0; 4]).is_err());
}

#[test]
fn end_of_the_network_ends_its_connections() {
    let (listener, port) = listener();
    let mut guest = Guest::new(&NetOptions::default());
    guest.connected(GATEWAY, port);
    let (mut stream, _) = listener.accept().unwrap();
    drop(guest);
    assert!(!matches!(stream.read(&mut [0; 4]), Ok(1..)));
}
