//! The DHCP server (RFC 2131): one address for one guest, always the same.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use super::{DNS_SERVER, GATEWAY, GUEST};

/// UDP port of DHCP servers.
pub(super) const SERVER_PORT: u16 = 67;
/// UDP port of DHCP clients.
const CLIENT_PORT: u16 = 68;
/// A day, in seconds.
const LEASE: u32 = 86_400;
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// Option numbers (RFC 2132) that smoltcp doesn't name.
const HOST_NAME: u8 = 12;
const INTERFACE_MTU: u8 = 26;

/// What the server tells the guest besides addresses.
pub(super) struct Dhcp {
    pub(super) hostname: Option<String>,
    pub(super) mtu: u16,
    /// Whether there is nothing behind the gateway: the guest is told neither router nor DNS server.
    pub(super) restrict: bool,
}

impl Dhcp {
    /// The answer to a client's message, and where it goes.
    pub(super) fn answer(&self, message: &[u8]) -> Option<(SocketAddrV4, Vec<u8>)> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let kind = answer_kind(&request)?;
        let mtu = self.mtu.to_be_bytes();
        let mut options = vec![DhcpOption { kind: INTERFACE_MTU, data: &mtu }];
        if let Some(name) = &self.hostname {
            options.push(DhcpOption { kind: HOST_NAME, data: name.as_bytes() });
        }
        let mut reply = empty_reply(&request, kind);
        if kind != DhcpMessageType::Nak {
            let leases = request.message_type != DhcpMessageType::Inform;
            reply.your_ip = if leases { GUEST } else { Ipv4Addr::UNSPECIFIED };
            reply.lease_duration = leases.then_some(LEASE);
            reply.subnet_mask = Some(NETMASK);
            reply.additional_options = &options;
            if !self.restrict {
                reply.router = Some(GATEWAY);
                reply.dns_servers = Some([DNS_SERVER].into_iter().collect());
            }
        }
        let mut buffer = vec![0; reply.buffer_len()];
        reply.emit(&mut DhcpPacket::new_unchecked(&mut buffer[..])).ok()?;
        Some((SocketAddrV4::new(destination(&request, kind), CLIENT_PORT), buffer))
    }
}

/// What kind of answer a message gets, if any.
fn answer_kind(request: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
    let ours = request.server_identifier.is_none_or(|server| server == GATEWAY);
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Request if ours => {
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            Some(if wanted == GUEST { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        _ => None,
    }
}

/// Where the answer goes (RFC 2131, 4.1): clients without an address are reached by broadcast.
fn destination(request: &DhcpRepr<'_>, kind: DhcpMessageType) -> Ipv4Addr {
    if kind == DhcpMessageType::Nak || !super::is_guest(request.client_ip) {
        Ipv4Addr::BROADCAST
    } else {
        request.client_ip
    }
}

fn empty_reply(request: &DhcpRepr<'_>, kind: DhcpMessageType) -> DhcpRepr<'static> {
    DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: request.client_ip,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: GATEWAY,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
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
        Dhcp { hostname: Some("debian".into()), mtu: 1500, restrict: false }
    }

    const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    #[test]
    fn discover_gets_an_offer_with_all_options() {
        let message = request(DhcpMessageType::Discover, None, NOBODY);
        let (to, answer) = dhcp().answer(&message).unwrap();
        assert_eq!(to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
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
