//! The console device (Virtio 1.3, "Console Device"): byte streams between guest and host, a port each.
//!
//! Port 0 is what a driver without `VIRTIO_CONSOLE_F_MULTIPORT` sees; a driver with it sees all ports, by name.

mod control;
pub(crate) mod persist;
mod port;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use control::{Control, Message};
use port::Port;
use rvisor_waist::{ConsoleBackend, GuestMemory, StateError, StateReader, StateWriter};

use crate::front_end::{FrontEnd, Queues};
use crate::queue::QueueError;

/// `VIRTIO_CONSOLE_F_SIZE`
pub const F_SIZE: u64 = 1 << 0;
/// `VIRTIO_CONSOLE_F_MULTIPORT`
pub const F_MULTIPORT: u64 = 1 << 1;
/// `VIRTIO_CONSOLE_F_EMERG_WRITE`
pub const F_EMERG_WRITE: u64 = 1 << 2;

/// Queue on which the device sends control messages.
pub const CONTROL_RECEIVE: usize = 2;
/// Queue on which the driver sends control messages.
pub const CONTROL_TRANSMIT: usize = 3;

/// The device id.
pub(crate) const DEVICE_ID: u32 = 3;
const QUEUE_SIZE: u16 = 64;
/// Offset of `emerg_wr` in the configuration space.
const EMERGENCY_WRITE: u64 = 8;

/// What a queue carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Role {
    fn of(queue: usize) -> Self {
        match (queue, queue % 2) {
            (CONTROL_RECEIVE, _) => Self::ControlReceive,
            (CONTROL_TRANSMIT, _) => Self::ControlTransmit,
            (0 | 1, 0) => Self::Receive(0),
            (0 | 1, _) => Self::Transmit(0),
            (_, 0) => Self::Receive(queue / 2 - 1),
            _ => Self::Transmit(queue / 2 - 1),
        }
    }
}

/// The receive queue of a port; its transmit queue is the next.
#[must_use]
pub const fn receive_queue(port: usize) -> usize {
    if port == 0 { 0 } else { 2 * port + 2 }
}

/// A terminal that nobody looks at. What the guest prints is lost: drivers wait for their console with the processor in their
/// hands, and would for ever if it were full.
struct Unwatched;

impl ConsoleBackend for Unwatched {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn read(&mut self, _buffer: &mut [u8]) -> usize {
        0
    }
}

/// Console front end.
pub struct Console {
    ports: Vec<Port>,
    control: Control,
    /// Negotiated; zero until the driver is ready.
    features: u64,
    /// Columns and rows as the driver was last told.
    size: (u16, u16),
}

impl Console {
    /// A device whose port 0 is a console on `back_end`. Its size is the device's, where it has one.
    #[must_use]
    pub fn new(back_end: Box<dyn ConsoleBackend>) -> Self {
        let size = back_end.size().unwrap_or_default();
        let ports = vec![Port::new(String::new(), true, back_end)];
        Self { ports, control: Control::default(), features: 0, size }
    }

    /// A device whose port 0 is a console that nobody looks at.
    #[must_use]
    pub fn unwatched() -> Self {
        Self::new(Box::new(Unwatched))
    }

    /// Adds a port that guests find by `name`, a stream of bytes and no terminal.
    #[must_use]
    pub fn with_port(mut self, name: &str, back_end: Box<dyn ConsoleBackend>) -> Self {
        self.ports.push(Port::new(name.into(), false, back_end));
        self
    }

    fn is_multiport(&self) -> bool {
        self.features & F_MULTIPORT != 0
    }

    /// Tells the driver of a new size of the terminal.
    fn update_size<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) {
        let Some(size) = self.ports[0].size() else { return };
        if size == self.size {
            return;
        }
        self.size = size;
        if self.features & F_SIZE == 0 {
            return;
        }
        queues.config_changed();
        if self.is_multiport() && self.ports[0].is_ready() {
            self.control.send_size(0, size);
        }
    }

    /// Moves control messages in both directions until there are none, or no room.
    fn exchange_control<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        if !self.is_multiport() {
            return Ok(());
        }
        loop {
            self.control.deliver(queues)?;
            if self.control.is_congested() {
                return Ok(());
            }
            let Some(message) = Control::receive(queues)? else { return Ok(()) };
            self.handle(message);
        }
    }

    fn handle(&mut self, message: Message) {
        let on = message.value != 0;
        match message.event {
            control::DEVICE_READY if on => {
                for id in 0..self.ports.len() {
                    self.control.send(id, control::PORT_ADD, 1);
                }
            }
            control::PORT_READY if on => self.introduce(message.id as usize),
            control::PORT_OPEN => {
                if let Some(port) = self.ports.get_mut(message.id as usize) {
                    port.set_guest_open(on);
                }
            }
            _ => {}
        }
    }

    /// Tells the driver about a port that it has set up.
    fn introduce(&mut self, id: usize) {
        let Some(port) = self.ports.get_mut(id) else { return };
        port.set_ready();
        if port.is_console() {
            self.control.send(id, control::CONSOLE_PORT, 1);
            if self.features & F_SIZE != 0 {
                self.control.send_size(id, self.size);
            }
        }
        if !port.name().is_empty() {
            self.control.send_name(id, port.name());
        }
        if port.is_host_open() {
            self.control.send(id, control::PORT_OPEN, 1);
        }
    }

    fn receive<M: GuestMemory>(&mut self, id: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        if id != 0 && !self.is_multiport() {
            return Ok(());
        }
        let Some(port) = self.ports.get_mut(id) else { return Ok(()) };
        let drained = port.receive(receive_queue(id), queues)?;
        if port.is_ready() && port.update_host_open(drained) {
            let open = port.is_host_open();
            self.control.send(id, control::PORT_OPEN, open.into());
        }
        Ok(())
    }

    fn transmit<M: GuestMemory>(&mut self, id: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        if id != 0 && !self.is_multiport() {
            return Ok(());
        }
        match self.ports.get_mut(id) {
            Some(port) => port.transmit(receive_queue(id) + 1, queues),
            None => Ok(()),
        }
    }
}

impl FrontEnd for Console {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        let size = if self.ports[0].size().is_some() { F_SIZE } else { 0 };
        size | F_MULTIPORT | F_EMERG_WRITE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 * (self.ports.len() + 1)]
    }

    fn config(&self) -> impl AsRef<[u8]> {
        let mut config = [0; 12];
        config[..2].copy_from_slice(&self.size.0.to_le_bytes());
        config[2..4].copy_from_slice(&self.size.1.to_le_bytes());
        config[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        config
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        if offset == EMERGENCY_WRITE {
            self.ports[0].emergency_write(&bytes[..1]);
        }
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        if !self.is_multiport() {
            self.ports[0].set_guest_open(true);
        }
    }

    fn notify<M: GuestMemory>(&mut self, index: usize, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        match Role::of(index) {
            Role::Receive(id) => self.receive(id, queues)?,
            Role::Transmit(id) => self.transmit(id, queues)?,
            Role::ControlReceive | Role::ControlTransmit => {
                self.exchange_control(queues)?;
                // A port that was opened takes what waited for it.
                for id in 0..self.ports.len() {
                    self.receive(id, queues)?;
                }
            }
        }
        self.exchange_control(queues)
    }

    fn poll<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), QueueError> {
        self.update_size(queues);
        for id in 0..self.ports.len() {
            self.transmit(id, queues)?;
            self.receive(id, queues)?;
        }
        self.exchange_control(queues)
    }

    fn stop_queue(&mut self, index: usize) {
        match Role::of(index) {
            Role::Receive(id) => self.ports[id].forget_receive(),
            Role::Transmit(id) => self.ports[id].forget_transmit(),
            Role::ControlReceive | Role::ControlTransmit => {}
        }
    }

    fn reset(&mut self) {
        self.features = 0;
        self.control = Control::default();
        for port in &mut self.ports {
            port.reset();
        }
    }

    fn save(&self, state: &mut StateWriter) -> Result<(), StateError> {
        self.save_state(state)
    }

    fn restore<M: GuestMemory>(&mut self, state: &mut StateReader<'_>, memory: &M) -> Result<(), StateError> {
        self.restore_state(state, memory)
    }
}

#[cfg(test)]
mod tests;
