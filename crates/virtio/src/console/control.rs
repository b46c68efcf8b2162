//! Control messages of a console with ports (Virtio 1.3, "Multiport Device Operation").

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use rvisor_waist::GuestMemory;

use super::{CONTROL_RECEIVE, CONTROL_TRANSMIT};
use crate::front_end::Queues;
use crate::queue::QueueError;

/// `VIRTIO_CONSOLE_DEVICE_READY`: the driver is set up (value 1) or failed (0).
pub(super) const DEVICE_READY: u16 = 0;
/// `VIRTIO_CONSOLE_DEVICE_ADD`: a port exists.
pub(super) const PORT_ADD: u16 = 1;
/// `VIRTIO_CONSOLE_PORT_READY`: the driver has set a port up (value 1) or failed (0).
pub(super) const PORT_READY: u16 = 3;
/// `VIRTIO_CONSOLE_CONSOLE_PORT`: the port is a console.
pub(super) const CONSOLE_PORT: u16 = 4;
/// `VIRTIO_CONSOLE_RESIZE`: columns and rows follow.
pub(super) const RESIZE: u16 = 5;
/// `VIRTIO_CONSOLE_PORT_OPEN`: the sender opened (value 1) or closed (0) its end.
pub(super) const PORT_OPEN: u16 = 6;
/// `VIRTIO_CONSOLE_PORT_NAME`: the name follows.
pub(super) const PORT_NAME: u16 = 7;

const HEADER_SIZE: usize = 8;
/// With so many messages waiting for buffers, the driver's are left in their queue: each may ask for several
/// more, and a hostile driver would have the monitor remember replies without end.
const CONGESTED: usize = 64;

/// `struct virtio_console_control`
pub(super) struct Message {
    pub id: u32,
    pub event: u16,
    pub value: u16,
}

/// Messages on their way to the driver.
#[derive(Default)]
pub(super) struct Control {
    outgoing: VecDeque<Vec<u8>>,
}

impl Control {
    pub fn is_congested(&self) -> bool {
        self.outgoing.len() >= CONGESTED
    }

    /// What waits, in order.
    pub fn messages(&self) -> impl Iterator<Item = &[u8]> {
        self.outgoing.iter().map(Vec::as_slice)
    }

    /// Has a message that was saved wait again.
    pub fn restore(&mut self, message: &[u8]) {
        self.outgoing.push_back(message.to_vec());
    }

    pub fn send(&mut self, port: usize, event: u16, value: u16) {
        self.send_with(port, event, value, &[]);
    }

    pub fn send_name(&mut self, port: usize, name: &str) {
        self.send_with(port, PORT_NAME, 1, name.as_bytes());
    }

    /// Columns, then rows: the order of the specification's structure. Linux took them the other way round
    /// before 6.15.
    pub fn send_size(&mut self, port: usize, (columns, rows): (u16, u16)) {
        let [c, r] = [columns.to_le_bytes(), rows.to_le_bytes()];
        self.send_with(port, RESIZE, 1, &[c[0], c[1], r[0], r[1]]);
    }

    fn send_with(&mut self, port: usize, event: u16, value: u16, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len());
        bytes.extend((port as u32).to_le_bytes());
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes.extend(payload);
        self.outgoing.push_back(bytes);
    }

    /// Hands messages to the driver as long as it has buffers. A buffer too small for one cuts it off.
    pub fn deliver<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        while let Some(message) = self.outgoing.front() {
            let Some(mut chain) = queues.pop(CONTROL_RECEIVE)? else { break };
            let written = chain.writable.write(queues.memory(), message)?;
            queues.push_used(CONTROL_RECEIVE, chain, written as u32)?;
            self.outgoing.pop_front();
        }
        Ok(())
    }

    /// Takes the driver's next message; what is too short to be one is skipped.
    pub fn receive<M: GuestMemory>(queues: &mut Queues<'_, M>) -> Result<Option<Message>, QueueError> {
        while let Some(mut chain) = queues.pop(CONTROL_TRANSMIT)? {
            let mut bytes = [0; HEADER_SIZE];
            let complete = chain.readable.read(queues.memory(), &mut bytes)? == HEADER_SIZE;
            queues.push_used(CONTROL_TRANSMIT, chain, 0)?;
            if complete {
                let [a, b, c, d, e, f, g, h] = bytes;
                return Ok(Some(Message {
                    id: u32::from_le_bytes([a, b, c, d]),
                    event: u16::from_le_bytes([e, f]),
                    value: u16::from_le_bytes([g, h]),
                }));
            }
        }
        Ok(None)
    }
}
