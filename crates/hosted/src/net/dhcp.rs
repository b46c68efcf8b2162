//! The DHCP server (RFC 2131): one address for one guest, always the same.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use super::addresses::Addresses;

/// UDP port of DHCP servers.
pub(super) const SERVER_PORT: u16 = 67;
/// UDP port of DHCP clients.
const CLIENT_PORT: u16 = 68;
/// A day, in seconds.
const LEASE: u32 = 86_400;

/// Option numbers (RFC 2132) that smoltcp doesn't name.
const HOST_NAME: u8 = 12;
const INTERFACE_MTU: u8 = 26;

/// What the server tells the guest besides addresses.
pub(super) struct Dhcp {
    pub(super) addresses: Addresses,
    pub(super) hostname: Option<String>,
    pub(super) mtu: u16,
    /// Whether there is something behind the gateway: else the guest is told of no router.
    pub(super) routes: bool,
    /// Whether there is a DNS server.
    pub(super) resolves: bool,
}

impl Dhcp {
    /// The answer to a client's message, and where it goes.
    pub(super) fn answer(&self, message: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let own = &self.addresses;
        let kind = answer_kind(&request, own)?;
        let mtu = self.mtu.to_be_bytes();
        let mut options = vec![DhcpOption { kind: INTERFACE_MTU, data: &mtu }];
        if let Some(name) = &self.hostname {
            options.push(DhcpOption { kind: HOST_NAME, data: name.as_bytes() });
        }
        let mut reply = empty_reply(&request, kind, own.gateway);
        if kind != DhcpMessageType::Nak {
            let leases = request.message_type != DhcpMessageType::Inform;
            reply.your_ip = if leases { own.guest } else { Ipv4Addr::UNSPECIFIED };
            reply.lease_duration = leases.then_some(LEASE);
            reply.subnet_mask = Some(Addresses::MASK);
            reply.additional_options = &options;
            reply.router = self.routes.then_some(own.gateway);
            reply.dns_servers = self.resolves.then(|| [own.dns].into_iter().collect());
        }
        let mut buffer = vec![0; reply.buffer_len()];
        reply.emit(&mut DhcpPacket::new_unchecked(&mut buffer[..])).ok()?;
        let to = SocketAddrV4::new(destination(&request, kind, own), CLIENT_PORT);
        Some((to.into(), buffer))
    }
}

/// What kind of answer a message gets, if any.
fn answer_kind(request: &DhcpRepr<'_>, own: &Addresses) -> Option<DhcpMessageType> {
    let ours = request.server_identifier.is_none_or(|server| server == own.gateway);
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Request if ours => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            Some(if wanted == own.guest { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        _ => None,
    }
}

/// Where the answer goes (RFC 2131, 4.1): clients without an address are reached by broadcast.
fn destination(request: &DhcpRepr<'_>, kind: DhcpMessageType, own: &Addresses) -> Ipv4Addr {
    if kind == DhcpMessageType::Nak || !own.is_guest(request.client_ip.into()) {
        Ipv4Addr::BROADCAST
    } else {
        request.client_ip
    }
}

fn empty_reply(request: &DhcpRepr<'_>, kind: DhcpMessageType, gateway: Ipv4Addr) -> DhcpRepr<'static> {
    DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: request.client_ip,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: gateway,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(gateway),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::EthernetAddress;

    use super::super::tests::{DNS_SERVER, GATEWAY, GUEST};
    use super::*;

    fn request(kind: DhcpMessageType, requested: Option<Ipv4Addr>, client: Ipv4Addr) -> Vec<u8> {
        let blank = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            client_hardware_address: EthernetAddress([2, 0, 0, 0, 0, 1]),
            requested_ip: requested,
            client_ip: client,
            ..empty_reply(
                &DhcpRepr::parse(&DhcpPacket::new_unchecked(&template()[..])).unwrap(),
                DhcpMessageType::Discover,
                GATEWAY,
            )
        };
        let message = DhcpRepr { server_identifier: None, ..blank };
        let mut buffer = vec![0; message.buffer_len()];
        message.emit(&mut DhcpPacket::new_unchecked(&mut buffer[..])).unwrap();
        buffer
    }

    /// A minimal DISCOVER, by hand.
    fn template() -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend_from_slice(&[53, 1, 1, 255]);
        bytes
    }

    fn dhcp() -> Dhcp {
        Dhcp {
            hostname: Some("debian".into()),
            mtu: 1500,
            addresses: Addresses::USER,
            routes: true,
            resolves: true,
        }
    }

    const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    #[test]
    fn discover_gets_an_offer_with_all_options() {
        let message = request(DhcpMessageType::Discover, None, NOBODY);
        let (to, answer) = dhcp().answer(&message).unwrap();
        assert_eq!(to, SocketAddr::from((Ipv4Addr::BROADCAST, 68)));
        let packet = DhcpPacket::new_checked(&answer[..]).unwrap();
        let offer = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(offer.message_type, DhcpMessageType::Offer);
        assert_eq!((offer.your_ip, offer.router), (GUEST, Some(GATEWAY)));
        assert_eq!(offer.dns_servers.unwrap().as_slice(), [DNS_SERVER]);
        let name = packet.options().find(|option| option.kind == HOST_NAME).unwrap();
        assert_eq!(name.data, b"debian");
    }

    #[test]
    fn request_for_another_address_is_refused() {
        let kind = |requested, client| {
            let message = request(DhcpMessageType::Request, requested, client);
            let (_, answer) = dhcp().answer(&message).unwrap();
            DhcpRepr::parse(&DhcpPacket::new_checked(&answer[..]).unwrap()).unwrap().message_type
        };
        assert_eq!(kind(Some(GUEST), NOBODY), DhcpMessageType::Ack);
        assert_eq!(kind(None, GUEST), DhcpMessageType::Ack);
        assert_eq!(kind(Some(Ipv4Addr::new(192, 168, 1, 5)), NOBODY), DhcpMessageType::Nak);
    }

    #[test]
    fn garbage_gets_no_answer() {
        let message = request(DhcpMessageType::Discover, None, NOBODY);
        for length in 0..message.len() - 12 {
            assert!(length >= 240 || dhcp().answer(&message[..length]).is_none());
        }
        assert!(dhcp().answer(&request(DhcpMessageType::Release, None, GUEST)).is_none());
    }
}
