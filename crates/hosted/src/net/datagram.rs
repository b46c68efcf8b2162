//! UDP flows and pings between the guest and the host.
//!
//! Each pair of ends has a socket of the host connected to the other end: the host's kernel sees to it that
//! only answers come back, and tells of unreachable ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Repr};

use super::addresses::Addresses;
use super::link::Outgoing;
use super::poller::{Poller, Token};
use super::resolver::Resolver;
use super::wire::{Datagram, Echo};

/// Most flows at once; a further one replaces the one unused for longest.
const MAX_FLOWS: usize = 256;
/// How long an unused flow is kept: UDP (RFC 4787: 2 minutes at least), and exchanges of question and answer.
const UDP_PATIENCE: Duration = Duration::from_secs(120);
const QUERY_PATIENCE: Duration = Duration::from_secs(20);
/// Datagrams taken from one socket before others get their turn.
const BURST: usize = 64;

/// The ends of a flow as the guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Key {
    Udp { guest: SocketAddrV4, remote: SocketAddrV4 },
    Ping { guest: Ipv4Addr, ident: u16, remote: Ipv4Addr },
}

impl Key {
    fn patience(self, dns: Ipv4Addr) -> Duration {
        match self {
            Self::Udp { remote, .. } if *remote.ip() != dns => UDP_PATIENCE,
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
        let dns = self.addresses.dns;
        let Some(flow) = self.flow(poller, key, || connected(target)) else {
            return unreachable(out, key, Icmpv4DstUnreachable::HostUnreachable);
        };
        if *datagram.destination.ip() == dns && flow.unanswered > 0 {
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
        let Some(flow) = self.flow(poller, key, || ping_socket(echo.destination)) else {
            return unreachable(out, key, Icmpv4DstUnreachable::HostUnreachable);
        };
        let Echo { ident, sequence: seq_no, data, .. } = *echo;
        let message = Icmpv4Repr::EchoRequest { ident, seq_no, data };
        let mut buffer = vec![0; message.buffer_len()];
        message.emit(&mut Icmpv4Packet::new_unchecked(&mut buffer[..]), &ChecksumCapabilities::default());
        if let Err(error) = flow.socket.send(&buffer) {
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
        let dns = self.addresses.dns;
        self.flows.retain(|_, flow| now.duration_since(flow.used) < flow.key.patience(dns));
        self.ids.retain(|_, id| self.flows.contains_key(id));
    }

    /// The flow of `key`, made if need be.
    fn flow(
        &mut self,
        poller: &Poller,
        key: Key,
        open: impl FnOnce() -> io::Result<UdpSocket>,
    ) -> Option<&mut Flow> {
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None => {
                self.make_room();
                let socket = open().ok()?;
                self.last_id += 1;
                poller.add(&socket, Token::Datagram(self.last_id)).ok()?;
                let flow = Flow { key, socket, used: Instant::now(), unanswered: 0 };
                self.flows.insert(self.last_id, flow);
                self.ids.insert(key, self.last_id);
                self.last_id
            }
        };
        let flow = self.flows.get_mut(&id)?;
        flow.used = Instant::now();
        Some(flow)
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

/// An ICMP socket that needs no privileges; hosts may forbid it (`net.ipv4.ping_group_range`).
fn ping_socket(target: Ipv4Addr) -> io::Result<UdpSocket> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::ICMP))?;
    let socket = UdpSocket::from(socket);
    socket.connect((target, 0))?;
    Ok(socket)
}

/// Passes an answer to the guest.
fn deliver(out: &mut Outgoing, key: Key, bytes: &[u8]) {
    match key {
        Key::Udp { guest, remote } => out.send_udp(remote, guest, bytes),
        Key::Ping { guest, ident, remote } => {
            let Ok(packet) = Icmpv4Packet::new_checked(bytes) else { return };
            let parsed = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored());
            if let Ok(Icmpv4Repr::EchoReply { seq_no, data, .. }) = parsed {
                // The host's kernel put an identifier of its own into the request.
                out.send_icmp(remote, guest, &Icmpv4Repr::EchoReply { ident, seq_no, data });
            }
        }
    }
}

/// Tells the guest of an error of the host's socket that concerns it.
fn report(out: &mut Outgoing, key: Key, error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => unreachable(out, key, Icmpv4DstUnreachable::PortUnreachable),
        io::ErrorKind::HostUnreachable => unreachable(out, key, Icmpv4DstUnreachable::HostUnreachable),
        io::ErrorKind::NetworkUnreachable => unreachable(out, key, Icmpv4DstUnreachable::NetUnreachable),
        _ => {}
    }
}

/// Tells the guest that its datagram doesn't reach its destination.
pub(super) fn refuse(out: &mut Outgoing, datagram: &Datagram<'_>, reason: Icmpv4DstUnreachable) {
    unreachable(out, Key::Udp { guest: datagram.source, remote: datagram.destination }, reason);
}

/// Tells the guest that a flow's datagrams don't arrive, quoting what one looked like.
fn unreachable(out: &mut Outgoing, key: Key, reason: Icmpv4DstUnreachable) {
    let mut data = [0; 8];
    let (guest, remote, protocol) = match key {
        Key::Udp { guest, remote } => {
            data[..2].copy_from_slice(&guest.port().to_be_bytes());
            data[2..4].copy_from_slice(&remote.port().to_be_bytes());
            data[5] = 8;
            (*guest.ip(), *remote.ip(), IpProtocol::Udp)
        }
        Key::Ping { guest, ident, remote } => {
            data[0] = 8;
            data[4..6].copy_from_slice(&ident.to_be_bytes());
            (guest, remote, IpProtocol::Icmp)
        }
    };
    let header = Ipv4Repr {
        src_addr: guest,
        dst_addr: remote,
        next_header: protocol,
        payload_len: data.len(),
        hop_limit: 64,
    };
    out.send_icmp(out.addresses.gateway, guest, &Icmpv4Repr::DstUnreachable { reason, header, data: &data });
}
