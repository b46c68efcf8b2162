//! Back ends without a home: a disk in memory, a console and a network of vectors. Their handles are shared with the
//! test, which plays the host.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::{
    BlockBackend, BlockCompletion, BlockError, BlockOperation, BlockRequest, ConsoleBackend, EntropyBackend,
    GuestMemory, NetBackend, SECTOR_SIZE, Segment,
};
use spin::Mutex;

use super::TestMemory;

/// What a [`TestDisk`] holds and was asked.
#[derive(Default)]
pub struct DiskState {
    /// The contents.
    pub bytes: Vec<u8>,
    /// Requests submitted and not carried out.
    pub submitted: VecDeque<BlockRequest>,
    /// Operations carried out, in order.
    pub log: Vec<BlockOperation>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether requests wait for [`TestDisk::step`] instead of being carried out at once.
    pub manual: bool,
    /// The next operation fails with this.
    pub fail: Option<BlockError>,
    finished: VecDeque<BlockCompletion>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone)]
pub struct TestDisk {
    /// The disk's state.
    pub state: Arc<Mutex<DiskState>>,
    memory: Arc<Mutex<Option<Arc<TestMemory>>>>,
}

impl TestDisk {
    /// A disk of zeros.
    #[must_use]
    pub fn new(sectors: usize) -> Self {
        let bytes = vec![0; sectors * SECTOR_SIZE as usize];
        let state = Arc::new(Mutex::new(DiskState { bytes, ..DiskState::default() }));
        Self { state, memory: Arc::default() }
    }

    /// Gives the disk the memory that its requests name.
    pub fn attach(&self, memory: &Arc<TestMemory>) {
        *self.memory.lock() = Some(Arc::clone(memory));
    }

    /// Carries one submitted request out; false where there is none.
    pub fn step(&self) -> bool {
        let mut state = self.state.lock();
        let Some(request) = state.submitted.pop_front() else { return false };
        let result = match state.fail.take() {
            Some(error) => Err(error),
            None => self.carry_out(&mut state, &request.operation),
        };
        state.log.push(request.operation);
        state.finished.push_back(BlockCompletion { id: request.id, result });
        true
    }

    fn carry_out(&self, state: &mut DiskState, operation: &BlockOperation) -> Result<(), BlockError> {
        match operation {
            BlockOperation::Read { sector, segments } => {
                self.copy(state, *sector, segments, |memory, segment, bytes| {
                    memory.write(segment.address, bytes)
                })
            }
            BlockOperation::Write { sector, segments } => {
                self.copy(state, *sector, segments, |memory, segment, bytes| {
                    memory.read(segment.address, bytes)
                })
            }
            BlockOperation::Flush | BlockOperation::Discard { .. } => Ok(()),
            BlockOperation::WriteZeroes { sector, sectors, .. } => {
                let start = (sector * SECTOR_SIZE) as usize;
                let end = start + (sectors * SECTOR_SIZE) as usize;
                state.bytes.get_mut(start..end).ok_or(BlockError::Io)?.fill(0);
                Ok(())
            }
        }
    }

    fn copy(
        &self,
        state: &mut DiskState,
        sector: u64,
        segments: &[Segment],
        transfer: impl Fn(&TestMemory, &Segment, &mut [u8]) -> Result<(), rvisor_waist::OutOfRange>,
    ) -> Result<(), BlockError> {
        let memory = self.memory.lock();
        let memory = memory.as_ref().ok_or(BlockError::Io)?;
        let mut at = (sector * SECTOR_SIZE) as usize;
        for segment in segments {
            let end = at + segment.length as usize;
            let bytes = state.bytes.get_mut(at..end).ok_or(BlockError::Io)?;
            transfer(memory, segment, bytes).map_err(|_| BlockError::Io)?;
            at = end;
        }
        Ok(())
    }
}

impl BlockBackend for TestDisk {
    fn capacity(&self) -> u64 {
        self.state.lock().bytes.len() as u64 / SECTOR_SIZE
    }

    fn is_read_only(&self) -> bool {
        self.state.lock().read_only
    }

    fn can_discard(&self) -> bool {
        true
    }

    fn identity(&self) -> &str {
        "test disk"
    }

    fn submit(&mut self, request: BlockRequest) {
        self.state.lock().submitted.push_back(request);
        if !self.state.lock().manual {
            self.step();
        }
    }

    fn complete(&mut self) -> Option<BlockCompletion> {
        self.state.lock().finished.pop_front()
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    fn drain(&mut self) {
        while self.step() {}
        self.state.lock().finished.clear();
    }
}

/// What went through a [`TestConsole`].
pub struct ConsoleState {
    /// Bytes for the guest.
    pub input: VecDeque<u8>,
    /// Bytes from the guest.
    pub output: Vec<u8>,
    /// Bytes that may still be put out.
    pub room: usize,
    /// Whether somebody is at the host's end.
    pub open: bool,
    /// Whether the guest opened its end.
    pub guest_open: bool,
    /// Columns and rows.
    pub size: Option<(u16, u16)>,
}

/// A stream of bytes; clones are the same stream.
#[derive(Clone)]
pub struct TestConsole(pub Arc<Mutex<ConsoleState>>);

impl TestConsole {
    /// An open stream with room for any output.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(ConsoleState {
            input: VecDeque::new(),
            output: Vec::new(),
            room: usize::MAX,
            open: true,
            guest_open: false,
            size: None,
        })))
    }

    /// The same stream as a back end.
    #[must_use]
    pub fn boxed(&self) -> Box<dyn ConsoleBackend> {
        Box::new(self.clone())
    }
}

impl Default for TestConsole {
    fn default() -> Self {
        Self::new()
    }
}

impl ConsoleBackend for TestConsole {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut state = self.0.lock();
        let count = bytes.len().min(state.room);
        state.room -= count;
        state.output.extend(&bytes[..count]);
        count
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut state = self.0.lock();
        let count = buffer.len().min(state.input.len());
        for (byte, given) in buffer.iter_mut().zip(state.input.drain(..count)) {
            *byte = given;
        }
        count
    }

    fn is_open(&self) -> bool {
        self.0.lock().open
    }

    fn guest_open(&mut self, open: bool) {
        self.0.lock().guest_open = open;
    }

    fn size(&self) -> Option<(u16, u16)> {
        self.0.lock().size
    }
}

/// Entropy that counts: 1, 2, 3, ...
#[derive(Default)]
pub struct TestEntropy(u8);

impl EntropyBackend for TestEntropy {
    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
    }
}

/// What went through a [`TestNet`].
#[derive(Default)]
pub struct NetState {
    /// Frames from the guest.
    pub sent: Vec<Vec<u8>>,
    /// Frames for the guest.
    pub incoming: VecDeque<Vec<u8>>,
    /// Whether it takes large segments, and damages nothing.
    pub is_local: bool,
}

/// A network whose other end is the test; clones are the same network.
#[derive(Clone, Default)]
pub struct TestNet(pub Arc<Mutex<NetState>>);

impl NetBackend for TestNet {
    fn send(&mut self, frame: &[u8]) {
        self.0.lock().sent.push(frame.into());
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        frame.clear();
        let Some(next) = self.0.lock().incoming.pop_front() else { return false };
        frame.extend(next);
        true
    }

    fn is_local(&self) -> bool {
        self.0.lock().is_local
    }
}
