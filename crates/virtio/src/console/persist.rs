//! The console in a snapshot: the ports' state, and control messages that wait for buffers. What is under way on the
//! host's side of a port belongs to the home.

use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, StateError, StateReader, StateWriter};

use super::Console;
use super::port::Port;
use crate::queue::Chain;
use crate::saved::SavedPort;

/// More ports than any machine has.
const MOST_PORTS: u16 = 32;

/// Numbers of the fields.
mod field {
    /// Columns and rows.
    pub const SIZE: u16 = 1;
    /// Control messages for the driver, numbered from 1.
    pub const CONTROL: u16 = 2;
    /// A section for each port, numbered from 1.
    pub const PORTS: u16 = 3;

    pub const NAME: u16 = 1;
    pub const READY: u16 = 2;
    pub const GUEST_OPEN: u16 = 3;
    pub const HOST_OPEN: u16 = 4;
    /// A chain taken for input, if any.
    pub const RECEIVING: u16 = 5;
    /// A chain with output that had no room, if any.
    pub const TRANSMITTING: u16 = 6;
}

/// The ports of a console that was saved, without the first, which is always there.
pub(crate) fn saved_ports(reader: &StateReader<'_>) -> Result<Vec<SavedPort>, StateError> {
    const INVALID: StateError = StateError::Invalid("console port");
    let Some(ports) = reader.find(field::PORTS)? else { return Err(StateError::Missing(field::PORTS)) };
    let (mut ports, mut found) = (StateReader::new(ports), Vec::new());
    for number in 1..=MOST_PORTS {
        let Some(port) = ports.optional(number)? else { break };
        let mut port = StateReader::new(port);
        let name = core::str::from_utf8(port.bytes(field::NAME)?).map_err(|_| INVALID)?.into();
        let is_open = port.find(field::HOST_OPEN)? == Some(&1_u64.to_le_bytes());
        found.push(SavedPort { name, is_open });
    }
    ports.end()?;
    if found.is_empty() {
        return Err(INVALID);
    }
    found.remove(0);
    Ok(found)
}

impl Console {
    pub(super) fn save_state(&self, writer: &mut StateWriter) -> Result<(), StateError> {
        writer.numbers(field::SIZE, [self.size.0.into(), self.size.1.into()]);
        let mut control = StateWriter::new();
        for (number, message) in (1..).zip(self.control.messages()) {
            control.bytes(number, message);
        }
        writer.bytes(field::CONTROL, &control.finish());
        writer.section(field::PORTS, |ports| {
            (1..).zip(&self.ports).try_for_each(|(number, port)| {
                ports.section(number, |writer| {
                    port.save(writer);
                    Ok(())
                })
            })
        })
    }

    pub(super) fn restore_state<M: GuestMemory>(
        &mut self,
        reader: &mut StateReader<'_>,
        memory: &M,
    ) -> Result<(), StateError> {
        const INVALID: StateError = StateError::Invalid("console size");
        let &[columns, rows] = reader.numbers(field::SIZE)?.as_slice() else { return Err(INVALID) };
        let side = |value: u64| u16::try_from(value).map_err(|_| INVALID);
        self.size = (side(columns)?, side(rows)?);
        let mut control = reader.section(field::CONTROL)?;
        for number in 1..=u16::MAX {
            match control.optional(number)? {
                Some(message) => self.control.restore(message),
                None => break,
            }
        }
        control.end()?;
        let mut ports = reader.section(field::PORTS)?;
        for (number, port) in (1..).zip(&mut self.ports) {
            let missing = |_| StateError::Mismatch("set of console ports");
            let mut reader = ports.section(number).map_err(missing)?;
            port.restore(&mut reader, memory)?;
            reader.end()?;
        }
        ports.end().map_err(|_| StateError::Mismatch("set of console ports"))
    }
}

impl Port {
    fn save(&self, writer: &mut StateWriter) {
        writer.bytes(field::NAME, self.name.as_bytes());
        writer.number(field::READY, self.ready.into());
        writer.number(field::GUEST_OPEN, self.guest_open.into());
        writer.number(field::HOST_OPEN, self.host_open.into());
        if let Some(chain) = &self.receiving {
            writer.numbers(field::RECEIVING, chain.to_numbers());
        }
        if let Some(chain) = &self.transmitting {
            writer.numbers(field::TRANSMITTING, chain.to_numbers());
        }
    }

    fn restore<M: GuestMemory>(
        &mut self,
        reader: &mut StateReader<'_>,
        memory: &M,
    ) -> Result<(), StateError> {
        if reader.bytes(field::NAME)? != self.name.as_bytes() {
            return Err(StateError::Mismatch("set of console ports"));
        }
        self.ready = reader.flag(field::READY)?;
        self.set_guest_open(reader.flag(field::GUEST_OPEN)?);
        self.host_open = reader.flag(field::HOST_OPEN)?;
        let mut chain = |number| {
            let numbers = reader.optional_numbers(number)?;
            numbers.map(|numbers| Chain::from_numbers(&numbers, memory)).transpose()
        };
        self.receiving = chain(field::RECEIVING)?;
        self.transmitting = chain(field::TRANSMITTING)?;
        Ok(())
    }
}
