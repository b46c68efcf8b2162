//! Byte streams between host files and a guest's serial line or console port.
//!
//! A thread reads the host's end and another writes it, so that neither a slow terminal nor a full pipe ever
//! stops a hart. Both directions are bounded: a guest that prints faster than the host takes is slowed down by
//! its own driver, and input that the guest doesn't take stays in the pipe.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rvisor_waist::ConsoleBackend;

use crate::wake::Wake;

/// Bytes that wait for the guest, at most.
const INPUT_LIMIT: usize = 64 << 10;
/// Bytes that wait for the host, at most.
const OUTPUT_LIMIT: usize = 1 << 20;

/// Looks at input before the guest gets it, and may keep some of it.
pub type Filter = Box<dyn FnMut(&[u8], &mut Vec<u8>) + Send>;

#[derive(Default)]
struct Queues {
    input: VecDeque<u8>,
    /// No more input will come.
    input_ended: bool,
    output: VecDeque<u8>,
    /// The writing thread holds bytes that it took from `output`.
    writing: bool,
    /// The host's end doesn't take bytes any more: they are dropped.
    output_broken: bool,
    /// A write by the guest found no room and waits for a poll.
    starved: bool,
}

/// One stream: the guest's end is given out by [`backend`](Self::backend).
#[derive(Clone)]
pub struct Stream {
    queues: Arc<(Mutex<Queues>, Condvar)>,
    wake: Wake,
}

impl Stream {
    /// A stream with nothing on the host's side: input only through [`feed`](Self::feed), output into the
    /// void.
    #[must_use]
    pub fn new() -> Self {
        Self { queues: Arc::default(), wake: Wake::new() }
    }

    /// Called whenever the device should be polled.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Reads `source` on a thread of its own until it ends, through `filter` if there is one.
    ///
    /// # Errors
    /// If the host has no thread left.
    pub fn read_from(
        &self,
        mut source: impl Read + Send + 'static,
        mut filter: Option<Filter>,
    ) -> std::io::Result<()> {
        let stream = self.clone();
        std::thread::Builder::new().name("input".into()).spawn(move || {
            let mut buffer = [0; 4096];
            let mut kept = Vec::new();
            loop {
                let bytes = match source.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => &buffer[..length],
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => {
                        log::debug!("input ends: {error}");
                        break;
                    }
                };
                match &mut filter {
                    Some(filter) => {
                        kept.clear();
                        filter(bytes, &mut kept);
                        stream.feed(&kept);
                    }
                    None => stream.feed(bytes),
                }
            }
            stream.end_input();
        })?;
        Ok(())
    }

    /// Writes output to `sink` on a thread of its own.
    ///
    /// # Errors
    /// If the host has no thread left.
    pub fn write_to(&self, mut sink: impl Write + Send + 'static) -> std::io::Result<()> {
        let stream = self.clone();
        std::thread::Builder::new().name("output".into()).spawn(move || {
            let mut chunk = Vec::new();
            loop {
                let starved = stream.take_output(&mut chunk);
                if starved {
                    stream.wake.wake();
                }
                if let Err(error) = sink.write_all(&chunk).and_then(|()| sink.flush()) {
                    log::debug!("output ends: {error}");
                    stream.lock().output_broken = true;
                }
            }
        })?;
        Ok(())
    }

    /// Gives input to the guest; waits while too much is waiting already.
    pub fn feed(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut queues = self
                .queues
                .1
                .wait_while(self.lock(), |queues| queues.input.len() >= INPUT_LIMIT)
                .unwrap_or_else(PoisonError::into_inner);
            let (now, later) = bytes.split_at(bytes.len().min(INPUT_LIMIT - queues.input.len()));
            queues.input.extend(now);
            drop(queues);
            self.wake.wake();
            bytes = later;
        }
    }

    /// Says that no more input will come.
    pub fn end_input(&self) {
        self.lock().input_ended = true;
        self.wake.wake();
    }

    /// Waits until the host has taken all output, but no longer than `patience`.
    pub fn drain(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queues = self.lock();
        while (!queues.output.is_empty() || queues.writing) && !queues.output_broken {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queues = self.queues.1.wait_timeout(queues, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The guest's end.
    #[must_use]
    pub fn backend(&self) -> Box<dyn ConsoleBackend> {
        Box::new(GuestEnd(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for output and moves it to `chunk`; true if the guest found no room before.
    fn take_output(&self, chunk: &mut Vec<u8>) -> bool {
        let mut queues = self.lock();
        queues.writing = false;
        self.queues.1.notify_all();
        queues = self
            .queues
            .1
            .wait_while(queues, |queues| queues.output.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        chunk.clear();
        chunk.extend(queues.output.drain(..));
        queues.writing = true;
        std::mem::take(&mut queues.starved)
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

struct GuestEnd(Stream);

impl ConsoleBackend for GuestEnd {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut queues = self.0.lock();
        if queues.output_broken {
            return bytes.len();
        }
        let taken = bytes.len().min(OUTPUT_LIMIT - queues.output.len());
        queues.starved |= taken < bytes.len();
        queues.output.extend(&bytes[..taken]);
        self.0.queues.1.notify_all();
        taken
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut queues = self.0.lock();
        let length = buffer.len().min(queues.input.len());
        for (to, from) in buffer.iter_mut().zip(queues.input.drain(..length)) {
            *to = from;
        }
        if length > 0 {
            self.0.queues.1.notify_all();
        }
        length
    }

    fn is_open(&self) -> bool {
        let queues = self.0.lock();
        !queues.input_ended || !queues.input.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_arrives_in_order_and_then_ends() {
        let stream = Stream::new();
        let mut guest = stream.backend();
        stream.read_from(&b"hello"[..], None).unwrap();
        let mut seen: Vec<u8> = Vec::new();
        let mut buffer = [0; 2];
        while guest.is_open() {
            let length = guest.read(&mut buffer);
            seen.extend(&buffer[..length]);
        }
        assert_eq!(seen, b"hello");
    }

    #[test]
    fn filter_decides_what_the_guest_gets() {
        let stream = Stream::new();
        let mut guest = stream.backend();
        let filter: Filter = Box::new(|bytes, kept| kept.extend(bytes.iter().filter(|byte| **byte != b'l')));
        stream.read_from(&b"hello"[..], Some(filter)).unwrap();
        let mut buffer = [0; 16];
        let mut length = 0;
        while guest.is_open() {
            length += guest.read(&mut buffer[length..]);
        }
        assert_eq!(&buffer[..length], b"heo");
    }

    #[test]
    fn guest_that_prints_too_much_is_told_and_woken() {
        let stream = Stream::new();
        let mut guest = stream.backend();
        assert_eq!(guest.write(&vec![b'x'; OUTPUT_LIMIT + 5]), OUTPUT_LIMIT);
        assert_eq!(guest.write(b"y"), 0);
        let (sender, woken) = std::sync::mpsc::channel();
        stream.wake().connect(move || sender.send(()).unwrap_or(()));
        stream.write_to(std::io::sink()).unwrap();
        woken.recv_timeout(Duration::from_secs(100)).expect("the writer makes room");
        assert_eq!(guest.write(b"y"), 1);
        stream.drain(Duration::from_secs(100));
        assert!(stream.lock().output.is_empty());
    }
}
