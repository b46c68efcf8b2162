//! A disk at work: I/O threads between the block front end and an image.
//!
//! A flush must cover every write that was completed before it was submitted (Virtio 1.3, "Block Device").
//! Completed means that [`Image::write_at`] has returned, so [`Image::flush`] alone keeps that promise, and
//! requests need no order among themselves.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{SigSet, Signal};
use rvisor_waist::{
    BlockBackend, BlockCompletion, BlockError, BlockOperation, BlockRequest, GuestMemory, SECTOR_SIZE,
};

use super::Image;
use super::image::caught;
use super::transfer::{Transfer, byte_range};
use crate::counters::Transfers;

/// I/O threads of a disk: enough that reads from the host's disk overlap.
const THREADS: usize = 4;

/// An image served as a [`BlockBackend`]. Dropping it finishes what was submitted.
pub struct Disk<M> {
    shared: Arc<Shared<M>>,
    identity: String,
    threads: Vec<JoinHandle<()>>,
}

/// What the front end's side and the I/O threads share.
struct Shared<M> {
    image: Arc<dyn Image>,
    memory: Arc<M>,
    counters: Arc<Transfers>,
    /// Tells the home that there are completions.
    wake: Arc<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    /// There is work, or the disk is closing.
    work: Condvar,
    /// Nothing is queued or running.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<BlockRequest>,
    running: usize,
    completed: VecDeque<BlockCompletion>,
    closing: bool,
    /// Whether an error was logged: a guest must not be able to fill the log.
    reported: bool,
}

impl<M> Shared<M> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: GuestMemory + 'static> Disk<M> {
    /// Serves `image` for the guest whose RAM is `memory`. `identity` is what the guest reads as serial
    /// number; `wake` is called from an I/O thread whenever there are new completions to take.
    ///
    /// # Errors
    /// The host may refuse to make threads.
    pub fn new(
        image: Arc<dyn Image>,
        identity: String,
        memory: Arc<M>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> io::Result<Self> {
        let (work, idle) = (Condvar::new(), Condvar::new());
        let counters = Arc::default();
        let shared = Arc::new(Shared { image, memory, counters, wake, state: Mutex::default(), work, idle });
        let mut disk = Self { shared, identity, threads: Vec::new() };
        for _ in 0..THREADS {
            let shared = Arc::clone(&disk.shared);
            disk.threads.push(thread::Builder::new().name("disk".into()).spawn(move || serve(&shared))?);
        }
        Ok(disk)
    }

    /// What the guest has read and written.
    #[must_use]
    pub fn counters(&self) -> Arc<Transfers> {
        Arc::clone(&self.shared.counters)
    }
}

impl<M: GuestMemory + 'static> BlockBackend for Disk<M> {
    fn capacity(&self) -> u64 {
        self.shared.image.size() / SECTOR_SIZE
    }

    fn is_read_only(&self) -> bool {
        self.shared.image.is_read_only()
    }

    fn can_discard(&self) -> bool {
        !self.is_read_only()
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn submit(&mut self, request: BlockRequest) {
        self.shared.state().queue.push_back(request);
        self.shared.work.notify_one();
    }

    fn complete(&mut self) -> Option<BlockCompletion> {
        self.shared.state().completed.pop_front()
    }

    fn drain(&mut self) {
        self.settle();
        self.shared.state().completed.clear();
    }

    fn settle(&mut self) {
        let busy = |state: &mut State| !state.queue.is_empty() || state.running > 0;
        let state = self.shared.state();
        drop(self.shared.idle.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner));
    }
}

impl<M> Drop for Disk<M> {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // It can't have panicked: `caught` takes care of what an image may do.
            let _ = thread.join();
        }
    }
}

/// The body of an I/O thread.
fn serve<M: GuestMemory>(shared: &Shared<M>) {
    block_file_size_signal();
    let mut transfer = Transfer::new(&*shared.image, &*shared.memory);
    let mut state = shared.state();
    loop {
        if let Some(BlockRequest { id, operation }) = state.queue.pop_front() {
            state.running += 1;
            drop(state);
            let result = caught(|| perform(&mut transfer, &*shared.image, &operation));
            if result.is_ok() {
                count(&shared.counters, &operation);
            }
            state = finish(shared, id, result);
        } else if state.closing {
            return;
        } else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Counts what a successful operation has moved.
fn count(counters: &Transfers, operation: &BlockOperation) {
    let (traffic, segments) = match operation {
        BlockOperation::Read { segments, .. } => (&counters.incoming, segments),
        BlockOperation::Write { segments, .. } => (&counters.outgoing, segments),
        _ => return,
    };
    traffic.count(segments.iter().map(|segment| u64::from(segment.length)).sum());
}

/// Publishes a completion, wakes the home and returns with the state locked.
fn finish<M>(shared: &Shared<M>, id: u64, result: io::Result<()>) -> MutexGuard<'_, State> {
    let mut state = shared.state();
    if let Err(error) = &result
        && !state.reported
    {
        state.reported = true;
        log::warn!("disk request failed: {error} (further errors of this disk are not logged)");
    }
    let result = result.map_err(|error| match error.kind() {
        io::ErrorKind::Unsupported => BlockError::Unsupported,
        _ => BlockError::Io,
    });
    state.completed.push_back(BlockCompletion { id, result });
    // Before the wake: that waits for whoever has the device, who may be waiting for the disk to be idle.
    state.running -= 1;
    if state.running == 0 && state.queue.is_empty() {
        shared.idle.notify_all();
    }
    drop(state);
    (shared.wake)();
    shared.state()
}

fn perform<M: GuestMemory>(
    transfer: &mut Transfer<'_, M>,
    image: &dyn Image,
    operation: &BlockOperation,
) -> io::Result<()> {
    match operation {
        BlockOperation::Read { sector, segments } => transfer.read(*sector, segments),
        BlockOperation::Flush => image.flush(),
        _ if image.is_read_only() => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        BlockOperation::Write { sector, segments } => transfer.write(*sector, segments),
        BlockOperation::Discard { sector, sectors } => image.discard(byte_range(image, *sector, *sectors)?),
        BlockOperation::WriteZeroes { sector, sectors, unmap } => {
            image.write_zeroes(byte_range(image, *sector, *sectors)?, *unmap)
        }
    }
}

/// Makes a write past the process's file size limit an error of that write; unblocked, its signal would end
/// the process.
pub(crate) fn block_file_size_signal() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    if let Err(error) = signals.thread_block() {
        log::warn!("cannot block SIGXFSZ: {error}");
    }
}

#[cfg(test)]
mod tests;
