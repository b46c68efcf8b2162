//! A guest for tests: a second smoltcp stack on the other end of the cable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rvisor_waist::NetBackend;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::{GATEWAY, GATEWAY6, GUEST};
use crate::net::{NetOptions, UserNetwork};

const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// Longer than anything on loopback takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// The guest's network card.
pub(super) struct Card {
    pub(super) network: UserNetwork,
    mtu: usize,
}

pub(super) struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub(super) struct Sent<'a>(&'a mut UserNetwork);

impl phy::TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sent<'_>)> {
        let mut frame = Vec::new();
        if self.network.receive(&mut frame) { Some((Received(frame), Sent(&mut self.network))) } else { None }
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.network))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

pub(super) struct Guest {
    pub(super) card: Card,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    woken: Receiver<()>,
    start: Instant,
    last_port: u16,
}

impl Guest {
    /// A guest with its address set by hand.
    pub(super) fn new(options: &NetOptions) -> Self {
        let mut guest = Self::without_address(options);
        guest.set_address(GUEST);
        guest
    }

    pub(super) fn without_address(options: &NetOptions) -> Self {
        let (sender, woken) = channel();
        let sender = Mutex::new(sender);
        let wake = Arc::new(move || {
            let _ = sender.lock().unwrap().send(());
        });
        let network = UserNetwork::new(options, wake).unwrap();
        let mut card = Card { network, mtu: usize::from(options.mtu) };
        let start = Instant::now();
        let config = Config::new(HardwareAddress::Ethernet(MAC));
        let interface = Interface::new(config, &mut card, smoltcp::time::Instant::ZERO);
        let sockets = SocketSet::new(Vec::new());
        Self { card, interface, sockets, woken, start, last_port: 40_000 }
    }

    pub(super) fn set_address(&mut self, address: Ipv4Addr) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::new(address.into(), 24)).unwrap();
        });
        self.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
    }

    /// Gives it an IPv6 address as well.
    pub(super) fn set_address6(&mut self, address: Ipv6Addr) {
        self.interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), 64)).unwrap());
        self.interface.routes_mut().add_default_ipv6_route(GATEWAY6).unwrap();
    }

    /// Lets both stacks work until `done` gives something.
    #[track_caller]
    pub(super) fn until<R>(&mut self, mut done: impl FnMut(&mut Self) -> Option<R>) -> R {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.card, &mut self.sockets);
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < end, "nothing happened");
            let delay = self.interface.poll_delay(now, &self.sockets).map(Duration::from);
            let wait = delay.unwrap_or(Duration::from_millis(5)).min(Duration::from_millis(5));
            if !wait.is_zero() {
                let _ = self.woken.recv_timeout(wait);
            }
        }
    }

    /// Starts to open a connection.
    pub(super) fn connect(&mut self, address: impl Into<IpAddr>, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.last_port += 1;
        socket.connect(self.interface.context(), (address.into(), port), self.last_port).unwrap();
        self.sockets.add(socket)
    }

    /// Opens a connection.
    #[track_caller]
    pub(super) fn connected(&mut self, address: impl Into<IpAddr>, port: u16) -> SocketHandle {
        let handle = self.connect(address, port);
        self.until(|guest| {
            assert_ne!(guest.tcp(handle).state(), tcp::State::Closed, "refused");
            guest.tcp(handle).may_send().then_some(())
        });
        handle
    }

    /// A socket that waits for a connection.
    pub(super) fn listen(&mut self, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub(super) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    #[track_caller]
    pub(super) fn write(&mut self, handle: SocketHandle, mut data: &[u8]) {
        while !data.is_empty() {
            let written = self.until(|guest| {
                let socket = guest.tcp(handle);
                assert!(socket.may_send(), "connection broken");
                socket.can_send().then(|| socket.send_slice(data).unwrap())
            });
            data = &data[written..];
        }
    }

    /// Reads `length` bytes, or fewer up to the end.
    #[track_caller]
    pub(super) fn read(&mut self, handle: SocketHandle, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < length {
            let more = self.until(|guest| {
                let socket = guest.tcp(handle);
                if !socket.may_recv() {
                    return Some(Vec::new());
                }
                let take = |data: &mut [u8]| (data.len(), data.to_vec());
                socket.can_recv().then(|| socket.recv(take).unwrap())
            });
            if more.is_empty() {
                break;
            }
            data.extend(more);
        }
        data
    }

    pub(super) fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 65536]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub(super) fn send_to(
        &mut self,
        handle: SocketHandle,
        data: &[u8],
        address: impl Into<IpAddr>,
        port: u16,
    ) {
        let to = (IpAddress::from(address.into()), port);
        self.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(data, to).unwrap();
    }

    /// Waits for a datagram: its data, and who sent it.
    #[track_caller]
    pub(super) fn receive_from(&mut self, handle: SocketHandle) -> (Vec<u8>, IpAddress, u16) {
        self.until(|guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            let (data, from) = socket.recv().ok()?;
            Some((data.to_vec(), from.endpoint.addr, from.endpoint.port))
        })
    }
}
