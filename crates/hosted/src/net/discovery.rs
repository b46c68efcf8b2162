//! The gateway as a router of IPv6 (RFC 4861): it answers who asks for it, and says what the guest needs to make its
//! addresses itself (RFC 4862) and to find a DNS server (RFC 8106).
//!
//! Not for DHCPv6: there is nothing that it could add. Not a guest's neighbour on a named network, whose own business it
//! is to answer for its addresses.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::HOST_MAC;
use super::addresses::{Addresses, GATEWAY_LINK_LOCAL, Host};
use super::link::Outgoing;
use super::wire::Solicitation;

/// Types of messages, and of options.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const DNS_SERVERS: u8 = 25;

/// Flags of a neighbour advertisement: a router, asked for, the newest.
const IS_ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDES: u8 = 0x20;
/// Flags of a prefix: on this link, and for hosts to make addresses of.
const ON_LINK_AUTONOMOUS: u8 = 0xc0;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const HOP_LIMIT: u8 = 64;
/// How long the guest may use the router without hearing of it, in seconds, and how often it hears.
const LIFETIME: u16 = 1800;
const REPEAT: Duration = Duration::from_secs(600);
/// Addresses don't expire: the network is there as long as the guest.
const FOREVER: [u8; 4] = [0xff; 4];
/// How often the host is asked whether it has a way out.
const LOOK: Duration = Duration::from_secs(30);
/// An address of the Internet that is nobody's: a way there is the way out.
const OUT_THERE: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);

/// What the router says, and when.
pub(super) struct Discovery {
    addresses: Addresses,
    /// Whether the guest may go out, if there is a way.
    routes: bool,
    /// Whether there is a DNS server.
    resolves: bool,
    /// Whether the host has a way out, and when that was found.
    has_route: bool,
    looked: Instant,
    said: Instant,
}

impl Discovery {
    pub(super) fn new(addresses: Addresses, routes: bool, resolves: bool) -> Self {
        let now = Instant::now();
        let has_route = routes && has_route();
        Self { addresses, routes, resolves, has_route, looked: now, said: now }
    }

    /// Answers the guest.
    pub(super) fn answer(&mut self, out: &mut Outgoing, asked: Solicitation) {
        match asked {
            Solicitation::Router => {
                self.look(Instant::now());
                self.advertise(out);
            }
            Solicitation::Neighbour { source, target } => self.advertise_host(out, source, target),
        }
    }

    /// Says again what may be forgotten, or isn't so any more; to be called now and then.
    pub(super) fn tick(&mut self, out: &mut Outgoing) {
        let now = Instant::now();
        let before = self.has_route;
        if now.duration_since(self.looked) >= LOOK {
            self.look(now);
        }
        if now.duration_since(self.said) >= REPEAT || before != self.has_route {
            self.advertise(out);
        }
    }

    fn look(&mut self, now: Instant) {
        self.looked = now;
        self.has_route = self.routes && has_route();
    }

    fn advertise(&mut self, out: &mut Outgoing) {
        self.said = Instant::now();
        if out.has_ipv6() {
            out.send_discovery(GATEWAY_LINK_LOCAL, ALL_NODES, &mut self.advertisement(out.mtu()));
        }
    }

    /// A router advertisement (4.2). A router without a way out says that it is none by default.
    fn advertisement(&self, mtu: usize) -> Vec<u8> {
        let lifetime = if self.has_route { LIFETIME } else { 0 };
        let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, 0];
        message.extend(lifetime.to_be_bytes());
        // How long neighbours are reachable, and when to ask them again: as the guest thinks.
        message.extend([0; 8]);
        message.extend([SOURCE_ADDRESS, 1]);
        message.extend(HOST_MAC);
        message.extend([MTU, 1, 0, 0]);
        message.extend((mtu as u32).to_be_bytes());
        message.extend([PREFIX, 4, Addresses::PREFIX6, ON_LINK_AUTONOMOUS]);
        message.extend([FOREVER, FOREVER, [0; 4]].concat());
        message.extend(self.addresses.prefix6().octets());
        if self.resolves {
            message.extend([DNS_SERVERS, 3, 0, 0]);
            message.extend(FOREVER);
            message.extend(self.addresses.dns6.octets());
        }
        message
    }

    /// A neighbour advertisement (4.4) of one of the network's own hosts.
    fn advertise_host(&self, out: &mut Outgoing, asker: Ipv6Addr, target: Ipv6Addr) {
        let Some(host) = self.addresses.host(target.into()).filter(|_| out.has_ipv6()) else { return };
        let router = if host == Host::Gateway { IS_ROUTER } else { 0 };
        // Who has no address yet asks whether this one is free, and can't be answered alone.
        let (to, solicited) = match asker.is_unspecified() {
            true => (ALL_NODES, 0),
            false => (asker, SOLICITED),
        };
        let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, router | solicited | OVERRIDES, 0, 0, 0];
        message.extend(target.octets());
        message.extend([TARGET_ADDRESS, 1]);
        message.extend(HOST_MAC);
        out.send_discovery(target, to, &mut message);
    }
}

/// Whether the host has a route to the Internet. Nothing is sent.
fn has_route() -> bool {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    socket.is_ok_and(|socket| socket.connect(SocketAddr::from((OUT_THERE, 9))).is_ok())
}
