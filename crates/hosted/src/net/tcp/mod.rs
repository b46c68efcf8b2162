//! TCP flows between the guest and the host.
//!
//! A connection that the guest opens is first opened on the host's side, the guest's SYN waiting; only then
//! does the guest get its answer, so that it sees a refusal as one. One that arrives through a forward is
//! opened to the guest at once. Each flow has a smoltcp socket set of its own, so that the work for a packet
//! doesn't grow with the number of flows.

mod splice;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use smoltcp::socket::tcp::Socket;
use smoltcp::time::{Duration as Span, Instant};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use self::splice::{Outcome, Splice};
use super::link::Unreachable;
use super::poller::{Poller, Ready, Token};
use super::stack::Stack;
use super::wire::{self, Packet, Segment};

/// Most flows at once; further connections wait (the guest repeats its SYN).
const MAX_FLOWS: usize = 512;
/// How long the host may take to connect; Linux itself gives up a little earlier.
const CONNECT_PATIENCE: Span = Span::from_secs(150);
/// How long a flow with one end closed may be silent (RFC 5382: 4 minutes at least).
const HALF_CLOSED_PATIENCE: Span = Span::from_secs(300);
/// Repetitions of an acknowledgement that mean a loss (RFC 5681, 3.2).
const DUPLICATES: usize = 3;
/// Rounds of moving data for one flow before others get their turn.
const ROUNDS: usize = 4;
/// Ports that forwarded connections come from, as the guest sees it (RFC 6335: dynamic ports).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Both ends of a connection as the guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    guest: SocketAddr,
    remote: SocketAddr,
}

/// A connection.
struct Flow {
    key: Key,
    host: TcpStream,
    phase: Phase,
    /// Whether it is listed in `due`.
    is_due: bool,
    /// Its entry in `timers`.
    timer: Option<Instant>,
    /// When something last happened.
    active: Instant,
}

enum Phase {
    /// The host's side is being opened; the guest's SYN waits.
    Connecting { syn: Vec<u8> },
    /// Both sides are there.
    Spliced(Box<Splice>),
}

/// All TCP flows.
#[derive(Default)]
pub(super) struct TcpFlows {
    flows: HashMap<u64, Flow>,
    ids: HashMap<Key, u64>,
    last_id: u64,
    /// Flows to be looked at in this round.
    due: Vec<u64>,
    /// Flows that wait for room on the link.
    blocked: Vec<u64>,
    timers: BTreeSet<(Instant, u64)>,
    last_port: u16,
}

impl TcpFlows {
    /// None yet. Forwarded connections come from ports that begin anywhere: a guest that goes on from a saved state may
    /// have connections which another process has made, and would take the same ports for those.
    pub(super) fn new(seed: u64) -> Self {
        let ports = (*DYNAMIC_PORTS.end() - *DYNAMIC_PORTS.start()) as u64;
        Self { last_port: *DYNAMIC_PORTS.start() + (seed % ports) as u16, ..Self::default() }
    }

    /// Whether a flow wants its turn without waiting for anything.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether a flow waits for room on the link.
    pub(super) fn is_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// When a flow's timer next runs out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A segment from the guest: taken by its flow, else false.
    pub(super) fn deliver(&mut self, stack: &mut Stack, segment: &Segment<'_>) -> bool {
        let key = Key { guest: segment.source, remote: segment.destination };
        let Some(&id) = self.ids.get(&key) else { return false };
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        if let Phase::Spliced(splice) = &mut flow.phase {
            stack.ingress(segment.packet, &mut splice.sockets);
            splice.observe();
            if segment.acknowledges && splice.has_lost_timer(stack) {
                // What a receiver says that misses something (RFC 5681, 3.2): the missing segment is sent again.
                for _ in 0..DUPLICATES {
                    stack.ingress(segment.packet, &mut splice.sockets);
                }
            }
            flow.active = stack.now;
            self.mark(id);
        }
        true
    }

    /// The guest opens a connection, which the host is to make to `target`.
    pub(super) fn open(&mut self, stack: &mut Stack, poller: &Poller, syn: &Segment<'_>, target: SocketAddr) {
        if self.flows.len() >= MAX_FLOWS {
            return;
        }
        let id = self.next_id();
        match start_connecting(target) {
            Ok(host) => {
                if poller.add(&host, Token::Tcp(id)).is_ok() {
                    let key = Key { guest: syn.source, remote: syn.destination };
                    let phase = Phase::Connecting { syn: syn.packet.to_vec() };
                    self.insert(id, key, host, phase, stack.now);
                }
            }
            Err(error) => refuse(stack, syn, &error),
        }
    }

    /// A connection that arrived for the guest's port `guest`.
    pub(super) fn accept(
        &mut self,
        stack: &mut Stack,
        poller: &Poller,
        host: TcpStream,
        guest: SocketAddr,
    ) -> io::Result<()> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(io::Error::other("too many connections"));
        }
        let id = self.next_id();
        let key = Key { guest, remote: self.free_remote(guest, stack.link.out.addresses.gateway)? };
        let splice = Splice::new(|socket| {
            let (to, from) = (IpEndpoint::from(guest), IpEndpoint::from(key.remote));
            socket.connect(stack.interface.context(), to, from)
        });
        let splice = splice.map_err(io::Error::other)?;
        host.set_nonblocking(true)?;
        host.set_nodelay(true)?;
        poller.add(&host, Token::Tcp(id))?;
        self.insert(id, key, host, Phase::Spliced(Box::new(splice)), stack.now);
        self.mark(id);
        Ok(())
    }

    /// The host's side of a flow has become ready for something.
    pub(super) fn ready(&mut self, stack: &mut Stack, id: u64, ready: Ready) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        match &mut flow.phase {
            Phase::Spliced(splice) => {
                splice.readable |= ready.readable;
                splice.writable |= ready.writable;
            }
            Phase::Connecting { syn } => match connect_result(&flow.host) {
                Ok(false) => return,
                Ok(true) => match answer(stack, flow.key, syn) {
                    Some(splice) => flow.phase = Phase::Spliced(Box::new(splice)),
                    None => return self.remove(id),
                },
                Err(error) => {
                    if let Some(Packet::Tcp(syn)) = wire::parse_packet(syn) {
                        refuse(stack, &syn, &error);
                    }
                    return self.remove(id);
                }
            },
        }
        self.mark(id);
    }

    /// Gives every flow its turn that has something to do.
    pub(super) fn serve(&mut self, stack: &mut Stack) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= stack.now
        {
            self.set_timer(id, None);
            self.mark(id);
        }
        if stack.link.out.has_room() {
            for id in std::mem::take(&mut self.blocked) {
                self.mark(id);
            }
        }
        for id in std::mem::take(&mut self.due) {
            self.serve_one(stack, id);
        }
    }

    fn serve_one(&mut self, stack: &mut Stack, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.is_due = false;
        let Phase::Spliced(splice) = &mut flow.phase else { return };
        let mut busy = true;
        for _ in 0..ROUNDS {
            match splice.transfer(&flow.host) {
                Ok(moved) => busy = moved,
                Err(_) => {
                    splice.abort();
                    stack.egress(&mut splice.sockets);
                    return self.remove(id);
                }
            }
            stack.egress(&mut splice.sockets);
            if !busy {
                break;
            }
            flow.active = stack.now;
        }
        match splice.outcome() {
            Outcome::Open => {
                let next = stack.interface.poll_at(stack.now, &splice.sockets);
                self.schedule(stack, id, busy, next);
            }
            Outcome::Closed => self.remove(id),
            Outcome::Reset => {
                reset(&flow.host);
                self.remove(id);
            }
        }
    }

    /// Arranges a flow's next turn: now if it is `busy`, else when its socket says.
    fn schedule(&mut self, stack: &Stack, id: u64, busy: bool, next: Option<Instant>) {
        if busy {
            self.mark(id);
        }
        match next {
            Some(at) if at <= stack.now => {
                self.set_timer(id, None);
                if stack.link.out.stalled {
                    self.blocked.push(id);
                } else {
                    self.set_timer(id, Some(stack.now + Span::from_millis(1)));
                }
            }
            next => self.set_timer(id, next),
        }
    }

    /// Gives up flows that have been waiting for too long; to be called now and then.
    pub(super) fn expire(&mut self, stack: &mut Stack) {
        let expired = |flow: &Flow| match &flow.phase {
            Phase::Connecting { .. } => stack.now > flow.active + CONNECT_PATIENCE,
            Phase::Spliced(splice) => {
                splice.is_half_closed() && stack.now > flow.active + HALF_CLOSED_PATIENCE
            }
        };
        let ids: Vec<u64> = self.flows.iter().filter(|(_, flow)| expired(flow)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(Flow { phase: Phase::Spliced(splice), host, .. }) = self.flows.get_mut(&id) {
                splice.abort();
                stack.egress(&mut splice.sockets);
                reset(host);
            }
            self.remove(id);
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn insert(&mut self, id: u64, key: Key, host: TcpStream, phase: Phase, now: Instant) {
        self.ids.insert(key, id);
        self.flows.insert(id, Flow { key, host, phase, is_due: false, timer: None, active: now });
    }

    fn remove(&mut self, id: u64) {
        self.set_timer(id, None);
        if let Some(flow) = self.flows.remove(&id) {
            self.ids.remove(&flow.key);
        }
    }

    fn mark(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && !flow.is_due
        {
            flow.is_due = true;
            self.due.push(id);
        }
    }

    fn set_timer(&mut self, id: u64, at: Option<Instant>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if flow.timer == at {
            return;
        }
        if let Some(old) = std::mem::replace(&mut flow.timer, at) {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = at {
            self.timers.insert((at, id));
        }
    }

    /// A port of the gateway that has no connection with `guest` yet.
    fn free_remote(&mut self, guest: SocketAddr, gateway: Ipv4Addr) -> io::Result<SocketAddr> {
        for _ in DYNAMIC_PORTS {
            self.last_port = match self.last_port.wrapping_add(1) {
                port if DYNAMIC_PORTS.contains(&port) => port,
                _ => *DYNAMIC_PORTS.start(),
            };
            let remote = SocketAddr::new(gateway.into(), self.last_port);
            if !self.ids.contains_key(&Key { guest, remote }) {
                return Ok(remote);
            }
        }
        Err(io::Error::other("no free port"))
    }
}

/// Starts to open a connection of the host.
fn start_connecting(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let host = TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?);
    host.set_nodelay(true)?;
    match connect(&host, &target) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(host),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection of the host is open now; its error if it can't be.
fn connect_result(host: &TcpStream) -> io::Result<bool> {
    match host.take_error()? {
        Some(error) => Err(error),
        None => Ok(host.peer_addr().is_ok()),
    }
}

/// Lets the guest's waiting SYN through to a socket of its own.
fn answer(stack: &mut Stack, key: Key, syn: &[u8]) -> Option<Splice> {
    let local = IpListenEndpoint::from(key.remote);
    let mut splice = Splice::new(|socket: &mut Socket<'static>| socket.listen(local)).ok()?;
    stack.ingress(syn, &mut splice.sockets);
    Some(splice)
}

/// Tells the guest that the host's side can't be opened.
fn refuse(stack: &mut Stack, syn: &Segment<'_>, error: &io::Error) {
    match error.kind() {
        // The latter of a host that has no IPv6.
        io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => {
            stack.unreachable(syn, Unreachable::Host);
        }
        io::ErrorKind::NetworkUnreachable => stack.unreachable(syn, Unreachable::Network),
        // Silence, as from the other end.
        io::ErrorKind::TimedOut => {}
        _ if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {}
        _ => stack.refuse(syn.packet),
    }
}

/// Makes the host's stream end with a reset when it is closed.
fn reset(host: &TcpStream) {
    let _ = set_socket_linger(host, Some(Duration::ZERO));
}
