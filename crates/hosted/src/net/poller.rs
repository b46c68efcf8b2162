//! Waiting for many descriptors at once (epoll, edge-triggered).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

/// Whose descriptor is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// The queues' bell.
    Bell,
    /// A TCP flow.
    Tcp(u64),
    /// A UDP or ping flow.
    Datagram(u64),
    /// A forward.
    Forward(u64),
    /// Other machines on a named network.
    Cable,
}

/// Bits of a token's number, below those of its kind.
const NUMBER_BITS: u32 = 60;

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Bell => (0, 0),
            Self::Tcp(number) => (1, number),
            Self::Datagram(number) => (2, number),
            Self::Forward(number) => (3, number),
            Self::Cable => (4, 0),
        };
        kind << NUMBER_BITS | number
    }

    fn unpack(word: u64) -> Self {
        let number = word & ((1 << NUMBER_BITS) - 1);
        match word >> NUMBER_BITS {
            0 => Self::Bell,
            1 => Self::Tcp(number),
            2 => Self::Datagram(number),
            3 => Self::Forward(number),
            _ => Self::Cable,
        }
    }
}

/// What a descriptor is ready for. Errors and the peer's end make it ready for both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// Most events taken at once.
const BATCH: usize = 256;

/// The set of descriptors waited for. One that is closed leaves it.
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds a descriptor; each change of its readiness is reported once.
    pub(super) fn add(&self, descriptor: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, descriptor, EventData::new_u64(token.pack()), flags)?)
    }

    /// Waits for events, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<Vec<(Token, Ready)>> {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut buffer = [const { MaybeUninit::uninit() }; BATCH];
        match epoll::wait(&self.0, &mut buffer[..], Some(&timeout)) {
            Ok((events, _)) => Ok(events.iter().map(read).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn read(event: &epoll::Event) -> (Token, Ready) {
    // The struct is packed: copied out before it is looked at.
    let (flags, data) = (event.flags, event.data);
    let ended = flags.intersects(EventFlags::ERR | EventFlags::HUP);
    let ready = Ready {
        readable: ended || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        writable: ended || flags.contains(EventFlags::OUT),
    };
    (Token::unpack(data.u64()), ready)
}
