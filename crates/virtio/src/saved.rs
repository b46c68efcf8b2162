//! What can be told of a virtio device that was saved, without a device to restore: for who has to make one.

use alloc::string::String;
use alloc::vec::Vec;

use rvisor_waist::{StateError, StateReader};

use crate::{console, net, transport};

/// A device that was saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedDevice {
    /// Its device id; 0 for an empty slot.
    pub id: u32,
    /// Its hardware address, if it is a network card.
    pub mac: Option<[u8; 6]>,
    /// Its ports after the first, if it is a console.
    pub ports: Vec<SavedPort>,
}

/// A port of a console that was saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedPort {
    /// What the guest finds it by.
    pub name: String,
    /// Whether somebody was at the host's end, as the guest was told.
    pub is_open: bool,
}

impl SavedDevice {
    /// Looks at what a [`Transport`](crate::Transport) or an [`EmptySlot`](crate::EmptySlot) has written.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn look(state: &StateReader<'_>) -> Result<Self, StateError> {
        let (id, front_end) = transport::persist::look(state)?;
        let mut device = Self { id, mac: None, ports: Vec::new() };
        match (id, front_end) {
            (net::DEVICE_ID, Some(state)) => device.mac = Some(net::persist::saved_mac(&state)?),
            (console::DEVICE_ID, Some(state)) => device.ports = console::persist::saved_ports(&state)?,
            _ => {}
        }
        Ok(device)
    }
}
