//! Guests' disks: ranges of the physical one.
//!
//! A request is cut into *pieces*, each carried out through a buffer of the monitor's: the physical device never touches
//! a guest's memory. A guest has few pieces on the way at a time, and guests take turns, so that none can keep others
//! from the disk.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_machine::bundle::DiskRange;
use rvisor_waist::{
    BlockBackend, BlockCompletion, BlockError, BlockOperation, BlockRequest, GuestMemory, SECTOR_SIZE,
    Segment,
};
use spin::Mutex;
use thiserror::Error;

use super::drive::{Drive, Finished, Geometry, Operation};
use super::{Ready, Served};

/// Bytes of a piece that moves data.
const PIECE: u64 = 64 << 10;
/// Pieces of one guest that the physical disk works on at a time.
const ON_THE_WAY: usize = 4;

/// Why a guest can't have its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RangeError {
    /// There is none.
    #[error("there is no physical disk for its range")]
    NoDisk,
    /// It ends behind the disk.
    #[error("its disk ends at sector {end}, the physical one has {capacity}")]
    TooLong {
        /// Where it would end.
        end: u64,
        /// Where the physical one ends.
        capacity: u64,
    },
    /// The physical disk is read-only.
    #[error("the physical disk is read-only; make the guest's disk readonly")]
    ReadOnly,
}

/// The physical disk and who uses it.
pub struct Shared<D> {
    ready: Ready,
    geometry: Geometry,
    state: Mutex<State<D>>,
}

struct State<D> {
    drive: D,
    clients: Vec<Client>,
    /// Whose turn it is.
    turn: usize,
    /// Pieces on the way, by tag.
    pieces: BTreeMap<u64, Piece>,
    next_tag: u64,
    /// What became of the monitor's own operations, by tag.
    own: BTreeMap<u64, Option<Result<Vec<u8>, BlockError>>>,
}

/// One guest.
struct Client {
    guest: usize,
    range: DiskRange,
    memory: Arc<dyn Memory>,
    jobs: VecDeque<Job>,
    on_the_way: usize,
    done: VecDeque<BlockCompletion>,
    /// Bytes read and written since the start.
    moved: [u64; 2],
}

/// A request being carried out.
struct Job {
    request: BlockRequest,
    /// Sectors of it for which there are pieces, out of all; a flush has one.
    started: u64,
    total: u64,
    outstanding: usize,
    result: Result<(), BlockError>,
}

/// A part of a job at the physical disk.
struct Piece {
    client: usize,
    job: u64,
    /// Where data that was read goes: bytes from the start of the request.
    offset: u64,
}

/// What copies between a guest's memory and buffers.
trait Memory: Send + Sync {
    fn copy_out(&self, segments: &[Segment], offset: u64, buffer: &mut [u8]) -> Result<(), BlockError>;
    fn copy_in(&self, segments: &[Segment], offset: u64, buffer: &[u8]) -> Result<(), BlockError>;
}

/// Walks the parts of `segments` that make up `length` bytes from `offset`: address and range in the buffer.
fn parts(
    segments: &[Segment],
    mut offset: u64,
    length: u64,
) -> impl Iterator<Item = (rvisor_waist::GuestPhysical, core::ops::Range<usize>)> {
    let mut done = 0;
    segments.iter().filter_map(move |segment| {
        let size = u64::from(segment.length);
        if offset >= size || done == length {
            offset = offset.saturating_sub(size);
            return None;
        }
        let count = (size - offset).min(length - done);
        let part = (segment.address.offset(offset), done as usize..(done + count) as usize);
        (offset, done) = (0, done + count);
        Some(part)
    })
}

impl<M: GuestMemory> Memory for M {
    fn copy_out(&self, segments: &[Segment], offset: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        for (address, range) in parts(segments, offset, buffer.len() as u64) {
            self.read(address, &mut buffer[range]).map_err(|_| BlockError::Io)?;
        }
        Ok(())
    }

    fn copy_in(&self, segments: &[Segment], offset: u64, buffer: &[u8]) -> Result<(), BlockError> {
        for (address, range) in parts(segments, offset, buffer.len() as u64) {
            self.write(address, &buffer[range]).map_err(|_| BlockError::Io)?;
        }
        Ok(())
    }
}

impl Job {
    fn new(request: BlockRequest) -> Self {
        let total = match &request.operation {
            BlockOperation::Read { segments, .. } | BlockOperation::Write { segments, .. } => {
                segments.iter().map(|segment| u64::from(segment.length)).sum::<u64>() / SECTOR_SIZE
            }
            BlockOperation::Flush => 1,
            BlockOperation::Discard { sectors, .. } | BlockOperation::WriteZeroes { sectors, .. } => *sectors,
        };
        Self { request, started: 0, total, outstanding: 0, result: Ok(()) }
    }

    /// Sectors of the disk that it is about, from which on.
    fn sector(&self) -> Option<u64> {
        match self.request.operation {
            BlockOperation::Read { sector, .. }
            | BlockOperation::Write { sector, .. }
            | BlockOperation::Discard { sector, .. }
            | BlockOperation::WriteZeroes { sector, .. } => Some(sector),
            BlockOperation::Flush => None,
        }
    }

    fn fail(&mut self, error: BlockError) {
        self.result = Err(error);
        self.started = self.total;
    }

    fn is_done(&self) -> bool {
        self.started == self.total && self.outstanding == 0
    }

    /// The next part, and how many sectors it is. Nothing outside `range` is ever asked for.
    fn next_operation(
        &self,
        geometry: &Geometry,
        range: &DiskRange,
        memory: &dyn Memory,
    ) -> Result<(Operation, u64), BlockError> {
        let left = self.total - self.started;
        let moved = left.min(PIECE / SECTOR_SIZE);
        let at = match self.sector() {
            Some(sector) => place(range, sector, self.total).ok_or(BlockError::Io)? + self.started,
            None => 0,
        };
        let limited = |most: u32| match most {
            0 => Err(BlockError::Unsupported),
            most => Ok(left.min(most.into())),
        };
        Ok(match &self.request.operation {
            BlockOperation::Read { .. } => {
                (Operation::Read { sector: at, length: (moved * SECTOR_SIZE) as usize }, moved)
            }
            BlockOperation::Write { segments, .. } => {
                let mut data = alloc::vec![0; (moved * SECTOR_SIZE) as usize];
                memory.copy_out(segments, self.started * SECTOR_SIZE, &mut data)?;
                (Operation::Write { sector: at, data }, moved)
            }
            BlockOperation::Flush => (Operation::Flush, 1),
            BlockOperation::Discard { .. } => {
                let count = limited(geometry.discard)?;
                (Operation::Discard { sector: at, sectors: count as u32 }, count)
            }
            BlockOperation::WriteZeroes { unmap, .. } => {
                let count = limited(geometry.write_zeroes)?;
                (Operation::WriteZeroes { sector: at, sectors: count as u32, unmap: *unmap }, count)
            }
        })
    }
}

/// Where `sectors` from `sector` of a guest's disk are on the physical one; `None` if not all of them are the guest's.
fn place(range: &DiskRange, sector: u64, sectors: u64) -> Option<u64> {
    let end = sector.checked_add(sectors)?;
    (end <= range.sectors).then_some(range.start + sector)
}

impl<D: Drive> Shared<D> {
    /// A disk that no guest uses yet.
    pub fn new(drive: D, ready: Ready) -> Arc<Self> {
        let geometry = drive.geometry();
        let state = State {
            drive,
            clients: Vec::new(),
            turn: 0,
            pieces: BTreeMap::new(),
            next_tag: 0,
            own: BTreeMap::new(),
        };
        Arc::new(Self { ready, geometry, state: Mutex::new(state) })
    }

    /// What the physical disk is.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Checks a guest's range, and makes one that goes to the end of the disk definite.
    pub fn check(&self, range: DiskRange) -> Result<DiskRange, RangeError> {
        let Geometry { capacity, is_read_only, .. } = self.geometry;
        let sectors = if range.sectors == 0 { capacity.saturating_sub(range.start) } else { range.sectors };
        let end = range.start.saturating_add(sectors);
        if end > capacity || sectors == 0 {
            return Err(RangeError::TooLong { end, capacity });
        }
        if is_read_only && !range.read_only {
            return Err(RangeError::ReadOnly);
        }
        Ok(DiskRange { sectors, ..range })
    }

    /// Gives a guest its range, which was [checked](Self::check).
    pub fn attach<M: GuestMemory + 'static>(
        self: &Arc<Self>,
        guest: usize,
        range: DiskRange,
        memory: Arc<M>,
        name: &'static str,
    ) -> Box<dyn BlockBackend>
    where
        D: 'static,
    {
        let mut state = self.state.lock();
        state.clients.push(Client {
            guest,
            range,
            memory,
            jobs: VecDeque::new(),
            on_the_way: 0,
            done: VecDeque::new(),
            moved: [0; 2],
        });
        let client = state.clients.len() - 1;
        Box::new(RangeDisk { shared: Arc::clone(self), client, range, name })
    }

    /// Looks at what the physical disk has finished, and gives it more to do; `look` is done first.
    pub fn work(&self, look: impl FnOnce(&mut D)) {
        let mut state = self.state.lock();
        look(&mut state.drive);
        let reached = state.work(&self.geometry);
        drop(state);
        (0..64).filter(|guest| reached >> guest & 1 == 1).for_each(|guest| (self.ready)(guest, Served::Disk));
    }

    /// Carries out an operation of the monitor's own, and waits for it; guests' operations go on meanwhile. Returns what
    /// was read.
    pub fn perform(&self, operation: &Operation) -> Result<Vec<u8>, BlockError> {
        if *operation == Operation::Flush && !self.geometry.has_flush {
            return Ok(Vec::new());
        }
        let submit = || {
            let mut state = self.state.lock();
            let tag = state.next_tag;
            state.drive.submit(tag, operation.clone()).then(|| {
                state.next_tag += 1;
                state.own.insert(tag, None);
                tag
            })
        };
        let tag = loop {
            if let Some(tag) = submit() {
                break tag;
            }
            self.work(|_| {});
            core::hint::spin_loop();
        };
        loop {
            self.work(|_| {});
            let mut state = self.state.lock();
            if state.own.get(&tag).is_none_or(Option::is_some) {
                return state.own.remove(&tag).flatten().unwrap_or(Err(BlockError::Io));
            }
            drop(state);
            core::hint::spin_loop();
        }
    }

    /// Bytes that a guest has read and written.
    pub fn moved(&self, guest: usize) -> [u64; 2] {
        let state = self.state.lock();
        state.clients.iter().find(|client| client.guest == guest).map_or([0; 2], |client| client.moved)
    }
}

impl<D: Drive> State<D> {
    /// Returns the guests that have completions, one bit for each.
    fn work(&mut self, geometry: &Geometry) -> u64 {
        let mut reached = 0;
        loop {
            while let Some(finished) = self.drive.finished() {
                self.finish(finished);
            }
            let has_started = self.start(geometry);
            for client in &mut self.clients {
                reached |= u64::from(client.complete()) << client.guest;
            }
            // What was started may have finished at once.
            if !has_started {
                return reached;
            }
        }
    }

    fn finish(&mut self, finished: Finished) {
        if let Some(own) = self.own.get_mut(&finished.tag) {
            *own = Some(finished.result);
            return;
        }
        let Some(piece) = self.pieces.remove(&finished.tag) else { return };
        let client = &mut self.clients[piece.client];
        client.on_the_way -= 1;
        let Some(job) = client.jobs.iter_mut().find(|job| job.request.id == piece.job) else { return };
        job.outstanding -= 1;
        let result = finished.result.and_then(|data| match &job.request.operation {
            BlockOperation::Read { segments, .. } => {
                client.moved[0] += data.len() as u64;
                client.memory.copy_in(segments, piece.offset, &data)
            }
            _ => Ok(()),
        });
        if let Err(error) = result {
            job.fail(error);
        }
    }

    /// Gives the drive as much as it and each guest may have, a piece of each guest in turn. True if that was something.
    fn start(&mut self, geometry: &Geometry) -> bool {
        let count = self.clients.len();
        let (mut has_started, mut idle) = (false, 0);
        while idle < count {
            self.turn = (self.turn + 1) % count;
            match self.start_piece(self.turn, geometry) {
                Some(true) => (has_started, idle) = (true, 0),
                Some(false) => idle += 1,
                // The drive is full: who couldn't go now is first the next time.
                None => {
                    self.turn = (self.turn + count - 1) % count;
                    return has_started;
                }
            }
        }
        has_started
    }

    /// Starts a piece of a guest's; false if it has none that may go, `None` if the drive has no room.
    fn start_piece(&mut self, index: usize, geometry: &Geometry) -> Option<bool> {
        let client = &mut self.clients[index];
        if client.on_the_way >= ON_THE_WAY {
            return Some(false);
        }
        let Some(job) = client.jobs.iter_mut().find(|job| job.started < job.total) else {
            return Some(false);
        };
        let is_write = matches!(job.request.operation, BlockOperation::Write { .. });
        match job.next_operation(geometry, &client.range, &*client.memory) {
            Err(error) => job.fail(error),
            // Nothing is kept back: what was written is durable.
            Ok((Operation::Flush, count)) if !geometry.has_flush => job.started += count,
            Ok((operation, count)) => {
                if !self.drive.submit(self.next_tag, operation) {
                    return None;
                }
                let offset = job.started * SECTOR_SIZE;
                self.pieces.insert(self.next_tag, Piece { client: index, job: job.request.id, offset });
                self.next_tag += 1;
                job.started += count;
                job.outstanding += 1;
                client.on_the_way += 1;
                client.moved[1] += if is_write { count * SECTOR_SIZE } else { 0 };
            }
        }
        Some(true)
    }
}

impl Client {
    /// Takes jobs that are done off the list. True if there are some.
    fn complete(&mut self) -> bool {
        let before = self.done.len();
        let done = &mut self.done;
        self.jobs.retain(|job| {
            if job.is_done() {
                done.push_back(BlockCompletion { id: job.request.id, result: job.result });
            }
            !job.is_done()
        });
        self.done.len() > before
    }
}

/// A guest's disk.
struct RangeDisk<D> {
    shared: Arc<Shared<D>>,
    client: usize,
    range: DiskRange,
    name: &'static str,
}

impl<D: Drive + 'static> BlockBackend for RangeDisk<D> {
    fn capacity(&self) -> u64 {
        self.range.sectors
    }

    fn is_read_only(&self) -> bool {
        self.range.read_only
    }

    fn can_discard(&self) -> bool {
        let Geometry { discard, write_zeroes, .. } = self.shared.geometry;
        !self.range.read_only && discard != 0 && write_zeroes != 0
    }

    fn identity(&self) -> &str {
        self.name.get(..20).unwrap_or(self.name)
    }

    fn submit(&mut self, request: BlockRequest) {
        self.shared.state.lock().clients[self.client].jobs.push_back(Job::new(request));
        self.shared.work(|_| {});
    }

    fn complete(&mut self) -> Option<BlockCompletion> {
        self.shared.state.lock().clients[self.client].done.pop_front()
    }

    fn drain(&mut self) {
        // Whoever resets its device must not have others wait for all that it has asked for: what isn't on the way stays undone.
        self.shared.state.lock().clients[self.client]
            .jobs
            .iter_mut()
            .for_each(|job| job.fail(BlockError::Io));
        self.settle();
        self.shared.state.lock().clients[self.client].done.clear();
    }

    fn settle(&mut self) {
        loop {
            self.shared.work(|_| {});
            if self.shared.state.lock().clients[self.client].jobs.is_empty() {
                return;
            }
            core::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests;
