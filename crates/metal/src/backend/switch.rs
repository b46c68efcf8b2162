//! The networks inside the monitor: frames go from guest to guest, and out through the physical card.
//!
//! Every guest's hardware address is known from the bundle, so nothing is learnt, and no guest can have frames that are
//! another's: one that sends under another address sends nothing. What is meant for nobody here goes to the uplink.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_machine::bundle::Attachment;
use rvisor_waist::NetBackend;
use spin::Mutex;

use super::{Ready, Served};

/// Bytes and frames that wait for a guest at most; the oldest are lost. A guest that hasn't looked for a while is
/// better off with what is new.
const QUEUE_BYTES: usize = 256 << 10;
const QUEUE_FRAMES: usize = 256;
/// The shortest frame: two addresses and a type.
const LEAST_FRAME: usize = 14;
/// The longest that is carried, without offloads.
const MOST_FRAME: usize = 1514;

/// Sends frames through the physical card.
pub type Uplink = Box<dyn FnMut(&[u8]) + Send>;

struct Port {
    guest: usize,
    at: Attachment,
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Frames lost since the start.
    lost: u64,
}

/// All networks.
pub struct Switch {
    ready: Ready,
    ports: Mutex<Vec<Port>>,
    /// The network of the physical card, and the card.
    uplink: Mutex<Option<(u32, Uplink)>>,
}

impl Port {
    fn put(&mut self, frame: &[u8]) {
        self.bytes += frame.len();
        self.frames.push_back(frame.to_vec());
        while self.bytes > QUEUE_BYTES || self.frames.len() > QUEUE_FRAMES {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.len();
            self.lost += 1;
        }
    }
}

impl Switch {
    /// Networks without guests.
    pub fn new(ready: Ready, uplink: Option<(u32, Uplink)>) -> Arc<Self> {
        Arc::new(Self { ready, ports: Mutex::new(Vec::new()), uplink: Mutex::new(uplink) })
    }

    /// Plugs a guest's card in.
    pub fn plug(self: &Arc<Self>, guest: usize, at: Attachment) -> Box<dyn NetBackend> {
        let mut ports = self.ports.lock();
        ports.push(Port { guest, at, frames: VecDeque::new(), bytes: 0, lost: 0 });
        Box::new(Cable { switch: Arc::clone(self), port: ports.len() - 1 })
    }

    /// A frame came from the physical card.
    pub fn arrive(&self, frame: &[u8]) {
        let network = self.uplink.lock().as_ref().map(|(network, _)| *network);
        if let Some(network) = network.filter(|_| (LEAST_FRAME..=MOST_FRAME).contains(&frame.len())) {
            self.deliver(network, None, frame);
        }
    }

    /// Puts a frame into the queues of those it is meant for. True if one of them was found by its own address.
    fn deliver(&self, network: u32, from: Option<usize>, frame: &[u8]) -> bool {
        let (to, is_group) = (&frame[..6], frame[0] & 1 == 1);
        let mut reached = 0u64;
        let mut is_known = false;
        let mut ports = self.ports.lock();
        let others = ports.iter_mut().enumerate().filter(|(index, _)| Some(*index) != from);
        for (_, port) in others.filter(|(_, port)| port.at.network == network) {
            let is_meant = port.at.mac == to;
            is_known |= is_meant;
            if is_meant || is_group {
                port.put(frame);
                reached |= 1 << port.guest;
            }
        }
        drop(ports);
        (0..64)
            .filter(|guest| reached >> guest & 1 == 1)
            .for_each(|guest| (self.ready)(guest, Served::Network));
        is_known
    }

    fn send(&self, from: usize, frame: &[u8]) {
        let at = self.ports.lock()[from].at;
        if !(LEAST_FRAME..=MOST_FRAME).contains(&frame.len()) || frame[6..12] != at.mac {
            self.ports.lock()[from].lost += 1;
            return;
        }
        if self.deliver(at.network, Some(from), frame) {
            return;
        }
        if let Some((network, uplink)) = &mut *self.uplink.lock()
            && *network == at.network
        {
            uplink(frame);
        }
    }

    /// A guest is switched on: what came before wasn't for it.
    pub fn forget(&self, guest: usize) {
        for port in self.ports.lock().iter_mut().filter(|port| port.guest == guest) {
            port.frames.clear();
            port.bytes = 0;
        }
    }

    /// Frames of a guest's that were lost: for want of room, or because they weren't its own.
    pub fn lost(&self, guest: usize) -> u64 {
        self.ports.lock().iter().filter(|port| port.guest == guest).map(|port| port.lost).sum()
    }
}

/// A guest's end.
struct Cable {
    switch: Arc<Switch>,
    port: usize,
}

impl NetBackend for Cable {
    fn send(&mut self, frame: &[u8]) {
        self.switch.send(self.port, frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        frame.clear();
        let mut ports = self.switch.ports.lock();
        let port = &mut ports[self.port];
        match port.frames.pop_front() {
            Some(next) => {
                port.bytes -= next.len();
                *frame = next;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static OUT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

    fn mac(last: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, last]
    }

    fn frame(to: [u8; 6], from: [u8; 6], content: u8) -> Vec<u8> {
        [&to[..], &from, &[8, 0, content]].concat()
    }

    fn received(port: &mut Box<dyn NetBackend>) -> Vec<u8> {
        let (mut frame, mut contents) = (Vec::new(), Vec::new());
        while port.receive(&mut frame) {
            contents.push(frame[14]);
        }
        contents
    }

    #[test]
    fn frames_reach_whom_they_are_meant_for_and_nobody_else() {
        let uplink: Uplink = Box::new(|frame| OUT.lock().push(frame.to_vec()));
        let switch = Switch::new(|_, _| {}, Some((0, uplink)));
        let plug = |guest: usize, network| switch.plug(guest, Attachment { network, mac: mac(guest as u8) });
        let (mut one, mut two, mut three, mut apart) = (plug(1, 0), plug(2, 0), plug(3, 0), plug(4, 1));
        one.send(&frame(mac(2), mac(1), 10));
        one.send(&frame([0xff; 6], mac(1), 11));
        one.send(&frame(mac(9), mac(1), 12));
        // Another network's guest isn't reached by its address either.
        one.send(&frame(mac(4), mac(1), 13));
        // Not under another's address.
        one.send(&frame(mac(2), mac(3), 14));
        one.send(&[0; 5]);
        apart.send(&frame([0xff; 6], mac(4), 15));
        switch.arrive(&frame(mac(3), mac(0x77), 16));
        assert_eq!(received(&mut one), []);
        assert_eq!(received(&mut two), [10, 11]);
        assert_eq!(received(&mut three), [11, 16]);
        assert_eq!(received(&mut apart), []);
        let out: Vec<_> = OUT.lock().iter().map(|frame| frame[14]).collect();
        assert_eq!((out, switch.lost(1)), (alloc::vec![11, 12, 13], 2));
    }

    #[test]
    fn flood_costs_only_frames() {
        let switch = Switch::new(|_, _| {}, None);
        let plug = |guest: usize| switch.plug(guest, Attachment { network: 0, mac: mac(guest as u8) });
        let (mut one, mut two) = (plug(1), plug(2));
        let long = [&frame(mac(2), mac(1), 7)[..], &[0; 1000]].concat();
        (0..10_000).for_each(|_| one.send(&long));
        assert!(received(&mut two).len() <= QUEUE_BYTES / 1000);
        assert!(switch.lost(2) > 9000);
    }

    #[test]
    fn guest_that_did_not_look_has_the_newest_frames_and_none_from_before_it_was_on() {
        let switch = Switch::new(|_, _| {}, None);
        let plug = |guest: usize| switch.plug(guest, Attachment { network: 0, mac: mac(guest as u8) });
        let (mut one, mut two) = (plug(1), plug(2));
        (0..QUEUE_FRAMES + 5).for_each(|number| one.send(&frame([0xff; 6], mac(1), number as u8)));
        let contents = received(&mut two);
        assert_eq!((contents.len(), contents[0], switch.lost(2)), (QUEUE_FRAMES, 5, 5));
        one.send(&frame(mac(2), mac(1), 7));
        switch.forget(2);
        assert_eq!(received(&mut two), []);
        one.send(&frame(mac(2), mac(1), 8));
        assert_eq!(received(&mut two), [8]);
    }
}
