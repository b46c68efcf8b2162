//! Records what the harts of a running machine do.
//!
//! Key types: [`Tracer`] (a recording of one machine), [`Kinds`] (what is recorded), [`JsonWriter`] (makes a file of it
//! that Perfetto opens), [`StoryTeller`] (tells one system call or TLB miss step by step).
//!
//! Each hart's thread keeps its own events and hands them over in batches through a channel with a bound; what doesn't
//! fit is counted, and lost. Nothing is recorded, and nothing but a look at a pointer is paid, while nobody traces.

mod json;
mod names;
mod recorder;
mod story;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::debugger::DebugGate;
use crate::runner::{HostedVm, Pace};
pub use json::JsonWriter;
pub(crate) use recorder::Tracing;
pub use recorder::{Batch, Kind, Kinds, Record};
pub use story::{Story, StoryTeller};

/// Batches that wait for whoever takes them; with those that harts are filling, some 10 MiB.
const BATCHES: usize = 32;

/// A recording of a machine. It ends when it is dropped.
pub struct Tracer {
    vm: Arc<HostedVm>,
    gate: Arc<DebugGate>,
    tracing: Arc<Tracing>,
    batches: Receiver<Batch>,
    lost: Arc<AtomicU64>,
}

impl Tracer {
    /// Begins to record. `None` if the machine is being recorded already.
    pub(crate) fn start(vm: &Arc<HostedVm>, pace: &Pace, kinds: Kinds) -> Option<Self> {
        let (sender, batches) = sync_channel(BATCHES);
        let lost = Arc::new(AtomicU64::new(0));
        let recording = recorder::Recording { kinds, start: Instant::now(), sender, lost: Arc::clone(&lost) };
        if !pace.tracing.begin(recording) {
            return None;
        }
        let tracer = Self {
            vm: Arc::clone(vm),
            gate: Arc::clone(&pace.debug),
            tracing: Arc::clone(&pace.tracing),
            batches,
            lost,
        };
        tracer.tell_harts();
        Some(tracer)
    }

    /// Each hart takes an observer, or none, from `tracing`: at its next slice, or when the machine is resumed.
    fn tell_harts(&self) {
        for index in 0..self.vm.harts().len() {
            let tracing = Arc::clone(&self.tracing);
            self.gate.send(&self.vm, index, move |hart, _| tracing.apply(hart));
        }
    }

    /// The next batch of one hart's events; `None` where none has come for a while.
    ///
    /// # Errors
    /// When there will be no more, because the machine has ended or [`stop`](Self::stop) was called.
    pub fn next(&self, patience: Duration) -> Result<Option<Batch>, RecvTimeoutError> {
        match self.batches.recv_timeout(patience) {
            Ok(batch) => Ok(Some(batch)),
            Err(RecvTimeoutError::Timeout) if self.vm.power_requested().is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Records no more. What was recorded can still be taken.
    pub fn stop(&self) {
        self.tracing.end();
        self.tell_harts();
    }

    /// Events that were lost, because nobody took them in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.stop();
    }
}
