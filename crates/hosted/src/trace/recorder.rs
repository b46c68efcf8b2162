//! One hart's end of a recording.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rvisor_hart::{Cause, HartEvent, Observer};
use rvisor_isa::Exception;
use rvisor_machine::VirtualHart;

/// Events of a batch.
const BATCH: usize = 2048;

/// What can be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Exceptions, but for system calls; with the time until their handlers return.
    Traps,
    /// `ecall` from U-mode, with arguments and results.
    Syscalls,
    /// Calls of the monitor's SBI.
    Sbi,
    /// Interrupts.
    Interrupts,
    /// Loads from and stores to devices.
    Devices,
    /// Translations that a TLB didn't have.
    Fills,
    /// Times in which a hart waits for an interrupt.
    Waits,
}

impl Kind {
    /// All kinds, with the words for them.
    pub const ALL: [(Self, &str); 7] = [
        (Self::Traps, "traps"),
        (Self::Syscalls, "syscalls"),
        (Self::Sbi, "sbi"),
        (Self::Interrupts, "interrupts"),
        (Self::Devices, "devices"),
        (Self::Fills, "tlb"),
        (Self::Waits, "waits"),
    ];

    /// The kind of an event; `None` for returns from traps, which belong to all.
    pub fn of(event: &HartEvent) -> Option<Self> {
        Some(match event {
            HartEvent::Trap { trap, .. } => match trap.cause {
                Cause::Exception(Exception::EnvironmentCallFromUser) => Self::Syscalls,
                Cause::Exception(_) => Self::Traps,
                Cause::Interrupt(_) => Self::Interrupts,
            },
            HartEvent::Return { .. } => return None,
            HartEvent::Device { .. } | HartEvent::DeviceDone { .. } => Self::Devices,
            HartEvent::SbiCall { .. } | HartEvent::SbiReturn { .. } => Self::Sbi,
            HartEvent::Wait | HartEvent::Woke => Self::Waits,
            HartEvent::Fill { .. } => Self::Fills,
        })
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kinds(u8);

impl Kinds {
    /// All of them.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether a kind is in it.
    #[must_use]
    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl FromStr for Kinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut kinds = Self(0);
        for word in text.split(',') {
            let Some((kind, _)) = Kind::ALL.into_iter().find(|(_, name)| *name == word) else {
                let names = Kind::ALL.map(|(_, name)| name).join(", ");
                return Err(format!("{word:?} can't be recorded; choose from {names}, separated by commas"));
            };
            kinds.0 |= 1 << kind as u8;
        }
        Ok(kinds)
    }
}

/// An event, and when it was: nanoseconds since the recording began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub time: u64,
    /// What.
    pub event: HartEvent,
}

/// Events of one hart, in their order.
#[derive(Debug)]
pub struct Batch {
    /// Whose.
    pub hart: usize,
    /// Which.
    pub records: Vec<Record>,
}

/// What recorders of all harts share.
#[derive(Clone)]
pub(super) struct Recording {
    pub kinds: Kinds,
    pub start: Instant,
    pub sender: SyncSender<Batch>,
    pub lost: Arc<AtomicU64>,
}

/// Whether a machine is being recorded, and by whom: for harts that are there, and for those that a reboot makes.
#[derive(Default)]
pub(crate) struct Tracing(Mutex<Option<Recording>>);

impl Tracing {
    /// False if the machine is being recorded already.
    pub(super) fn begin(&self, recording: Recording) -> bool {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = current.is_none();
        current.get_or_insert(recording);
        is_free
    }

    pub(super) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Gives a hart its recorder, or takes it away.
    pub fn apply(&self, hart: &mut VirtualHart) {
        let recording = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if recording.is_none() && !hart.hart.is_observed() {
            return;
        }
        let index = hart.index();
        let observer = recording.map(|recording| Box::new(Recorder::new(index, recording)) as _);
        hart.hart.set_observer(observer);
    }
}

struct Recorder {
    hart: usize,
    recording: Recording,
    records: Vec<Record>,
}

impl Recorder {
    fn new(hart: usize, recording: Recording) -> Self {
        Self { hart, recording, records: Vec::with_capacity(BATCH) }
    }

    fn hand_over(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let records = std::mem::replace(&mut self.records, Vec::with_capacity(BATCH));
        match self.recording.sender.try_send(Batch { hart: self.hart, records }) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(batch)) => {
                self.recording.lost.fetch_add(batch.records.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Observer for Recorder {
    fn observe(&mut self, event: &HartEvent) {
        if Kind::of(event).is_some_and(|kind| !self.recording.kinds.has(kind)) {
            return;
        }
        let time = self.recording.start.elapsed().as_nanos() as u64;
        self.records.push(Record { time, event: *event });
        // A hart that waits may have nothing to say for long.
        if self.records.len() == BATCH || matches!(event, HartEvent::Wait) {
            self.hand_over();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn kinds_are_read_from_words() {
        let kinds: Kinds = "tlb,syscalls".parse().unwrap();
        assert!(kinds.has(Kind::Fills) && kinds.has(Kind::Syscalls) && !kinds.has(Kind::Traps));
        assert!("tlb,".parse::<Kinds>().unwrap_err().contains("waits"));
        assert!(Kind::ALL.iter().all(|(kind, _)| Kinds::ALL.has(*kind)));
    }

    #[test]
    fn what_nobody_takes_is_counted() {
        let (sender, batches) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let recording = Recording { kinds: Kinds::ALL, start, sender, lost: Arc::clone(&lost) };
        let mut recorder = Recorder::new(3, recording);
        (0..3 * BATCH).for_each(|_| recorder.observe(&HartEvent::Woke));
        let batch = batches.recv().unwrap();
        assert_eq!((batch.hart, batch.records.len()), (3, BATCH));
        assert_eq!(lost.load(Ordering::Relaxed), 2 * BATCH as u64);
        recorder.observe(&HartEvent::Wait);
        assert_eq!(batches.recv().unwrap().records.len(), 1, "a hart that waits hands over what there is");
        recorder.observe(&HartEvent::Woke);
        drop(recorder);
        assert_eq!(batches.recv().unwrap().records.len(), 1);
    }
}
