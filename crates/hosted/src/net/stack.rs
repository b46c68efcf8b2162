//! smoltcp as the gateway's TCP: it accepts connections to any address.

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpProtocol};

use super::addresses::Addresses;
use super::link::{Link, Unreachable};
use super::wire::Segment;

/// Bytes of a packet's payload that an error quotes (RFC 792).
const QUOTED: usize = 8;

/// The gateway's protocol stack.
pub(super) struct Stack {
    pub(super) interface: Interface,
    pub(super) link: Link,
    pub(super) now: Instant,
    start: std::time::Instant,
}

impl Stack {
    /// `seed` makes sequence numbers unpredictable.
    pub(super) fn new(mtu: u16, seed: u64, own: Addresses) -> Self {
        let mut link = Link::new(mtu, own);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, Instant::ZERO);
        interface.set_any_ip(true);
        // None can fail: the tables have room for at least two entries.
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(own.gateway.into(), Addresses::PREFIX));
            let _ = addresses.push(IpCidr::new(own.gateway6.into(), Addresses::PREFIX6));
        });
        let _ = interface.routes_mut().add_default_ipv4_route(own.gateway);
        let _ = interface.routes_mut().add_default_ipv6_route(own.gateway6);
        Self { interface, link, now: Instant::ZERO, start: std::time::Instant::now() }
    }

    /// Looks at the clock.
    pub(super) fn tick(&mut self) {
        self.now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
    }

    /// Gives an IP packet to the sockets; without one that wants it, TCP answers with a reset.
    pub(super) fn ingress(&mut self, packet: &[u8], sockets: &mut SocketSet<'_>) {
        self.link.arrive(packet);
        self.interface.poll_ingress_single(self.now, &mut self.link, sockets);
    }

    /// Answers a TCP packet that belongs to no connection with a reset.
    pub(super) fn refuse(&mut self, packet: &[u8]) {
        self.ingress(packet, &mut SocketSet::new(Vec::new()));
    }

    /// Sends what the sockets have to send, as long as there is room.
    pub(super) fn egress(&mut self, sockets: &mut SocketSet<'_>) {
        while self.link.out.has_room() {
            if self.interface.poll_egress(self.now, &mut self.link, sockets) == PollResult::None {
                return;
            }
        }
        self.link.out.stalled = true;
    }

    /// Tells the guest that its segment doesn't reach its destination.
    pub(super) fn unreachable(&mut self, segment: &Segment<'_>, reason: Unreachable) {
        let data = &segment.bytes()[..QUOTED];
        let (from, to) = (segment.source.ip(), segment.destination.ip());
        self.link.out.send_unreachable(reason, from, to, IpProtocol::Tcp, data);
    }
}
