//! Who has which address on a guest's network.

use std::net::Ipv4Addr;

/// The addresses of a network as its guest is told them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    /// The gateway: it answers pings, and its TCP and UDP ports are the host's at 127.0.0.1.
    pub gateway: Ipv4Addr,
    /// The DNS server: queries go on to the host's resolvers.
    pub dns: Ipv4Addr,
    /// The address leased to the guest; forwards lead there.
    pub guest: Ipv4Addr,
    /// Whether the guest may have that address only, because others share the network.
    pub shared: bool,
}

impl Addresses {
    /// Bits of the network prefix, and its mask.
    pub const PREFIX: u8 = 24;
    pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

    /// Of the network that a guest has for itself.
    pub const USER: Self = Self {
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        dns: Ipv4Addr::new(10, 0, 2, 3),
        guest: Ipv4Addr::new(10, 0, 2, 15),
        shared: false,
    };

    /// Of a guest that is number `host` on the network of this prefix.
    pub fn shared([a, b, c]: [u8; 3], host: u8) -> Self {
        let address = |host| Ipv4Addr::new(a, b, c, host);
        Self { gateway: address(1), dns: address(2), guest: address(host), shared: true }
    }

    /// The network's first three bytes.
    pub fn prefix(&self) -> [u8; 3] {
        let [a, b, c, _] = self.gateway.octets();
        [a, b, c]
    }

    /// Whether an address belongs to the network.
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.prefix()
    }

    /// Whether the guest may use `address` as its own.
    pub fn is_guest(&self, address: Ipv4Addr) -> bool {
        if self.shared {
            return address == self.guest;
        }
        self.is_local(address)
            && address != self.gateway
            && address != self.dns
            && !matches!(address.octets()[3], 0 | 255)
    }
}
