//! Frames on the port: a channel, a kind, up to 128 KiB.

use core::cell::UnsafeCell;

use crate::sys::{self, Fd};

/// Kinds of frames that the host sends.
pub mod to_guest {
    pub const EXEC: u8 = 1;
    pub const DATA: u8 = 2;
    pub const END: u8 = 3;
    pub const RESIZE: u8 = 4;
    pub const SIGNAL: u8 = 5;
    pub const CREDIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const POWER_OFF: u8 = 8;
    pub const CLOCK: u8 = 9;
    pub const IDENTITY: u8 = 10;
    pub const SHARES: u8 = 11;
}

/// Kinds of frames that the guest sends.
pub mod from_guest {
    pub const HELLO: u8 = 64;
    pub const STDOUT: u8 = 65;
    pub const STDERR: u8 = 66;
    pub const EXIT: u8 = 67;
    pub const FAILED: u8 = 68;
    pub const CREDIT: u8 = 69;
    pub const STARTED: u8 = 70;
}

/// Bytes before a frame's payload: channel, then kind (upper 8 bits) and length (lower 24), little-endian.
const HEADER: usize = 8;
/// Longest payload.
const LONGEST: usize = 128 << 10;

/// Where frames come in.
pub struct Receiver {
    fd: Fd,
    buffer: [u8; HEADER + LONGEST],
    start: usize,
    end: usize,
}

struct Place(UnsafeCell<Receiver>);

// SAFETY: the agent has one thread.
unsafe impl Sync for Place {}

static RECEIVER: Place =
    Place(UnsafeCell::new(Receiver { fd: Fd(0), buffer: [0; HEADER + LONGEST], start: 0, end: 0 }));

/// The one receiver, on an open port. To be called once.
pub fn port(fd: Fd) -> &'static mut Receiver {
    // SAFETY: it is called once, so there is one reference; see `main`.
    let receiver = unsafe { &mut *RECEIVER.0.get() };
    receiver.fd = fd;
    receiver
}

impl Receiver {
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// The sending side.
    pub fn writer(&self) -> Port {
        Port(self.fd)
    }

    /// See [`Port::send`].
    pub fn send(&self, channel: u32, kind: u8, payload: &[u8]) {
        self.writer().send(channel, kind, payload);
    }

    /// Reads what has come; false if nobody is there.
    pub fn fill(&mut self) -> bool {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match sys::read(self.fd, &mut self.buffer[self.end..]) {
            Ok(0) => false,
            Ok(length) => {
                self.end += length;
                true
            }
            Err(error) => error == sys::EAGAIN,
        }
    }

    /// The next frame that is there as a whole: channel, kind, payload.
    pub fn next(&mut self) -> Option<(u32, u8, &[u8])> {
        let bytes = &self.buffer[self.start..self.end];
        let (channel, rest) = bytes.split_first_chunk::<4>()?;
        let (word, rest) = rest.split_first_chunk::<4>()?;
        let word = u32::from_le_bytes(*word);
        // A longer one than the host may send would never be there as a whole: it can only be cut.
        let length = (word as usize & 0xff_ffff).min(LONGEST);
        let payload = rest.get(..length)?;
        self.start += HEADER + length;
        Some((u32::from_le_bytes(*channel), (word >> 24) as u8, payload))
    }
}

/// Where frames go out.
#[derive(Clone, Copy)]
pub struct Port(Fd);

impl Port {
    /// Sends a frame, waiting for the host to take it.
    pub fn send(self, channel: u32, kind: u8, payload: &[u8]) {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&channel.to_le_bytes());
        header[4..].copy_from_slice(&(u32::from(kind) << 24 | payload.len() as u32).to_le_bytes());
        sys::write_all(self.0, &header);
        sys::write_all(self.0, payload);
    }

    /// Says that a command can't be run.
    pub fn refuse(self, channel: u32, code: u8, reason: &[u8]) {
        let mut payload = [0; 256];
        payload[0] = code;
        let length = reason.len().min(payload.len() - 1);
        payload[1..=length].copy_from_slice(&reason[..length]);
        self.send(channel, from_guest::FAILED, &payload[..=length]);
    }
}
