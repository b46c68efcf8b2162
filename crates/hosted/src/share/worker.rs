//! Shared files at work: threads between the 9P front end and the server.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, pread, pwrite};
use rvisor_waist::{
    FileShareBackend, GuestMemory, Segment, ShareCompletion, ShareError as Number, ShareRequest,
};

use super::options::ShareOptions;
use super::server::Server;
use super::tree::ShareError;
use crate::pool::Pool;

/// Most bytes of one read or write.
const LARGEST: usize = 1 << 20;

/// Shared directories, served as a [`FileShareBackend`]. Dropping it finishes what was submitted.
pub struct Shares {
    server: Arc<Server>,
    tag: String,
    pool: Pool<ShareRequest, ShareCompletion>,
}

impl Shares {
    /// One directory, under the tag that the guest finds it by.
    ///
    /// # Errors
    /// If it can't be opened, or the host refuses to make threads.
    pub fn single(
        options: &ShareOptions,
        memory: Arc<impl GuestMemory + 'static>,
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
        memory: Arc<impl GuestMemory + 'static>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, ShareError> {
        Self::new(Server::listed(options)?, tag.into(), memory, wake)
    }

    fn new(
        server: Server,
        tag: String,
        memory: Arc<impl GuestMemory + 'static>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, ShareError> {
        let server = Arc::new(server);
        let serving = Arc::clone(&server);
        let pool = Pool::<ShareRequest, ShareCompletion>::start("share", wake, move |requests| {
            let mut buffer = Buffer { memory: &*memory, bytes: Vec::new() };
            requests.serve(|ShareRequest { id, call }| {
                let result = serving.serve(&call, &mut buffer);
                let result = result.map_err(|error| Number(error.raw_os_error().unsigned_abs()));
                ShareCompletion { id, result }
            });
        })?;
        Ok(Self { server, tag, pool })
    }
}

impl FileShareBackend for Shares {
    fn tag(&self) -> &str {
        &self.tag
    }

    fn submit(&mut self, request: ShareRequest) {
        self.pool.submit(request);
    }

    fn complete(&mut self) -> Option<ShareCompletion> {
        self.pool.complete()
    }

    fn drain(&mut self) {
        self.pool.drain();
        self.server.reset();
    }

    fn is_in_use(&self) -> bool {
        self.server.is_in_use()
    }
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
