//! The UART's state in a snapshot.

use rvisor_waist::{StateError, StateReader, StateWriter};

use super::{FIFO_DEPTH, State, Uart, id};

/// Numbers of the fields.
mod field {
    pub const DIVISOR: u16 = 1;
    pub const INTERRUPT_ENABLE: u16 = 2;
    pub const FIFO_CONTROL: u16 = 3;
    pub const LINE_CONTROL: u16 = 4;
    pub const MODEM_CONTROL: u16 = 5;
    pub const SCRATCH: u16 = 6;
    pub const RECEIVE: u16 = 7;
    pub const TRANSMIT: u16 = 8;
    pub const OVERRUN: u16 = 9;
    pub const MODEM_CHANGES: u16 = 10;
    pub const TRANSMITTER_EMPTY: u16 = 11;
}

impl Uart {
    pub(super) fn save_state(&mut self, writer: &mut StateWriter) {
        let state = &mut self.state;
        writer.number(field::DIVISOR, state.divisor.into());
        writer.number(field::INTERRUPT_ENABLE, state.interrupt_enable.into());
        writer.number(field::FIFO_CONTROL, state.fifo_control.into());
        writer.number(field::LINE_CONTROL, state.line_control.into());
        writer.number(field::MODEM_CONTROL, state.modem_control.into());
        writer.number(field::SCRATCH, state.scratch.into());
        writer.bytes(field::RECEIVE, state.receive.make_contiguous());
        writer.bytes(field::TRANSMIT, state.transmit.make_contiguous());
        writer.number(field::OVERRUN, state.overrun.into());
        writer.number(field::MODEM_CHANGES, state.modem_changes.into());
        writer.number(field::TRANSMITTER_EMPTY, state.transmitter_empty.into());
    }

    pub(super) fn restore_state(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        const WHAT: &str = "register of the UART";
        let state = State {
            divisor: reader.small(field::DIVISOR, WHAT)?,
            interrupt_enable: reader.small(field::INTERRUPT_ENABLE, WHAT)?,
            fifo_control: reader.small(field::FIFO_CONTROL, WHAT)?,
            line_control: reader.small(field::LINE_CONTROL, WHAT)?,
            modem_control: reader.small(field::MODEM_CONTROL, WHAT)?,
            scratch: reader.small(field::SCRATCH, WHAT)?,
            receive: reader.bytes(field::RECEIVE)?.iter().copied().collect(),
            transmit: reader.bytes(field::TRANSMIT)?.iter().copied().collect(),
            overrun: reader.flag(field::OVERRUN)?,
            modem_changes: reader.small(field::MODEM_CHANGES, WHAT)?,
            transmitter_empty: reader.flag(field::TRANSMITTER_EMPTY)?,
        };
        if state.receive.len().max(state.transmit.len()) > FIFO_DEPTH {
            return Err(StateError::Invalid(WHAT));
        }
        self.state = state;
        // Whatever the wire shows: what is at its other end was saved at another moment.
        self.level = self.state.interrupt() == id::NONE;
        self.drive_line();
        Ok(())
    }
}
