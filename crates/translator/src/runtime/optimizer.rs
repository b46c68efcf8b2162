//! The second tier's thread: it forms and plans traces while the harts run the first tier's code.

use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::frontend::{MOST_TRACED, superblock, trace};
use crate::ir::{Offset, Superblock};
use crate::passes::plan;
use crate::runtime::cache::{CodeCache, Epoch, PageBytes};
use crate::runtime::heat::PageHeat;
use crate::runtime::shared::Shared;

/// Requests that may wait; more are forgotten until their code is still hotter.
const MOST_WAITING: usize = 256;

/// What is to be translated again.
pub struct Request {
    /// Guest physical page, and where the trace starts.
    pub page: u64,
    pub entry: Offset,
    /// The page, read when its epoch was this.
    pub bytes: PageBytes,
    pub epoch: Epoch,
    pub heat: PageHeat,
}

/// The way to the thread, which ends when this is dropped.
pub struct Optimizer(SyncSender<Box<Request>>);

impl Optimizer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the host has none.
    pub fn start(shared: Weak<Shared>) -> io::Result<Self> {
        let (sender, requests) = sync_channel(MOST_WAITING);
        std::thread::Builder::new().name("optimizer".into()).spawn(move || work(&shared, &requests))?;
        Ok(Self(sender))
    }

    /// Asks for a translation.
    pub fn ask(&self, request: Box<Request>) {
        // A full queue means that it is asked for again.
        let _ = self.0.try_send(request);
    }
}

fn work(shared: &Weak<Shared>, requests: &Receiver<Box<Request>>) {
    for request in requests {
        let trace = request.trace();
        let plan = plan(&trace, false);
        let Some(shared) = shared.upgrade() else { return };
        shared.cache().replace(request.page, &trace, &plan, &request.bytes, request.epoch);
    }
}

/// Translates what the first tier has just translated. Which way branches go is guessed from where they stand.
pub fn at_once(cache: &mut CodeCache, page: u64, entry: Offset, bytes: &PageBytes) {
    let trace = trace(bytes, entry, |branch, target| (branch ^ target ^ entry) & 4 != 0);
    let epoch = cache.epoch(page);
    cache.replace(page, &trace, &plan(&trace, true), bytes, epoch);
}

impl Request {
    fn trace(&self) -> Superblock {
        let mut taken = Vec::new();
        let mut start = self.entry;
        // Each part is the block that the first tier has there, whose ways out were counted.
        while let Some(node) = self.heat.taken(&superblock(&self.bytes, start))
            && !taken.contains(&node.offset)
            && taken.len() < MOST_TRACED
        {
            taken.push(node.offset);
            start = node.offset + node.instruction.imm;
        }
        trace(&self.bytes, self.entry, |branch, _| taken.contains(&branch))
    }
}
