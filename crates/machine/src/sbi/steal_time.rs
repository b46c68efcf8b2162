//! Steal-time accounting: how long a hart could have run and wasn't let (SBI specification 2.0, chapter "Steal-time
//! Accounting Extension").

use rvisor_waist::{GuestMemory, GuestPhysical};

use super::{Call, Error};
use crate::{VirtualHart, Vm};

/// Bytes of the shared memory, and its alignment.
const SIZE: u64 = 64;

/// Fields of the shared memory.
mod field {
    pub const SEQUENCE: u64 = 0;
    pub const STEAL: u64 = 8;
}

/// Where a hart's stolen time is told, and how much it is.
#[derive(Default)]
pub(crate) struct StealTime {
    memory: Option<GuestPhysical>,
    sequence: u32,
    nanoseconds: u64,
}

impl StealTime {
    /// Whether the guest wants to know.
    pub(crate) fn is_wanted(&self) -> bool {
        self.memory.is_some()
    }

    /// Address, sequence number and nanoseconds, to be saved.
    pub(crate) fn state(&self) -> Option<[u64; 3]> {
        self.memory.map(|memory| [memory.0, self.sequence.into(), self.nanoseconds])
    }

    /// What [`state`](Self::state) has written, if it can be true.
    pub(crate) fn from_state(address: u64, sequence: u64, nanoseconds: u64) -> Option<Self> {
        let sequence = u32::try_from(sequence).ok().filter(|sequence| sequence.is_multiple_of(2))?;
        let memory = address.is_multiple_of(SIZE).then_some(GuestPhysical(address));
        Some(Self { memory: Some(memory?), sequence, nanoseconds })
    }

    /// Adds to what the guest is told.
    pub(crate) fn add<M: GuestMemory>(&mut self, memory: &M, nanoseconds: u64) {
        let Some(start) = self.memory.filter(|_| nanoseconds != 0) else { return };
        self.nanoseconds = self.nanoseconds.wrapping_add(nanoseconds);
        // An odd number says that the rest is changing. The place was checked; should it not be there any more, the
        // guest isn't told.
        self.sequence = self.sequence.wrapping_add(1);
        let _ = memory.store(start.offset(field::SEQUENCE), self.sequence);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        let _ = memory.store(start.offset(field::STEAL), self.nanoseconds);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        self.sequence = self.sequence.wrapping_add(1);
        let _ = memory.store(start.offset(field::SEQUENCE), self.sequence);
    }
}

/// The extension's one function, `sbi_steal_time_set_shmem`.
pub(super) fn call<M: GuestMemory>(call: &Call, hart: &mut VirtualHart, vm: &Vm<M>) -> Result<u64, Error> {
    let [low, high, flags, ..] = call.arguments;
    if call.function != 0 {
        return Err(Error::NotSupported);
    }
    if flags != 0 {
        return Err(Error::InvalidParameter);
    }
    if (low, high) == (u64::MAX, u64::MAX) {
        hart.steal_time = StealTime::default();
        return Ok(0);
    }
    if !low.is_multiple_of(SIZE) {
        return Err(Error::InvalidParameter);
    }
    let start = GuestPhysical(low);
    if high != 0 || vm.memory().zero(start, SIZE).is_err() {
        return Err(Error::InvalidAddress);
    }
    hart.steal_time = StealTime { memory: Some(start), ..StealTime::default() };
    Ok(0)
}
