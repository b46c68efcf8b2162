//! A network for the guest that needs no privileges on the host.
//!
//! Key types: [`NetOptions`] and [`Forward`] say what the network offers, [`UserNetwork`] is the
//! [`rvisor_waist::NetBackend`]. The guest sees an Ethernet with the network 10.0.2.0/24: itself at
//! 10.0.2.15 (leased by DHCP), a gateway at 10.0.2.2 and a DNS server at 10.0.2.3, as with QEMU's user
//! network; and the same with IPv6 in fd00:10:0:2::/64, where it makes its address itself.
//!
//! What leaves the guest ends at the gateway and goes on as ordinary sockets of this process: TCP connections
//! are spliced, UDP exchanges and pings translated. The host's own services (127.0.0.1, ::1) are reached at
//! 10.0.2.2 and fd00:10:0:2::2. Nothing reaches the guest unasked except through [`Forward`]s.
//!
//! Not for multicast, and not for IP options, IPv6 extension headers or fragmented TCP.
//!
//! On a *named* network ([`PrivateNetwork`]) there are other machines too, each with a gateway of its own: `member` says who
//! they are, `cable` carries frames between them, `names` answers DNS queries for them.
//!
//! A [`Tap`] device is none of this: there the host's administrator says what the guest reaches.
//!
//! One thread per network does all of it: `engine` is its loop; `tcp`, `datagram`, `forward`, `dhcp`, `discovery` and
//! `resolver` are what it knows; `wire` reads frames, `link` makes them, and carries IP packets for smoltcp,
//! the TCP implementation that faces the guest.
//!
//! Memory is bounded: numbers of flows, bytes in each flow's buffers and bytes of queued frames have limits.
//! TCP that meets a limit waits (its window closes); datagrams that meet one are dropped.

mod addresses;
mod cable;
mod datagram;
mod dhcp;
mod discovery;
mod engine;
mod forward;
mod fragment;
mod link;
mod member;
mod names;
mod options;
mod poller;
mod ports;
mod queue;
mod resolver;
mod stack;
mod tap;
mod tcp;
mod user;
mod wire;

#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use cable::take_datagram;
#[doc(hidden)]
pub use engine::Isolated;
pub use member::{Listed, Member, NUMBERS, Place, PrivateNetwork, members, rename_member};
#[doc(hidden)]
pub use names::answer_query;
pub use options::{Forward, NetError, NetOptions, ParseForwardError, Protocol};
pub use ports::Ports;
pub use tap::{BadTapName, Tap, TapError, TapName, TapNetwork};
pub use user::UserNetwork;

/// Hardware address of the gateway and the DNS server: locally administered, from their address.
const HOST_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
