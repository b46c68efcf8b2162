//! Shared files at work: threads between the 9P front end and the server.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::io::{Errno, pread, pwrite};
use rvisor_waist::{
    FileShareBackend, GuestMemory, Segment, ShareCompletion, ShareError as Number, ShareRequest,
};

use super::options::ShareOptions;
use super::server::Server;
use super::tree::ShareError;
use crate::disk::block_file_size_signal;

/// Threads: enough that one that waits for the host's disk doesn't hold up the others.
const THREADS: usize = 4;
/// Most bytes of one read or write.
const LARGEST: usize = 1 << 20;

/// Shared directories, served as a [`FileShareBackend`]. Dropping it finishes what was submitted.
pub struct Shares<M> {
    shared: Arc<Shared<M>>,
    tag: String,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<M> {
    server: Server,
    memory: Arc<M>,
    /// Tells the home that there are completions.
    wake: Arc<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    /// There is work, or the end.
    work: Condvar,
    /// Nothing is queued or running.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<ShareRequest>,
    running: usize,
    completed: VecDeque<ShareCompletion>,
    closing: bool,
}

impl<M: GuestMemory + 'static> Shares<M> {
    /// One directory, under the tag that the guest finds it by.
    ///
    /// # Errors
    /// If it can't be opened, or the host refuses to make threads.
    pub fn single(
        options: &ShareOptions,
        memory: Arc<M>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, ShareError> {
        Self::new(Server::single(options)?, options.guest.clone(), memory, wake)
    }

    /// Several, as entries of a directory: `0`, `1` and so on, and a file `places` that says where they belong.
    ///
    /// # Errors
    /// As for [`single`](Self::single).
    pub fn listed(
        options: &[ShareOptions],
        tag: &str,
        memory: Arc<M>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, ShareError> {
        Self::new(Server::listed(options)?, tag.into(), memory, wake)
    }

    fn new(
        server: Server,
        tag: String,
        memory: Arc<M>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, ShareError> {
        let (work, idle) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { server, memory, wake, state: Mutex::default(), work, idle });
        let mut shares = Self { shared, tag, threads: Vec::new() };
        for _ in 0..THREADS {
            let shared = Arc::clone(&shares.shared);
            shares.threads.push(thread::Builder::new().name("share".into()).spawn(move || serve(&shared))?);
        }
        Ok(shares)
    }
}

impl<M> Shared<M> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: GuestMemory + 'static> FileShareBackend for Shares<M> {
    fn tag(&self) -> &str {
        &self.tag
    }

    fn submit(&mut self, request: ShareRequest) {
        self.shared.state().queue.push_back(request);
        self.shared.work.notify_one();
    }

    fn complete(&mut self) -> Option<ShareCompletion> {
        self.shared.state().completed.pop_front()
    }

    fn drain(&mut self) {
        let busy = |state: &mut State| !state.queue.is_empty() || state.running > 0;
        let state = self.shared.state();
        let mut state = self.shared.idle.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner);
        state.completed.clear();
        drop(state);
        self.shared.server.reset();
    }
}

impl<M> Drop for Shares<M> {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was told already.
            let _ = thread.join();
        }
    }
}

/// The body of a thread.
fn serve<M: GuestMemory>(shared: &Shared<M>) {
    block_file_size_signal();
    let mut buffer = Buffer { memory: &*shared.memory, bytes: Vec::new() };
    let mut state = shared.state();
    loop {
        if let Some(ShareRequest { id, call }) = state.queue.pop_front() {
            state.running += 1;
            drop(state);
            let result = shared.server.serve(&call, &mut buffer);
            let result = result.map_err(|error| Number(error.raw_os_error().unsigned_abs()));
            state = finish(shared, ShareCompletion { id, result });
        } else if state.closing {
            return;
        } else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Publishes a completion, wakes the home and returns with the state locked.
fn finish<M>(shared: &Shared<M>, completion: ShareCompletion) -> MutexGuard<'_, State> {
    let mut state = shared.state();
    state.completed.push_back(completion);
    // Before the wake: that waits for whoever has the device, who may be waiting for the share to be idle.
    state.running -= 1;
    if state.running == 0 && state.queue.is_empty() {
        shared.idle.notify_all();
    }
    drop(state);
    (shared.wake)();
    shared.state()
}

/// A thread's way between files and guest memory, which can't be lent to the host: harts write to it meanwhile.
pub(super) struct Buffer<'a, M> {
    pub memory: &'a M,
    pub bytes: Vec<u8>,
}

impl<M: GuestMemory> Buffer<'_, M> {
    /// Room for the segments' bytes, as far as a request goes.
    fn room(&mut self, segments: &[Segment]) -> &mut [u8] {
        let length = segments.iter().map(|segment| segment.length as usize).sum::<usize>().min(LARGEST);
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        &mut self.bytes[..length]
    }

    /// From a file to the segments; returns how many bytes.
    pub fn read(&mut self, file: &OwnedFd, offset: u64, segments: &[Segment]) -> Result<u32, Errno> {
        check_offset(offset)?;
        let room = self.room(segments);
        let mut done = 0;
        while done < room.len() {
            match pread(file, &mut room[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        fill(self.memory, segments, &self.bytes[..done])
    }

    /// Bytes that aren't in a file, the same way.
    pub fn give(&mut self, bytes: &[u8], segments: &[Segment]) -> Result<u32, Errno> {
        let length = self.room(segments).len().min(bytes.len());
        fill(self.memory, segments, &bytes[..length])
    }

    /// From the segments to a file; returns how many bytes.
    pub fn write(&mut self, file: &OwnedFd, offset: u64, segments: &[Segment]) -> Result<u32, Errno> {
        check_offset(offset)?;
        let memory = self.memory;
        let bytes = self.room(segments);
        let mut rest = &mut *bytes;
        for segment in segments {
            let (now, later) = rest.split_at_mut(rest.len().min(segment.length as usize));
            memory.read(segment.address, now).map_err(|_| Errno::FAULT)?;
            rest = later;
        }
        let mut done = 0;
        while done < bytes.len() {
            match pwrite(file, &bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done as u32)
    }
}

/// The host counts with a sign.
fn check_offset(offset: u64) -> Result<(), Errno> {
    if offset > i64::MAX as u64 - LARGEST as u64 { Err(Errno::INVAL) } else { Ok(()) }
}

/// Copies bytes to the beginning of the segments.
fn fill<M: GuestMemory>(memory: &M, segments: &[Segment], bytes: &[u8]) -> Result<u32, Errno> {
    let mut rest = bytes;
    for segment in segments {
        let (now, later) = rest.split_at(rest.len().min(segment.length as usize));
        memory.write(segment.address, now).map_err(|_| Errno::FAULT)?;
        rest = later;
    }
    Ok((bytes.len() - rest.len()) as u32)
}
