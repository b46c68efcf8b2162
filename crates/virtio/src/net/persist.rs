//! The network card in a snapshot. Frames on their way to the driver are lost, as networks lose them.

use rvisor_waist::{GuestMemory, StateError, StateReader, StateWriter};

use super::Net;
use crate::queue::Chain;

/// Numbers of the fields.
mod field {
    pub const MAC: u16 = 1;
    /// Chains taken for the next frame: a list of numbers each, numbered from 1.
    pub const ROOM: u16 = 2;
}

/// The address of a card that was saved.
pub(crate) fn saved_mac(reader: &StateReader<'_>) -> Result<[u8; 6], StateError> {
    let mut fields = *reader;
    fields.bytes(field::MAC)?.try_into().map_err(|_| StateError::Invalid("MAC address"))
}

impl Net {
    pub(super) fn save_state(&self, writer: &mut StateWriter) {
        writer.bytes(field::MAC, &self.mac);
        let mut room = StateWriter::new();
        for (number, chain) in (1..).zip(&self.room) {
            room.numbers(number, chain.to_numbers());
        }
        writer.bytes(field::ROOM, &room.finish());
    }

    pub(super) fn restore_state<M: GuestMemory>(
        &mut self,
        reader: &mut StateReader<'_>,
        memory: &M,
    ) -> Result<(), StateError> {
        let mac = saved_mac(reader)?;
        reader.bytes(field::MAC)?;
        if !self.keeps_mac {
            self.mac = mac;
        }
        let mut room = reader.section(field::ROOM)?;
        self.room.clear();
        for number in 1..=u16::MAX {
            match room.optional_numbers(number)? {
                Some(numbers) => self.room.push(Chain::from_numbers(&numbers, memory)?),
                None => break,
            }
        }
        room.end()
    }
}
