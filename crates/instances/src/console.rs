//! What a machine says, to everybody who listens: its log, those who are attached, the terminal it was started on.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::log_file::{LogWriter, Source};
use crate::protocol::Frame;

/// What somebody who is attached may be behind before the connection is closed.
const BEHIND: usize = 4 << 20;
/// Bytes of the end that are kept for error messages.
const TAIL: usize = 16 << 10;
/// Lines of it that are shown.
const LAST_LINES: usize = 20;

/// Where a machine's output goes.
#[derive(Clone)]
pub(crate) struct Console(Arc<Mutex<Hub>>);

struct Hub {
    log: LogWriter,
    listeners: Vec<Listener>,
    tail: VecDeque<u8>,
}

/// Somebody who is attached.
#[derive(Clone, Default)]
pub(crate) struct Listener(Arc<(Mutex<Queue>, Condvar)>);

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
}

impl Console {
    pub fn new(log: LogWriter) -> Self {
        Self(Arc::new(Mutex::new(Hub { log, listeners: Vec::new(), tail: VecDeque::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somewhere to write what `source` says; it goes to `also` behind everything else.
    pub fn sink(&self, source: Source, also: Option<Box<dyn Write + Send>>) -> impl Write + Send + 'static {
        Sink { console: self.clone(), source, also }
    }

    /// Listens from now on.
    pub fn listen(&self) -> Listener {
        let listener = Listener::default();
        self.lock().listeners.push(listener.clone());
        listener
    }

    /// Tells everybody that the machine has ended.
    pub fn close(&self, code: u8) {
        for listener in self.lock().listeners.drain(..) {
            listener.push(Frame::Exit(code));
            listener.close();
        }
    }

    /// The last lines that were said on the serial console.
    pub fn last_lines(&self) -> Vec<String> {
        let text =
            String::from_utf8_lossy(&self.lock().tail.iter().copied().collect::<Vec<_>>()).into_owned();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
    }

    fn say(&self, source: Source, bytes: &[u8]) {
        let mut hub = self.lock();
        hub.log.write(source, bytes);
        if source == Source::Console {
            hub.tail.extend(bytes);
            let excess = hub.tail.len().saturating_sub(TAIL);
            hub.tail.drain(..excess);
        }
        hub.listeners.retain(|listener| {
            listener.push(match source {
                Source::Stderr => Frame::Stderr(bytes.to_vec()),
                _ => Frame::Stdout(bytes.to_vec()),
            })
        });
    }
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; false if nobody takes them any more.
    fn push(&self, frame: Frame) -> bool {
        let mut queue = self.lock();
        if let Frame::Stdout(bytes) | Frame::Stderr(bytes) = &frame {
            queue.bytes += bytes.len();
        }
        queue.closed |= queue.bytes > BEHIND;
        if !queue.closed {
            queue.frames.push_back(frame);
        }
        self.0.1.notify_all();
        !queue.closed
    }

    /// No more frames will come, or nobody will take them.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.1.notify_all();
    }

    /// The next frame; `None` at the end.
    pub fn receive(&self) -> Option<Frame> {
        let waiting = |queue: &mut Queue| queue.frames.is_empty() && !queue.closed;
        let mut queue = self.0.1.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        let frame = queue.frames.pop_front();
        if let Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)) = &frame {
            queue.bytes -= bytes.len();
        }
        frame
    }
}

struct Sink {
    console: Console,
    source: Source,
    also: Option<Box<dyn Write + Send>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // In pieces that a frame can carry.
        for piece in bytes.chunks(crate::protocol::LONGEST_FRAME) {
            self.console.say(self.source, piece);
        }
        if let Some(also) = &mut self.also
            && let Err(error) = also.write_all(bytes).and_then(|()| also.flush())
        {
            log::debug!("output ends: {error}");
            self.also = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (tempfile::TempDir, Console) {
        let directory = tempfile::tempdir().unwrap();
        let log = LogWriter::open(directory.path().join("log")).unwrap();
        (directory, Console::new(log))
    }

    #[test]
    fn everybody_who_is_attached_hears_everything_and_the_end() {
        let (_directory, console) = console();
        let mut sink = console.sink(Source::Console, None);
        sink.write_all(b"before\n").unwrap();
        let listeners = [console.listen(), console.listen()];
        sink.write_all(b"hello\n").unwrap();
        console.close(3);
        for listener in listeners {
            assert_eq!(listener.receive(), Some(Frame::Stdout(b"hello\n".to_vec())));
            assert_eq!(listener.receive(), Some(Frame::Exit(3)));
            assert_eq!(listener.receive(), None);
        }
        assert_eq!(console.last_lines(), ["before", "hello"]);
    }

    #[test]
    fn somebody_who_does_not_read_is_left_behind() {
        let (_directory, console) = console();
        let listener = console.listen();
        let mut sink = console.sink(Source::Stdout, None);
        sink.write_all(&vec![b'x'; BEHIND + 1]).unwrap();
        assert!(console.lock().listeners.is_empty());
        let mut bytes = 0;
        while let Some(Frame::Stdout(piece)) = listener.receive() {
            bytes += piece.len();
        }
        assert!(bytes <= BEHIND);
    }
}
