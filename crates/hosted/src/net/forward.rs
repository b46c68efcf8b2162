//! Ports of the host that lead to the guest.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use super::addresses::Addresses;
use super::link::Outgoing;
use super::options::{Forward, NetError, Protocol};
use super::poller::{Poller, Token};
use super::stack::Stack;
use super::tcp::TcpFlows;
use super::wire::Datagram;

/// Most peers of one UDP port; a further one replaces the one silent for longest.
const MAX_PEERS: usize = 256;
/// How long a silent peer is remembered.
const PATIENCE: Duration = Duration::from_secs(120);
/// Datagrams or connections taken from one port before others get their turn.
const BURST: usize = 64;

/// All forwards, listening.
pub(super) struct Forwards {
    addresses: Addresses,
    ports: BTreeMap<u64, (Forward, Port)>,
    /// Number of the next port.
    next: u64,
    /// Ports that had more than a burst.
    due: Vec<u64>,
    buffer: Vec<u8>,
}

pub(super) enum Port {
    Tcp { listener: TcpListener, guest: u16 },
    Udp { socket: UdpSocket, guest: u16, peers: Vec<Peer> },
}

/// Somebody who sent to a forwarded UDP port.
pub(super) struct Peer {
    address: SocketAddr,
    /// The gateway's port that stands for it in the guest's eyes.
    port: u16,
    used: Instant,
}

impl Forwards {
    /// Listens on all ports.
    pub(super) fn new(forwards: &[Forward], addresses: Addresses) -> Result<Self, NetError> {
        let open = |(number, forward): (u64, &Forward)| Ok((number, (*forward, Port::open(forward)?)));
        let ports: BTreeMap<_, _> = (0..).zip(forwards).map(open).collect::<Result<_, NetError>>()?;
        let next = ports.len() as u64;
        Ok(Self { addresses, ports, next, due: Vec::new(), buffer: vec![0; usize::from(u16::MAX)] })
    }

    /// Carries out what was asked for while the network works.
    pub(super) fn change(&mut self, poller: &Poller, change: Change) {
        match change {
            Change::Add(forward, port) => {
                let number = self.next;
                self.next += 1;
                if let Err(error) = port.register(poller, number) {
                    log::error!("a port can't be forwarded: {error}");
                } else {
                    self.ports.insert(number, (forward, port));
                }
            }
            // Connections that have been made stay.
            Change::Remove(forward) => self.ports.retain(|_, (it, _)| *it != forward),
        }
    }

    /// Adds all ports to what is waited for.
    pub(super) fn register(&self, poller: &Poller) -> io::Result<()> {
        self.ports.iter().try_for_each(|(number, (_, port))| port.register(poller, *number))
    }

    /// Whether a port wants its turn without waiting for anything.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Something has arrived at a port.
    pub(super) fn ready(&mut self, stack: &mut Stack, poller: &Poller, flows: &mut TcpFlows, number: u64) {
        let more = match self.ports.get_mut(&number).map(|(_, port)| port) {
            Some(Port::Tcp { listener, guest }) => accept(stack, poller, flows, listener, *guest),
            Some(Port::Udp { socket, guest, peers }) => {
                receive(&mut stack.link.out, socket, *guest, peers, &mut self.buffer)
            }
            None => false,
        };
        if more {
            self.due.push(number);
        }
    }

    /// Gives the ports another turn that had too much for one.
    pub(super) fn serve(&mut self, stack: &mut Stack, poller: &Poller, flows: &mut TcpFlows) {
        for number in std::mem::take(&mut self.due) {
            self.ready(stack, poller, flows, number);
        }
    }

    /// A datagram from the guest that answers a peer; false if it isn't one.
    pub(super) fn answer(&mut self, datagram: &Datagram<'_>) -> bool {
        if datagram.destination.ip() != self.addresses.gateway {
            return false;
        }
        for (_, port) in self.ports.values_mut() {
            let Port::Udp { socket, guest, peers } = port else { continue };
            let known = peers.iter_mut().find(|peer| peer.port == datagram.destination.port());
            if let Some(peer) = known.filter(|_| *guest == datagram.source.port()) {
                peer.used = Instant::now();
                // Lost where the host has no room, as datagrams are.
                let _ = socket.send_to(datagram.payload, peer.address);
                return true;
            }
        }
        false
    }
}

impl Port {
    /// Listens.
    pub(super) fn open(forward: &Forward) -> Result<Self, NetError> {
        let &Forward { protocol, host: address, guest } = forward;
        listen(protocol, address, guest).map_err(|source| NetError::Listen { protocol, address, source })
    }

    fn register(&self, poller: &Poller, number: u64) -> io::Result<()> {
        match self {
            Self::Tcp { listener, .. } => poller.add(listener, Token::Forward(number)),
            Self::Udp { socket, .. } => poller.add(socket, Token::Forward(number)),
        }
    }
}

/// A wish about the ports of a network that works.
pub(super) enum Change {
    Add(Forward, Port),
    Remove(Forward),
}

fn listen(protocol: Protocol, address: SocketAddr, guest: u16) -> io::Result<Port> {
    Ok(match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Port::Tcp { listener, guest }
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Port::Udp { socket, guest, peers: Vec::new() }
        }
    })
}

/// Takes connections; tells whether there may be more.
fn accept(
    stack: &mut Stack,
    poller: &Poller,
    flows: &mut TcpFlows,
    listener: &TcpListener,
    guest: u16,
) -> bool {
    for _ in 0..BURST {
        match listener.accept() {
            Ok((stream, _)) => {
                let to = stack.link.out.addresses.guest;
                stack.link.out.look_for(to);
                if let Err(error) = flows.accept(stack, poller, stream, SocketAddr::new(to.into(), guest)) {
                    log::debug!("forwarded connection to guest port {guest} dropped: {error}");
                }
            }
            // The peer gave up, or nobody is there, or descriptors are used up (the next arrival tries again).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return false,
        }
    }
    true
}

/// Takes datagrams; tells whether there may be more.
fn receive(
    out: &mut Outgoing,
    socket: &UdpSocket,
    guest: u16,
    peers: &mut Vec<Peer>,
    buffer: &mut [u8],
) -> bool {
    for _ in 0..BURST {
        match socket.recv_from(buffer) {
            Ok((length, address)) => {
                let Addresses { gateway, guest: to, .. } = out.addresses;
                out.look_for(to);
                let source = SocketAddr::new(gateway.into(), port_of(peers, address));
                out.send_udp(source, SocketAddr::new(to.into(), guest), &buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // What an earlier answer met: not ours to tell the guest, which sees many peers at one address.
            Err(_) => {}
        }
    }
    true
}

/// The gateway's port that stands for a peer: its own if no other peer has it.
fn port_of(peers: &mut Vec<Peer>, address: SocketAddr) -> u16 {
    let now = Instant::now();
    if let Some(peer) = peers.iter_mut().find(|peer| peer.address == address) {
        peer.used = now;
        return peer.port;
    }
    peers.retain(|peer| now.duration_since(peer.used) < PATIENCE);
    if peers.len() == MAX_PEERS {
        let oldest = peers.iter().enumerate().min_by_key(|(_, peer)| peer.used).map(|(index, _)| index);
        oldest.map(|index| peers.swap_remove(index));
    }
    let mut port = address.port();
    while port == 0 || peers.iter().any(|peer| peer.port == port) {
        port = port.wrapping_add(1);
    }
    peers.push(Peer { address, port, used: now });
    port
}

impl Outgoing {
    /// Asks for the hardware address of `guest` unless one is known.
    pub(super) fn look_for(&mut self, guest: Ipv4Addr) {
        use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress};
        if self.knows_guest() {
            return;
        }
        let request = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(super::HOST_MAC),
            source_protocol_addr: self.addresses.gateway,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: guest,
        };
        self.send_arp(EthernetAddress::BROADCAST, &request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_keep_their_port_and_never_share_one() {
        let mut peers = Vec::new();
        let first: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let second: SocketAddr = "127.0.0.2:4000".parse().unwrap();
        assert_eq!(port_of(&mut peers, first), 4000);
        assert_eq!(port_of(&mut peers, second), 4001);
        assert_eq!(port_of(&mut peers, first), 4000);
        for port in 1..1000 {
            port_of(&mut peers, SocketAddr::new(first.ip(), port));
            assert!(peers.len() <= MAX_PEERS);
        }
    }

    #[test]
    fn port_in_use_is_an_error_that_names_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        let error = Forwards::new(&[Forward { protocol: Protocol::Tcp, host, guest: 80 }], Addresses::USER)
            .err()
            .unwrap();
        let text = error.to_string();
        assert!(text.contains(&host.to_string()) && text.contains("choose another port"), "{text}");
    }
}
