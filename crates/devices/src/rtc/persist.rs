//! The real-time clock's state in a snapshot: the guest's own offset, not the time, which goes on meanwhile.

use rvisor_waist::{StateError, StateReader, StateWriter};

use super::Rtc;

/// Numbers of the fields.
mod field {
    pub const OFFSET: u16 = 1;
    pub const LATCHED_HIGH: u16 = 2;
    pub const ALARM: u16 = 3;
    pub const ARMED: u16 = 4;
    pub const ENABLED: u16 = 5;
    pub const PENDING: u16 = 6;
}

impl Rtc {
    pub(super) fn save_state(&self, writer: &mut StateWriter) {
        writer.number(field::OFFSET, self.offset);
        writer.number(field::LATCHED_HIGH, self.latched_high.into());
        writer.number(field::ALARM, self.alarm);
        writer.number(field::ARMED, self.armed.into());
        writer.number(field::ENABLED, self.enabled.into());
        writer.number(field::PENDING, self.pending.into());
    }

    pub(super) fn restore_state(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.offset = reader.number(field::OFFSET)?;
        self.latched_high = reader.small(field::LATCHED_HIGH, "register of the real-time clock")?;
        self.alarm = reader.number(field::ALARM)?;
        self.armed = reader.flag(field::ARMED)?;
        self.enabled = reader.flag(field::ENABLED)?;
        self.pending = reader.flag(field::PENDING)?;
        self.update();
        Ok(())
    }
}
