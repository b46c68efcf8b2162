//! Who has which address on a guest's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of a network as its guest is told them.
///
/// Its IPv6 addresses are unique local ones (RFC 4193) that read like the IPv4 ones: beside 10.0.2.0/24 there is
/// fd00:10:0:2::/64, and the gateway is 10.0.2.2 and fd00:10:0:2::2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    /// The gateway: it answers pings, and its TCP and UDP ports are the host's at 127.0.0.1.
    pub gateway: Ipv4Addr,
    /// The same with IPv6; the host's at ::1.
    pub gateway6: Ipv6Addr,
    /// The DNS server: queries go on to the host's resolvers.
    pub dns: Ipv4Addr,
    /// The same with IPv6.
    pub dns6: Ipv6Addr,
    /// The address leased to the guest; forwards lead there.
    pub guest: Ipv4Addr,
    /// Whether the guest may have that address only, because others share the network.
    pub shared: bool,
}

/// Where a packet for the network's own hosts goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Host {
    Gateway,
    Dns,
}

impl Addresses {
    /// Bits of the network prefix, and its mask.
    pub const PREFIX: u8 = 24;
    pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
    /// Bits of the IPv6 prefix: what remains is an interface identifier.
    pub const PREFIX6: u8 = 64;

    /// Of the network that a guest has for itself.
    pub const USER: Self = Self::new([10, 0, 2], [2, 3, 15], false);

    /// Of a guest that is number `host` on the network of this prefix.
    pub fn shared(prefix: [u8; 3], host: u8) -> Self {
        Self::new(prefix, [1, 2, host], true)
    }

    const fn new(prefix: [u8; 3], [gateway, dns, guest]: [u8; 3], shared: bool) -> Self {
        let [a, b, c] = prefix;
        Self {
            gateway: Ipv4Addr::new(a, b, c, gateway),
            gateway6: in_prefix(prefix, [0, 0, 0, 0, 0, 0, 0, gateway]),
            dns: Ipv4Addr::new(a, b, c, dns),
            dns6: in_prefix(prefix, [0, 0, 0, 0, 0, 0, 0, dns]),
            guest: Ipv4Addr::new(a, b, c, guest),
            shared,
        }
    }

    /// The network's first three bytes.
    pub fn prefix(&self) -> [u8; 3] {
        let [a, b, c, _] = self.gateway.octets();
        [a, b, c]
    }

    /// The IPv6 prefix, as an address.
    pub fn prefix6(&self) -> Ipv6Addr {
        in_prefix(self.prefix(), [0; 8])
    }

    /// Whether an address belongs to the network.
    pub fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[..3] == self.prefix(),
            IpAddr::V6(address) => address.octets()[..8] == self.gateway6.octets()[..8],
        }
    }

    /// Which of the network's own hosts has this address.
    pub fn host(&self, address: IpAddr) -> Option<Host> {
        if [IpAddr::V4(self.gateway), self.gateway6.into(), GATEWAY_LINK_LOCAL.into()].contains(&address) {
            return Some(Host::Gateway);
        }
        [IpAddr::V4(self.dns), self.dns6.into()].contains(&address).then_some(Host::Dns)
    }

    /// Whether the guest may use `address` as its own.
    pub fn is_guest(&self, address: IpAddr) -> bool {
        if self.host(address).is_some() {
            return false;
        }
        match address {
            IpAddr::V4(v4) if self.shared => v4 == self.guest,
            IpAddr::V4(v4) => self.is_local(address) && !matches!(v4.octets()[3], 0 | 255),
            // It may make as many as it likes (RFC 8981).
            IpAddr::V6(v6) => self.is_local(address) || v6.is_unicast_link_local(),
        }
    }

    /// Whether this is the broadcast address, or a group's.
    pub fn is_group(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => {
                v4.is_multicast() || v4.is_broadcast() || self.is_local(address) && v4.octets()[3] == 255
            }
            IpAddr::V6(v6) => v6.is_multicast(),
        }
    }

    /// Whether packets for `address` may leave through the gateway. The host's loopback is reached at the gateway's
    /// address only (also by its other names: RFC 4291, 2.5.5), and link-local addresses are not routed (RFC 3927, 7).
    pub fn is_public(&self, address: IpAddr) -> bool {
        let reserved = match address {
            IpAddr::V4(v4) => {
                v4.octets()[0] == 0 || v4.octets()[0] >= 240 || v4.is_loopback() || v4.is_link_local()
            }
            IpAddr::V6(v6) => v6.to_ipv4().is_some() || v6.is_loopback() || v6.is_unicast_link_local(),
        };
        !(reserved || address.is_multicast() || address.is_unspecified() || self.is_local(address))
    }
}

/// The gateway's address for its neighbours: of its hardware address.
pub(super) const GATEWAY_LINK_LOCAL: Ipv6Addr =
    Ipv6Addr::from_octets(joined([0xfe, 0x80, 0, 0, 0, 0, 0, 0], interface_identifier(super::HOST_MAC)));

/// The address of this interface identifier on the network of this prefix, whose bytes are written as IPv4 does: 10.89.0
/// is in fd00:10:89::/64.
pub(super) const fn in_prefix([a, b, c]: [u8; 3], identifier: [u8; 8]) -> Ipv6Addr {
    let [a, b, c] = [as_written(a), as_written(b), as_written(c)];
    Ipv6Addr::from_octets(joined([0xfd, 0, a[0], a[1], b[0], b[1], c[0], c[1]], identifier))
}

/// The interface identifier that a host makes of its hardware address (RFC 4291, appendix A: modified EUI-64).
pub(super) const fn interface_identifier([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// The hexadecimal number that is written like this decimal one.
const fn as_written(byte: u8) -> [u8; 2] {
    [byte / 100, byte / 10 % 10 * 16 + byte % 10]
}

const fn joined([a, b, c, d, e, f, g, h]: [u8; 8], [i, j, k, l, m, n, o, p]: [u8; 8]) -> [u8; 16] {
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_both_families_read_alike() {
        let own = Addresses::USER;
        assert_eq!(
            (own.gateway6, own.dns6),
            ("fd00:10:0:2::2".parse().unwrap(), "fd00:10:0:2::3".parse().unwrap())
        );
        let own = Addresses::shared([192, 168, 7], 12);
        assert_eq!(own.gateway6, "fd00:192:168:7::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(GATEWAY_LINK_LOCAL, "fe80::5055:aff:fe00:202".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn hosts_loopback_has_no_other_name() {
        let own = Addresses::USER;
        let closed =
            ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:10.0.2.2"];
        let local =
            ["169.254.1.1", "fe80::1", "10.0.2.9", "fd00:10:0:2::9", "ff02::1", "224.0.0.1", "240.0.0.1"];
        for text in closed.iter().chain(&local) {
            assert!(!own.is_public(ip(text)), "{text}");
        }
        for text in ["192.0.2.1", "10.0.3.1", "2001:db8::1", "fd00:10:0:3::1"] {
            assert!(own.is_public(ip(text)), "{text}");
        }
    }

    #[test]
    fn guest_is_who_is_neither_gateway_nor_server() {
        let own = Addresses::USER;
        for text in ["10.0.2.15", "10.0.2.77", "fd00:10:0:2::15", "fe80::1234"] {
            assert!(own.is_guest(ip(text)), "{text}");
        }
        for text in [
            "10.0.2.2",
            "10.0.2.3",
            "10.0.2.255",
            "fd00:10:0:2::2",
            "fe80::5055:aff:fe00:202",
            "::",
            "2001:db8::1",
        ] {
            assert!(!own.is_guest(ip(text)), "{text}");
        }
    }
}
