//! One TCP connection: smoltcp's socket towards the guest, spliced to a stream of the host.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;

use crate::net::stack::Stack;

/// Bytes buffered in each direction: the most that is under way to the guest or unread by the host.
const BUFFER: usize = 256 * 1024;
/// How often a silent guest is asked whether it is still there, and how long it may not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(120);

/// The guest's side of a connection, and what is known of the host's.
pub(super) struct Splice {
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The host's stream may have something to read.
    pub(super) readable: bool,
    /// The host's stream may take something.
    pub(super) writable: bool,
    /// The host's stream is at its end, and the guest has been told.
    host_ended: bool,
    /// The guest has sent its end.
    guest_ended: bool,
    /// The host's stream has been told so, all data before it being delivered.
    shut_down: bool,
}

/// What is to become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It goes on.
    Open,
    /// Both ends closed it.
    Closed,
    /// The guest refused or broke it, or is gone.
    Reset,
}

impl Splice {
    /// A connection whose guest side `begin` opens.
    pub(super) fn new<E>(begin: impl FnOnce(&mut Socket<'static>) -> Result<(), E>) -> Result<Self, E> {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(TIMEOUT));
        // The host's stream decides what is worth a packet; and acknowledgements are sent once a round anyway.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        begin(&mut socket)?;
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let (readable, writable) = (true, true);
        let (host_ended, guest_ended, shut_down) = (false, false, false);
        Ok(Self { sockets, handle, readable, writable, host_ended, guest_ended, shut_down })
    }

    /// Notes what the last packets did; to be called after each.
    pub(super) fn observe(&mut self) {
        let state = self.sockets.get::<Socket>(self.handle).state();
        self.guest_ended |=
            matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
    }

    /// Whether the guest owes an acknowledgement and no timer waits for it.
    ///
    /// smoltcp 0.14 gives the retransmission timer up for the zero-window probe when the guest's window closes, and
    /// forgets both when it opens again; what the guest couldn't take in between would never be sent again.
    pub(super) fn has_lost_timer(&mut self, stack: &mut Stack) -> bool {
        if self.sockets.get::<Socket>(self.handle).send_queue() == 0 {
            return false;
        }
        let idle = stack.now + KEEP_ALIVE;
        stack.interface.poll_at(stack.now, &self.sockets).is_none_or(|at| at >= idle)
    }

    /// Moves what can be moved without waiting; tells whether there was anything.
    ///
    /// # Errors
    /// The host's stream is broken.
    pub(super) fn transfer(&mut self, host: &TcpStream) -> io::Result<bool> {
        Ok(self.feed_host(host)? | self.feed_guest(host)?)
    }

    fn feed_host(&mut self, mut host: &TcpStream) -> io::Result<bool> {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut moved = false;
        while self.writable && socket.can_recv() {
            let written = socket.recv(|data| match host.write(data) {
                Ok(bytes) => (bytes, Ok(bytes)),
                Err(error) => (0, Err(error)),
            });
            let Ok(written) = written else { break };
            match ready(written)? {
                Some(bytes) => moved |= bytes > 0,
                None => self.writable = false,
            }
        }
        if self.guest_ended && !self.shut_down && !socket.can_recv() {
            self.shut_down = true;
            moved = true;
            // It fails where the host's peer is gone, which reading will tell.
            let _ = host.shutdown(Shutdown::Write);
        }
        Ok(moved)
    }

    fn feed_guest(&mut self, mut host: &TcpStream) -> io::Result<bool> {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        let mut moved = false;
        while self.readable && !self.host_ended && socket.can_send() {
            let read = socket.send(|room| match host.read(room) {
                Ok(bytes) => (bytes, Ok(bytes)),
                Err(error) => (0, Err(error)),
            });
            let Ok(read) = read else { break };
            match ready(read)? {
                Some(0) => {
                    self.host_ended = true;
                    moved = true;
                    socket.close();
                }
                Some(_) => moved = true,
                None => self.readable = false,
            }
        }
        Ok(moved)
    }

    /// What is to become of the connection.
    pub(super) fn outcome(&self) -> Outcome {
        let socket = self.sockets.get::<Socket>(self.handle);
        match socket.state() {
            State::Closed if self.guest_ended && self.host_ended => match socket.can_recv() {
                true => Outcome::Open,
                false => Outcome::Closed,
            },
            State::Closed | State::Listen => Outcome::Reset,
            // The cable loses nothing: no old packets can turn up, so nobody need wait for them.
            State::TimeWait if self.shut_down => Outcome::Closed,
            _ => Outcome::Open,
        }
    }

    /// Whether one side has ended and the other hasn't.
    pub(super) fn is_half_closed(&self) -> bool {
        self.host_ended || self.guest_ended
    }

    /// Breaks the connection towards the guest.
    pub(super) fn abort(&mut self) {
        self.sockets.get_mut::<Socket>(self.handle).abort();
    }
}

/// `None` where the stream isn't ready.
fn ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
