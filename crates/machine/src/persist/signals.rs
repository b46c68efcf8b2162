//! A hart of a VM in a snapshot: its architectural state, and what the monitor knows about it.
//!
//! Fences that it was asked for, or waits for, aren't part of it: every hart begins without cached translations, so
//! all of them have been carried out. Its wires are driven by the devices.

use alloc::vec::Vec;

use rvisor_waist::{GuestMemory, StateError, StateReader, StateWriter};

use crate::signals::{Entry, HartState};
use crate::{VirtualHart, Vm};

/// Numbers of the fields.
mod field {
    /// What the hart itself writes down.
    pub const HART: u16 = 1;
    /// Whether it waits for an interrupt.
    pub const WAITING: u16 = 2;
    /// Its state for the SBI: a number, then the entry's address and `a1` if there is one.
    pub const STATE: u16 = 3;
    /// Address, sequence number and nanoseconds of stolen time, if the guest wants to know.
    pub const STEAL_TIME: u16 = 4;
}

/// Numbers of the SBI's hart states (SBI 2.0, table "HSM Hart States").
mod hart_state {
    pub const STARTED: u64 = 0;
    pub const STOPPED: u64 = 1;
    pub const START_PENDING: u64 = 2;
    pub const SUSPENDED: u64 = 4;
}

fn numbers(state: HartState) -> Vec<u64> {
    let (number, entry) = match state {
        HartState::Started => (hart_state::STARTED, None),
        HartState::Stopped => (hart_state::STOPPED, None),
        HartState::StartPending(entry) => (hart_state::START_PENDING, Some(entry)),
        HartState::Suspended { resume } => (hart_state::SUSPENDED, resume),
    };
    let entry = entry.map(|entry| [entry.address, entry.opaque]);
    [number].into_iter().chain(entry.into_iter().flatten()).collect()
}

fn hart_state(numbers: &[u64]) -> Result<HartState, StateError> {
    let entry = |address: u64, opaque| Entry { address: address & !1, opaque };
    Ok(match *numbers {
        [hart_state::STARTED] => HartState::Started,
        [hart_state::STOPPED] => HartState::Stopped,
        [hart_state::START_PENDING, address, opaque] => HartState::StartPending(entry(address, opaque)),
        [hart_state::SUSPENDED] => HartState::Suspended { resume: None },
        [hart_state::SUSPENDED, address, opaque] => {
            HartState::Suspended { resume: Some(entry(address, opaque)) }
        }
        _ => return Err(StateError::Invalid("state of a hart")),
    })
}

impl VirtualHart {
    /// Writes the hart down. It is between two calls of [`advance`](Self::advance).
    ///
    /// # Errors
    /// If a part can't be saved.
    pub fn save<M: GuestMemory>(&mut self, vm: &Vm<M>) -> Result<Vec<u8>, StateError> {
        let mut writer = StateWriter::new();
        let environment = vm.environment(&vm.harts()[self.index]);
        writer.section(field::HART, |writer| self.hart.save(&environment, writer))?;
        writer.number(field::WAITING, self.waiting.into());
        writer.numbers(field::STATE, numbers(self.signals.state()));
        if let Some(state) = self.steal_time.state() {
            writer.numbers(field::STEAL_TIME, state);
        }
        Ok(writer.finish())
    }

    /// Takes that over.
    pub(super) fn restore(&mut self, mut reader: StateReader<'_>) -> Result<(), StateError> {
        let mut hart = reader.section(field::HART)?;
        self.hart.restore(&mut hart)?;
        hart.end()?;
        self.waiting = reader.flag(field::WAITING)?;
        let state = hart_state(&reader.numbers(field::STATE)?)?;
        self.signals.update_state(|_| Some(state));
        let steal_time = reader.optional_numbers(field::STEAL_TIME)?;
        self.steal_time = match steal_time.as_deref() {
            None => crate::sbi::StealTime::default(),
            Some(&[address, sequence, nanoseconds]) => {
                let restored = crate::sbi::StealTime::from_state(address, sequence, nanoseconds);
                restored.ok_or(StateError::Invalid("steal time"))?
            }
            Some(_) => return Err(StateError::Invalid("steal time")),
        };
        reader.end()
    }
}
