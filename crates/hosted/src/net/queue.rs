//! Frames between the device's thread and the network's thread.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::link::QUEUE_BYTES;

/// Buffers kept for reuse in each direction, and bytes of the largest among them.
const MAX_SPARE: usize = 256;
const LARGEST_SPARE: usize = 4096;

/// Both directions, and how the network's thread is woken.
pub(super) struct Queues {
    from_guest: Mutex<Queue>,
    to_guest: Mutex<Queue>,
    /// Written to wake the network's thread.
    bell: OwnedFd,
    /// Whether the bell has rung since the thread last looked.
    rung: AtomicBool,
    /// Whether the thread waits for room in `to_guest`.
    stalled: AtomicBool,
    closing: AtomicBool,
}

/// Frames in one direction.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Queue {
    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE && buffer.capacity() <= LARGEST_SPARE {
            self.spare.push(buffer);
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queues {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            from_guest: Mutex::default(),
            to_guest: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            rung: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        })
    }

    /// Wakes the network's thread, unless that is under way already.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // It fails only where the counter is full, and then the thread wakes too.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// The device sends a frame; dropped where too many wait.
    pub(super) fn send(&self, frame: &[u8]) {
        let mut queue = lock(&self.from_guest);
        if queue.bytes >= QUEUE_BYTES {
            return;
        }
        let mut buffer = queue.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        queue.bytes += buffer.len();
        queue.frames.push_back(buffer);
        drop(queue);
        self.ring();
    }

    /// The device takes a frame.
    pub(super) fn receive(&self, frame: &mut Vec<u8>) -> bool {
        frame.clear();
        let mut queue = lock(&self.to_guest);
        let Some(mut next) = queue.frames.pop_front() else { return false };
        queue.bytes -= next.len();
        mem::swap(frame, &mut next);
        queue.recycle(next);
        let roomy = queue.bytes < QUEUE_BYTES / 2;
        drop(queue);
        if roomy && self.stalled.swap(false, Ordering::AcqRel) {
            self.ring();
        }
        true
    }

    /// Asks the network's thread to end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// What becomes readable when the thread is woken.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The network's thread takes what the device sent and gives back `used` buffers. To be called after the
    /// bell: what is sent from here on rings it again.
    pub(super) fn take(&self, used: &mut Vec<Vec<u8>>) -> VecDeque<Vec<u8>> {
        if self.rung.load(Ordering::Acquire) {
            let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
            self.rung.store(false, Ordering::Release);
        }
        let mut queue = lock(&self.from_guest);
        used.drain(..).for_each(|buffer| queue.recycle(buffer));
        queue.bytes = 0;
        mem::take(&mut queue.frames)
    }

    /// The network's thread gives frames for the guest and takes spare buffers; returns the bytes that wait.
    /// If `stalled`, it is woken when there is room again.
    pub(super) fn publish(
        &self,
        frames: &mut Vec<Vec<u8>>,
        spare: &mut Vec<Vec<u8>>,
        stalled: bool,
    ) -> usize {
        let mut queue = lock(&self.to_guest);
        for frame in frames.drain(..) {
            queue.bytes += frame.len();
            queue.frames.push_back(frame);
        }
        spare.append(&mut queue.spare);
        spare.truncate(MAX_SPARE);
        // Under the lock, so that the device can't empty the queue in between and find nobody waiting.
        self.stalled.store(stalled && queue.bytes >= QUEUE_BYTES / 2, Ordering::Release);
        queue.bytes
    }
}
