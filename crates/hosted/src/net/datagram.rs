//! UDP flows and pings between the guest and the host.
//!
//! Each pair of ends has a socket of the host connected to the other end: the host's kernel sees to it that
//! only answers come back, and tells of unreachable ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol};

use super::addresses::{Addresses, Host};
use super::link::{Outgoing, Unreachable};
use super::poller::{Poller, Token};
use super::resolver::Resolver;
use super::wire::{Datagram, Echo};

/// Most flows at once; a further one replaces the one unused for longest.
const MAX_FLOWS: usize = 256;
/// How long an unused flow is kept: UDP (RFC 4787: 2 minutes at least), and exchanges of question and answer.
const UDP_PATIENCE: Duration = Duration::from_secs(120);
const QUERY_PATIENCE: Duration = Duration::from_secs(20);
/// Types of echo requests.
const ECHO: u8 = 8;
const ECHO6: u8 = 128;
/// Datagrams taken from one socket before others get their turn.
const BURST: usize = 64;

/// The ends of a flow as the guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Udp { guest: SocketAddr, remote: SocketAddr },
    Ping { guest: IpAddr, ident: u16, remote: IpAddr },
}

impl Key {
    fn patience(self, own: &Addresses) -> Duration {
        match self {
            Self::Udp { remote, .. } if own.host(remote.ip()) != Some(Host::Dns) => UDP_PATIENCE,
            _ => QUERY_PATIENCE,
        }
    }
}

struct Flow {
    key: Key,
    /// Connected to the other end. For pings it is an ICMP socket, whose datagrams are ICMP messages.
    socket: UdpSocket,
    used: Instant,
    /// Datagrams sent since the last answer: tells a repeated DNS query.
    unanswered: usize,
}

/// All UDP flows and pings.
pub(super) struct DatagramFlows {
    addresses: Addresses,
    flows: HashMap<u64, Flow>,
    ids: HashMap<Key, u64>,
    last_id: u64,
    /// Flows whose sockets had more than a burst.
    due: Vec<u64>,
    buffer: Vec<u8>,
}

impl DatagramFlows {
    pub(super) fn new(addresses: Addresses) -> Self {
        let buffer = vec![0; usize::from(u16::MAX)];
        Self { addresses, flows: HashMap::new(), ids: HashMap::new(), last_id: 0, due: Vec::new(), buffer }
    }

    /// Whether a flow wants its turn without waiting for anything.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// A datagram from the guest, which goes to `target`, or to a resolver if it is for the DNS server.
    pub(super) fn send(
        &mut self,
        poller: &Poller,
        out: &mut Outgoing,
        resolver: &mut Resolver,
        datagram: &Datagram<'_>,
        target: SocketAddr,
    ) {
        let key = Key::Udp { guest: datagram.source, remote: datagram.destination };
        let is_query = self.addresses.host(datagram.destination.ip()) == Some(Host::Dns);
        let flow = match self.flow(poller, key, || connected(target)) {
            Ok(flow) => flow,
            Err(error) => return unreachable(out, key, reason_of(&error).unwrap_or(Unreachable::Host)),
        };
        if is_query && flow.unanswered > 0 {
            // Asked again: the server may be dead, so the next one gets the question.
            if let Some(server) = resolver.server(flow.unanswered) {
                let _ = flow.socket.connect(server);
            }
        }
        flow.unanswered += 1;
        if let Err(error) = flow.socket.send(datagram.payload) {
            report(out, key, &error);
        }
    }

    /// A ping from the guest to an address beyond the gateway.
    pub(super) fn ping(&mut self, poller: &Poller, out: &mut Outgoing, echo: &Echo<'_>) {
        let key = Key::Ping { guest: echo.source, ident: echo.ident, remote: echo.destination };
        let flow = match self.flow(poller, key, || ping_socket(echo.destination)) {
            Ok(flow) => flow,
            Err(error) => return unreachable(out, key, reason_of(&error).unwrap_or(Unreachable::Host)),
        };
        if let Err(error) = flow.socket.send(&echo_request(echo)) {
            report(out, key, &error);
        }
    }

    /// A flow's socket has something.
    pub(super) fn ready(&mut self, out: &mut Outgoing, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        for _ in 0..BURST {
            match flow.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    flow.used = Instant::now();
                    flow.unanswered = 0;
                    deliver(out, flow.key, &self.buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => report(out, flow.key, &error),
            }
        }
        self.due.push(id);
    }

    /// Gives the flows another turn that had too much for one.
    pub(super) fn serve(&mut self, out: &mut Outgoing) {
        for id in std::mem::take(&mut self.due) {
            self.ready(out, id);
        }
    }

    /// Forgets flows unused for long; to be called now and then.
    pub(super) fn expire(&mut self, now: Instant) {
        let own = self.addresses;
        self.flows.retain(|_, flow| now.duration_since(flow.used) < flow.key.patience(&own));
        self.ids.retain(|_, id| self.flows.contains_key(id));
    }

    /// The flow of `key`, made if need be.
    fn flow(
        &mut self,
        poller: &Poller,
        key: Key,
        open: impl FnOnce() -> io::Result<UdpSocket>,
    ) -> io::Result<&mut Flow> {
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => {
                self.make_room();
                let socket = open()?;
                self.last_id += 1;
                poller.add(&socket, Token::Datagram(self.last_id))?;
                let flow = Flow { key, socket, used: Instant::now(), unanswered: 0 };
                self.flows.insert(self.last_id, flow);
                self.ids.insert(key, self.last_id);
                self.last_id
            }
        };
        let flow = self.flows.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        flow.used = Instant::now();
        Ok(flow)
    }

    fn make_room(&mut self) {
        if self.flows.len() < MAX_FLOWS {
            return;
        }
        let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(id, _)| *id);
        if let Some(flow) = oldest.and_then(|id| self.flows.remove(&id)) {
            self.ids.remove(&flow.key);
        }
    }
}

fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}

/// An ICMP socket that needs no privileges; hosts may forbid it (`net.ipv4.ping_group_range`, for both families).
fn ping_socket(target: IpAddr) -> io::Result<UdpSocket> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let socket = UdpSocket::from(socket_with(family, SocketType::DGRAM, flags, Some(protocol))?);
    socket.connect((target, 0))?;
    Ok(socket)
}

/// The message that such a socket sends. Of ICMPv6's, the host's kernel makes the checksum, as it knows the addresses.
fn echo_request(echo: &Echo<'_>) -> Vec<u8> {
    let Echo { ident, sequence: seq_no, data, destination, .. } = *echo;
    match destination {
        IpAddr::V4(_) => {
            let message = Icmpv4Repr::EchoRequest { ident, seq_no, data };
            let mut buffer = vec![0; message.buffer_len()];
            message.emit(&mut Icmpv4Packet::new_unchecked(&mut buffer[..]), &ChecksumCapabilities::default());
            buffer
        }
        IpAddr::V6(to) => {
            let message = Icmpv6Repr::EchoRequest { ident, seq_no, data };
            let mut buffer = vec![0; message.buffer_len()];
            let mut packet = Icmpv6Packet::new_unchecked(&mut buffer[..]);
            message.emit(&to, &to, &mut packet, &ChecksumCapabilities::ignored());
            buffer
        }
    }
}

/// Passes an answer to the guest.
fn deliver(out: &mut Outgoing, key: Key, bytes: &[u8]) {
    match key {
        Key::Udp { guest, remote } => out.send_udp(remote, guest, bytes),
        Key::Ping { guest, ident, remote } => {
            // The host's kernel put an identifier of its own into the request.
            if let Some((sequence, data)) = echo_reply(remote, bytes) {
                out.send_echo_reply(remote, guest, ident, sequence, data);
            }
        }
    }
}

/// Sequence number and data of an echo reply.
fn echo_reply(from: IpAddr, bytes: &[u8]) -> Option<(u16, &[u8])> {
    let unchecked = ChecksumCapabilities::ignored();
    match from {
        IpAddr::V4(_) => match Icmpv4Repr::parse(&Icmpv4Packet::new_checked(bytes).ok()?, &unchecked) {
            Ok(Icmpv4Repr::EchoReply { seq_no, data, .. }) => Some((seq_no, data)),
            _ => None,
        },
        IpAddr::V6(from) => {
            let packet = Icmpv6Packet::new_checked(bytes).ok()?;
            match Icmpv6Repr::parse(&from, &from, &packet, &unchecked) {
                Ok(Icmpv6Repr::EchoReply { seq_no, data, .. }) => Some((seq_no, data)),
                _ => None,
            }
        }
    }
}

/// What an error of the host's socket means to the guest, if it concerns it.
fn reason_of(error: &io::Error) -> Option<Unreachable> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Unreachable::Port),
        // The host has no IPv6, or none that is up.
        io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => Some(Unreachable::Host),
        io::ErrorKind::NetworkUnreachable => Some(Unreachable::Network),
        _ => None,
    }
}

/// Tells the guest of an error of the host's socket.
fn report(out: &mut Outgoing, key: Key, error: &io::Error) {
    if let Some(reason) = reason_of(error) {
        unreachable(out, key, reason);
    }
}

/// Tells the guest that its datagram doesn't reach its destination.
pub(super) fn refuse(out: &mut Outgoing, datagram: &Datagram<'_>, reason: Unreachable) {
    unreachable(out, Key::Udp { guest: datagram.source, remote: datagram.destination }, reason);
}

/// Tells the guest that a flow's datagrams don't arrive, quoting what one looked like.
fn unreachable(out: &mut Outgoing, key: Key, reason: Unreachable) {
    let mut data = [0; 8];
    let (guest, remote, protocol) = match key {
        Key::Udp { guest, remote } => {
            data[..2].copy_from_slice(&guest.port().to_be_bytes());
            data[2..4].copy_from_slice(&remote.port().to_be_bytes());
            data[5] = 8;
            (guest.ip(), remote.ip(), IpProtocol::Udp)
        }
        Key::Ping { guest, ident, remote } => {
            data[0] = if guest.is_ipv4() { ECHO } else { ECHO6 };
            data[4..6].copy_from_slice(&ident.to_be_bytes());
            (guest, remote, if guest.is_ipv4() { IpProtocol::Icmp } else { IpProtocol::Icmpv6 })
        }
    };
    out.send_unreachable(reason, guest, remote, protocol, &data);
}
