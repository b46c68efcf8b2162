//! The network's thread: takes frames and events in turn and passes each on to whom it concerns.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress, EthernetFrame, IpProtocol};

use super::addresses::{Addresses, Host};
use super::cable::{self, Cable};
use super::datagram::{self, DatagramFlows};
use super::dhcp::{self, Dhcp};
use super::discovery::Discovery;
use super::forward::Forwards;
use super::fragment::Reassembly;
use super::link::Unreachable;
use super::poller::{Poller, Ready, Token};
use super::ports::Ports;
use super::queue::Queues;
use super::resolver::Resolver;
use super::stack::Stack;
use super::tcp::TcpFlows;
use super::wire::{self, Datagram, Echo, Packet, Segment, Solicitation};
use super::{HOST_MAC, NetError, NetOptions, names};

/// UDP and TCP port of DNS.
const DNS_PORT: u16 = 53;
/// How often flows are looked through for those that have expired.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the guest's hardware address is asked for while a flow waits for it.
const QUESTION: Duration = Duration::from_secs(1);

/// All that the network's thread works with.
pub(super) struct Engine {
    queues: Arc<Queues>,
    ports: Ports,
    /// Tells the home that there are frames for the guest.
    wake: Arc<dyn Fn() + Send + Sync>,
    poller: Poller,
    stack: Stack,
    tcp: TcpFlows,
    datagrams: DatagramFlows,
    forwards: Forwards,
    fragments: Reassembly,
    dhcp: Dhcp,
    discovery: Discovery,
    resolver: Resolver,
    restrict: bool,
    addresses: Addresses,
    /// The way to other machines.
    cable: Option<Cable>,
    /// Buffers of frames that have been dealt with.
    used: Vec<Vec<u8>>,
    swept: Instant,
    /// When the guest's hardware address was asked for.
    asked: Instant,
}

/// Where something that the guest sends goes.
enum Route {
    To(SocketAddr),
    /// Nobody is there.
    Refused,
    /// No way leads there.
    Unreachable,
    /// The guest is not to go there.
    Prohibited,
}

impl Engine {
    pub(super) fn new(
        options: &NetOptions,
        queues: Arc<Queues>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, NetError> {
        options.check()?;
        let NetOptions { hostname, restrict, mtu, resolvers, member, .. } = options.clone();
        let addresses = member.as_ref().map_or(Addresses::USER, |member| member.addresses());
        let restrict = restrict || member.as_ref().is_some_and(|member| member.network.internal);
        let resolves = !restrict || member.is_some();
        let forwards = Forwards::new(&options.forwards, addresses)?;
        let poller = Poller::new()?;
        poller.add(queues.bell(), Token::Bell)?;
        forwards.register(&poller)?;
        if let Some(member) = &member {
            poller.add(&member.socket, Token::Cable)?;
        }
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let ports = Ports::new(&queues, &options.forwards);
        Ok(Self {
            queues,
            ports,
            wake,
            poller,
            stack: Stack::new(mtu, u64::from_ne_bytes(seed), addresses),
            tcp: TcpFlows::new(u64::from_ne_bytes(seed)),
            datagrams: DatagramFlows::new(addresses),
            forwards,
            fragments: Reassembly::default(),
            dhcp: Dhcp { addresses, hostname, mtu, routes: !restrict, resolves },
            discovery: Discovery::new(addresses, !restrict, resolves),
            resolver: Resolver::new(resolvers),
            restrict,
            addresses,
            cable: member.as_ref().map(Cable::new),
            used: Vec::new(),
            swept: Instant::now(),
            asked: Instant::now(),
        })
    }

    /// Its forwards, for others.
    pub(super) fn ports(&self) -> Ports {
        self.ports.clone()
    }

    /// Works until the queues are closed.
    ///
    /// # Errors
    /// The host refuses to wait, which nothing can be done about.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.queues.is_closing() {
            let timeout = self.timeout();
            self.turn(timeout)?;
        }
        Ok(())
    }

    /// How long nothing will need to be done unless something happens.
    fn timeout(&self) -> Duration {
        let is_due = self.cable.as_ref().is_some_and(|cable| cable.is_due);
        let unblocked = is_due || self.tcp.is_blocked() && self.stack.link.out.has_room();
        if unblocked || self.tcp.is_due() || self.datagrams.is_due() || self.forwards.is_due() {
            return Duration::ZERO;
        }
        let timer = self.tcp.deadline().map(|at| match at > self.stack.now {
            true => (at - self.stack.now).into(),
            false => Duration::ZERO,
        });
        let waits = self.cable.as_ref().is_some_and(Cable::has_backlog);
        let sweep = if self.has_question() { QUESTION } else { SWEEP };
        let address = self.cable.as_ref().and_then(Cable::uncontested_in).unwrap_or(SWEEP);
        timer.unwrap_or(SWEEP).min(address).min(if waits { cable::PAUSE } else { sweep })
    }

    /// Whether a flow waits for the guest's hardware address.
    fn has_question(&self) -> bool {
        self.tcp.is_blocked() && !self.stack.link.out.knows_guest()
    }

    /// Waits at most for `timeout`, then does what there is to do.
    fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        let events = self.poller.wait(timeout)?;
        self.stack.tick();
        self.publish();
        self.stack.link.out.stalled = false;
        let frames = self.queues.take(&mut self.used);
        for frame in frames {
            self.frame(&frame);
            self.used.push(frame);
        }
        for (token, ready) in events {
            self.event(token, ready);
        }
        if self.cable.as_ref().is_some_and(|cable| cable.is_due) {
            self.arrive();
        }
        self.ports.work(|change| self.forwards.change(&self.poller, change));
        self.forwards.serve(&mut self.stack, &self.poller, &mut self.tcp);
        self.datagrams.serve(&mut self.stack.link.out);
        self.tcp.serve(&mut self.stack);
        if !self.has_question() {
            self.asked = Instant::now();
        } else if self.asked.elapsed() >= QUESTION {
            self.asked = Instant::now();
            self.stack.link.out.look_for(self.addresses.guest);
        }
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            self.tcp.expire(&mut self.stack);
            self.datagrams.expire(self.swept);
            self.discovery.tick(&mut self.stack.link.out);
        }
        if let Some(cable) = &mut self.cable {
            cable.tick();
            cable.flush();
        }
        self.stack.link.out.stalled |= self.tcp.is_blocked();
        self.publish();
        Ok(())
    }

    /// Hands the frames made so far to the guest and learns how many it has taken.
    fn publish(&mut self) {
        let out = &mut self.stack.link.out;
        let any = !out.frames.is_empty();
        out.bytes = self.queues.publish(&mut out.frames, &mut out.spare, out.stalled);
        if any {
            (self.wake)();
        }
    }

    fn event(&mut self, token: Token, ready: Ready) {
        match token {
            Token::Bell => {}
            Token::Cable => self.arrive(),
            Token::Tcp(id) => self.tcp.ready(&mut self.stack, id, ready),
            Token::Datagram(id) => self.datagrams.ready(&mut self.stack.link.out, id),
            Token::Forward(number) => {
                self.forwards.ready(&mut self.stack, &self.poller, &mut self.tcp, number);
            }
        }
    }

    /// Frames of other machines.
    fn arrive(&mut self) {
        let out = &mut self.stack.link.out;
        if let Some(cable) = &mut self.cable {
            cable.receive(|frame| out.pass(frame));
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        if let Some(cable) = &mut self.cable {
            cable.learn(frame);
            if !is_for_the_gateway(frame, &self.addresses) {
                return cable.send(frame);
            }
        }
        let Some((sender, packet)) = wire::parse(frame) else { return };
        self.stack.link.out.guest = sender;
        self.packet(packet);
    }

    fn packet(&mut self, packet: Packet<'_>) {
        match packet {
            Packet::Arp(arp) => self.arp(&arp),
            Packet::Solicitation(asked) => self.discovery.answer(&mut self.stack.link.out, asked),
            Packet::Udp(datagram) if datagram.destination.port() == dhcp::SERVER_PORT => self.dhcp(&datagram),
            Packet::Udp(datagram) if self.is_exchange(datagram.source, datagram.destination) => {
                self.udp(&datagram);
            }
            Packet::Tcp(segment) if self.is_exchange(segment.source, segment.destination) => {
                self.segment(&segment);
            }
            Packet::Echo(echo) if self.addresses.is_guest(echo.source) => self.echo(&echo),
            Packet::Fragment(part)
                if self.addresses.is_guest(part.source) && part.protocol != IpProtocol::Tcp =>
            {
                let Some(whole) = self.fragments.add(&part, Instant::now()) else { return };
                let (from, to) = (whole.source, whole.destination);
                if let Some(packet) = wire::parse_datagram(from, to, whole.protocol, &whole.payload) {
                    self.packet(packet);
                }
            }
            _ => {}
        }
    }

    /// Answers who asks for the gateway or the DNS server.
    fn arp(&mut self, arp: &ArpRepr) {
        let &ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = arp
        else {
            return;
        };
        if self.addresses.host(target_protocol_addr.into()).is_none() {
            return;
        }
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(HOST_MAC),
            source_protocol_addr: target_protocol_addr,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        self.stack.link.out.send_arp(source_hardware_addr, &reply);
    }

    fn dhcp(&mut self, datagram: &Datagram<'_>) {
        let to = datagram.destination.ip();
        if to != Ipv4Addr::BROADCAST && to != self.addresses.gateway {
            return;
        }
        if let Some((to, answer)) = self.dhcp.answer(datagram.payload) {
            let from = SocketAddr::new(self.addresses.gateway.into(), dhcp::SERVER_PORT);
            self.stack.link.out.send_udp(from, to, &answer);
        }
    }

    fn udp(&mut self, datagram: &Datagram<'_>) {
        if self.forwards.answer(datagram) {
            return;
        }
        if self.name(datagram) {
            return;
        }
        let route = self.route(datagram.destination);
        let out = &mut self.stack.link.out;
        match route {
            Route::To(target) => {
                self.datagrams.send(&self.poller, out, &mut self.resolver, datagram, target);
            }
            Route::Refused => datagram::refuse(out, datagram, Unreachable::Port),
            Route::Unreachable => datagram::refuse(out, datagram, Unreachable::Host),
            Route::Prohibited => datagram::refuse(out, datagram, Unreachable::Prohibited),
        }
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        if self.tcp.deliver(&mut self.stack, segment) {
            return;
        }
        if !segment.opens {
            return self.stack.refuse(segment.packet);
        }
        match self.route(segment.destination) {
            Route::To(target) => self.tcp.open(&mut self.stack, &self.poller, segment, target),
            Route::Refused => self.stack.refuse(segment.packet),
            Route::Unreachable => self.stack.unreachable(segment, Unreachable::Host),
            Route::Prohibited => self.stack.unreachable(segment, Unreachable::Prohibited),
        }
    }

    fn echo(&mut self, echo: &Echo<'_>) {
        let &Echo { source, destination, ident, sequence, data } = echo;
        let out = &mut self.stack.link.out;
        if self.addresses.host(destination).is_some() {
            out.send_echo_reply(destination, source, ident, sequence, data);
        } else if !self.restrict && self.addresses.is_public(destination) {
            self.datagrams.ping(&self.poller, out, echo);
        }
    }

    fn route(&mut self, destination: SocketAddr) -> Route {
        let (address, port) = (destination.ip(), destination.port());
        match self.addresses.host(address) {
            _ if self.restrict => Route::Prohibited,
            Some(Host::Gateway) => {
                let loopback = match address {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
                };
                Route::To(SocketAddr::new(loopback, port))
            }
            Some(Host::Dns) if port == DNS_PORT => match self.resolver.server(0) {
                Some(server) => Route::To(server),
                None => Route::Unreachable,
            },
            Some(Host::Dns) => Route::Refused,
            None if self.addresses.is_public(address) => Route::To(destination),
            None => Route::Unreachable,
        }
    }

    /// A query for the name of a machine on the same network: answered here, and true then.
    fn name(&mut self, datagram: &Datagram<'_>) -> bool {
        let Some(cable) = &mut self.cable else { return false };
        let to = datagram.destination;
        if self.addresses.host(to.ip()) != Some(Host::Dns) || to.port() != DNS_PORT {
            return false;
        }
        let answer = cable.answer(datagram.payload);
        // Where nothing leads out, there is nobody else to ask.
        let answer = answer.or_else(|| names::refuse(datagram.payload).filter(|_| self.restrict));
        if let Some(answer) = &answer {
            self.stack.link.out.send_udp(datagram.destination, datagram.source, answer);
        }
        answer.is_some()
    }

    /// Whether this is between the guest and one other end: groups get neither service nor errors (RFC 1122, 3.2.2).
    fn is_exchange(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        self.addresses.is_guest(source.ip()) && !self.addresses.is_group(destination.ip())
    }
}

/// Whether a frame on a named network is the gateway's business: sent to it, or a question that it answers.
fn is_for_the_gateway(frame: &[u8], addresses: &Addresses) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    if ethernet.dst_addr().is_unicast() {
        return ethernet.dst_addr().0 == HOST_MAC;
    }
    match wire::parse(frame) {
        Some((_, Packet::Arp(ArpRepr::EthernetIpv4 { target_protocol_addr, .. }))) => {
            addresses.host(target_protocol_addr.into()).is_some()
        }
        Some((_, Packet::Solicitation(Solicitation::Router))) => true,
        Some((_, Packet::Solicitation(Solicitation::Neighbour { target, .. }))) => {
            addresses.host(target.into()).is_some()
        }
        Some((_, Packet::Udp(datagram))) => datagram.destination.port() == dhcp::SERVER_PORT,
        _ => false,
    }
}

/// A network without its thread, for fuzzing: it takes frames, makes answers, and reaches nothing of the host.
#[doc(hidden)]
pub struct Isolated(Engine, Arc<Queues>);

impl Isolated {
    /// A network cut off from the host.
    ///
    /// # Errors
    /// The host refuses descriptors.
    pub fn new() -> Result<Self, NetError> {
        let queues = Arc::new(Queues::new()?);
        let options = NetOptions { restrict: true, ..NetOptions::default() };
        Ok(Self(Engine::new(&options, Arc::clone(&queues), Arc::new(|| ()))?, queues))
    }

    /// Takes one frame and returns the answers.
    pub fn exchange(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.1.send(frame);
        if self.0.turn(Duration::ZERO).is_err() {
            return Vec::new();
        }
        let mut answers = Vec::new();
        let mut answer = Vec::new();
        while self.1.receive(&mut answer) {
            answers.push(std::mem::take(&mut answer));
        }
        answers
    }
}
