//! What a network offers.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use super::member::Member;

/// Smallest MTU that IPv4 allows a host to be asked for (RFC 791: 576), and the largest.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 576..=65521;

/// What a network offers to its guest.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
    /// Host name that DHCP tells the guest.
    pub hostname: Option<String>,
    /// Whether the guest is cut off from everything but DHCP, pings of the gateway, and `forwards`.
    pub restrict: bool,
    /// Largest IP packet in bytes, 576 to 65521; DHCP tells it to the guest. 1500 is what everything
    /// understands; more saves the guest work.
    pub mtu: u16,
    /// DNS servers that answer for 10.0.2.3; empty takes those of the host's `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// The named network that the guest shares with others; else it has one for itself.
    pub member: Option<Arc<Member>>,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            forwards: Vec::new(),
            hostname: None,
            restrict: false,
            mtu: 1500,
            resolvers: Vec::new(),
            member: None,
        }
    }
}

impl NetOptions {
    /// Checks what the types don't.
    pub(super) fn check(&self) -> Result<(), NetError> {
        if !MTU_RANGE.contains(&self.mtu) {
            return Err(NetError::Mtu(self.mtu));
        }
        match &self.hostname {
            Some(name) if !is_hostname(name) => Err(NetError::Hostname(name.clone())),
            _ => Ok(()),
        }
    }
}

/// Whether `name` is one that DHCP option 12 may carry: letters, digits, hyphens and dots, up to 63 bytes.
fn is_hostname(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

/// TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to a port of the guest, as users write it: `8080:80`, `5353:53/udp`,
/// `0.0.0.0:8080:80`, `[::1]:8080:80`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where this process listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// A port forward that isn't written as `[ADDRESS:]HOST:GUEST[/udp]`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "port forward `{0}` is not [ADDRESS:]HOST:GUEST[/udp], as in 8080:80, 127.0.0.1:5353:53/udp or [::1]:8080:80"
)]
pub struct ParseForwardError(String);

impl FromStr for Forward {
    type Err = ParseForwardError;

    fn from_str(text: &str) -> Result<Self, ParseForwardError> {
        parse_forward(text).ok_or_else(|| ParseForwardError(text.into()))
    }
}

fn parse_forward(text: &str) -> Option<Forward> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return None,
        None => (text, Protocol::Tcp),
    };
    let (rest, guest) = ports.rsplit_once(':')?;
    let (address, host) = match rest.rsplit_once(':') {
        // An IPv6 address stands in brackets, since it has colons of its own (RFC 3986, 3.2.2).
        Some((address, host)) => match address.strip_prefix('[') {
            Some(rest) => (IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?), host),
            None => (IpAddr::V4(address.parse().ok()?), host),
        },
        None => (Ipv4Addr::LOCALHOST.into(), rest),
    };
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    Some(Forward { protocol, host: SocketAddr::new(address, port(host)?), guest: port(guest)? })
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.guest, self.protocol)
    }
}

/// Why a network can't be made, in one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A forward's port can't be listened on.
    #[error("cannot listen on {protocol} port {address}: {source}: choose another port to forward")]
    Listen {
        /// TCP or UDP.
        protocol: Protocol,
        /// Where.
        address: SocketAddr,
        /// The host's error.
        source: io::Error,
    },
    /// The MTU is out of range.
    #[error("an MTU of {0} is not possible: choose one from 576 to 65521")]
    Mtu(u16),
    /// The host name has characters or a length that DHCP can't carry.
    #[error("`{0}` is not a host name: use up to 63 letters, digits and hyphens")]
    Hostname(String),
    /// The host refused what every network needs.
    #[error("cannot make the network: {0}")]
    Host(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_users_write_them() {
        let forward =
            |protocol, host: &str, guest| Ok(Forward { protocol, host: host.parse().unwrap(), guest });
        assert_eq!("8080:80".parse(), forward(Protocol::Tcp, "127.0.0.1:8080", 80));
        assert_eq!("8080:80/tcp".parse(), forward(Protocol::Tcp, "127.0.0.1:8080", 80));
        assert_eq!("5353:53/udp".parse(), forward(Protocol::Udp, "127.0.0.1:5353", 53));
        assert_eq!("0.0.0.0:1:2".parse(), forward(Protocol::Tcp, "0.0.0.0:1", 2));
        assert_eq!("[::1]:8080:80".parse(), forward(Protocol::Tcp, "[::1]:8080", 80));
        assert_eq!("[::]:53:53/udp".parse(), forward(Protocol::Udp, "[::]:53", 53));
        let written = "[fd00::1]:1:2/tcp";
        assert_eq!(written.parse::<Forward>().unwrap().to_string(), written);
    }

    #[test]
    fn wrong_forwards_are_refused() {
        for text in [
            "",
            "80",
            "0:80",
            "80:0",
            "a:b",
            "80:70000",
            "1:2/sctp",
            "x:1:2",
            "::1:1:2",
            "1:2:3",
            "[::1:1:2",
            "::1]:1:2",
            "[1.2.3.4]:1:2",
        ] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        assert!(NetOptions { mtu: 500, ..NetOptions::default() }.check().is_err());
        assert!(NetOptions { hostname: Some("a b".into()), ..NetOptions::default() }.check().is_err());
        assert!(NetOptions { hostname: Some("debian".into()), ..NetOptions::default() }.check().is_ok());
    }
}
