//! A disk at work: I/O threads between the block front end and an image.
//!
//! A flush must cover every write that was completed before it was submitted (Virtio 1.3, "Block Device").
//! Completed means that [`Image::write_at`] has returned, so [`Image::flush`] alone keeps that promise, and
//! requests need no order among themselves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rvisor_waist::{
    BlockBackend, BlockCompletion, BlockError, BlockOperation, BlockRequest, GuestMemory, SECTOR_SIZE,
};

use super::Image;
use super::image::caught;
use super::transfer::{Transfer, byte_range};
use crate::counters::Transfers;
use crate::pool::Pool;

/// An image served as a [`BlockBackend`]. Dropping it finishes what was submitted.
pub struct Disk {
    image: Arc<dyn Image>,
    identity: String,
    counters: Arc<Transfers>,
    pool: Pool<BlockRequest, BlockCompletion>,
}

impl Disk {
    /// Serves `image` for the guest whose RAM is `memory`. `identity` is what the guest reads as serial
    /// number; `wake` is called from an I/O thread whenever there are new completions to take, and `failed` with the first
    /// error of the host's, if one comes.
    ///
    /// # Errors
    /// The host may refuse to make threads.
    pub fn new(
        image: Arc<dyn Image>,
        identity: String,
        memory: Arc<impl GuestMemory + 'static>,
        wake: Arc<dyn Fn() + Send + Sync>,
        failed: impl Fn(&io::Error) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let counters = Arc::<Transfers>::default();
        let (served, counted, reported) = (Arc::clone(&image), Arc::clone(&counters), AtomicBool::new(false));
        let pool = Pool::<BlockRequest, BlockCompletion>::start("disk", wake, move |requests| {
            let mut transfer = Transfer::new(&*served, &*memory);
            requests.serve(|BlockRequest { id, operation }| {
                let result = caught(|| perform(&mut transfer, &*served, &operation));
                if result.is_ok() {
                    count(&counted, &operation);
                }
                BlockCompletion { id, result: told(result, &reported, &failed) }
            });
        })?;
        Ok(Self { image, identity, counters, pool })
    }

    /// What the guest has read and written.
    #[must_use]
    pub fn counters(&self) -> Arc<Transfers> {
        Arc::clone(&self.counters)
    }
}

impl BlockBackend for Disk {
    fn capacity(&self) -> u64 {
        self.image.size() / SECTOR_SIZE
    }

    fn is_read_only(&self) -> bool {
        self.image.is_read_only()
    }

    fn can_discard(&self) -> bool {
        !self.is_read_only()
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn submit(&mut self, request: BlockRequest) {
        self.pool.submit(request);
    }

    fn complete(&mut self) -> Option<BlockCompletion> {
        self.pool.complete()
    }

    fn drain(&mut self) {
        self.pool.drain();
    }

    fn settle(&mut self) {
        self.pool.settle();
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

/// What the front end is told of a result. The first error of the host's is logged and told: a guest must not be able to
/// fill the log, nor to make somebody look after a disk that is well.
fn told(
    result: io::Result<()>,
    reported: &AtomicBool,
    failed: &impl Fn(&io::Error),
) -> Result<(), BlockError> {
    use io::ErrorKind::{InvalidInput, ReadOnlyFilesystem, Unsupported};
    result.map_err(|error| {
        let is_guests = matches!(error.kind(), InvalidInput | ReadOnlyFilesystem | Unsupported);
        if !is_guests && !reported.swap(true, Ordering::Relaxed) {
            log::warn!("disk request failed: {error} (further errors of this disk are not logged)");
            failed(&error);
        }
        match error.kind() {
            Unsupported => BlockError::Unsupported,
            _ => BlockError::Io,
        }
    })
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

#[cfg(test)]
mod tests;
