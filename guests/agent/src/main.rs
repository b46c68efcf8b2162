//! The program in a Linux guest that runs commands for the host, sets the clock and powers the machine off.
//!
//! It is started by Rvisor's initial RAM disk as `agent PORT ROOT system|script`, goes on in the background, and
//! speaks the agent's protocol (the book, "The guest protocol") on the port: frames of many sessions, one for each
//! command. It needs nothing of the guest but the kernel, so it is without a standard library, and it allocates
//! nothing: what it holds for a session is bounded.
#![no_std]
#![no_main]

mod frames;
mod identity;
mod session;
mod shares;
mod sys;

use core::ffi::CStr;

use frames::{Port, from_guest, to_guest};
use session::{Request, SESSIONS, Session};
use shares::Trouble;
use sys::{Fd, PollFd};

/// Version of the protocol.
const VERSION: u32 = 1;
/// How long commands that were asked to end may take before they are killed.
const GRACE_MILLISECONDS: i64 = 8000;
/// Wait before an init that doesn't listen is asked again to power off.
const RETRY_MILLISECONDS: i64 = 500;
/// Wait before a port that nobody is at is looked at again.
const PAUSE_MILLISECONDS: i64 = 50;

/// Who ends the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The system's own init.
    System,
    /// A script, as soon as what it runs has ended.
    Script,
}

/// Called with the words of the command line.
pub fn main(arguments: &[&CStr]) -> i32 {
    let &[_, port, root, mode] = arguments else {
        sys::say(b"usage: agent PORT ROOT system|script\n");
        return 2;
    };
    let mode = if mode == c"system" { Mode::System } else { Mode::Script };
    sys::ignore_broken_pipes();
    let Ok(fd) = sys::open(port, sys::O_RDWR | sys::O_NONBLOCK | sys::O_CLOEXEC) else {
        sys::say(b"rvisor: the agent can't open its port\n");
        return 1;
    };
    // Before the caller goes on: it may move the root away.
    if !root.is_empty() && sys::change_root(root).is_err() {
        sys::say(b"rvisor: the agent can't enter the root file system\n");
        return 1;
    }
    match sys::fork() {
        Ok(Some(_)) => return 0,
        Ok(None) => {}
        Err(_) => return 1,
    }
    sys::new_session();
    serve(fd, mode)
}

fn serve(fd: Fd, mode: Mode) -> ! {
    let port = frames::port(fd);
    let sessions = session::table();
    let mut hello = [0; 9];
    hello[..4].copy_from_slice(&VERSION.to_le_bytes());
    hello[4] = u8::from(mode == Mode::System);
    hello[5..].copy_from_slice(&(session::INPUT as u32).to_le_bytes());
    port.send(0, from_guest::HELLO, &hello);
    // What keeps commands from being run: they may want what isn't there.
    let mut trouble = None;
    loop {
        let mut polled = [PollFd::none(); 1 + 4 * SESSIONS];
        polled[0] = PollFd::reading(port.fd());
        for (session, polled) in sessions.iter().zip(polled[1..].chunks_exact_mut(4)) {
            session.poll(polled);
        }
        sys::poll(&mut polled, None);
        if polled[0].is_ready() && !port.fill() {
            sys::sleep(PAUSE_MILLISECONDS);
        }
        let writer = port.writer();
        while let Some((channel, kind, payload)) = port.next() {
            match (kind, channel) {
                (to_guest::POWER_OFF, 0) => power_off(mode),
                (to_guest::CLOCK, 0) => set_clock(payload),
                (to_guest::IDENTITY, 0) => identity::assume(payload),
                (to_guest::SHARES, 0) => {
                    trouble = shares::put().err();
                    trouble.iter().for_each(Trouble::tell);
                }
                _ => deliver(sessions, writer, channel, kind, payload, trouble.as_ref()),
            }
        }
        for (session, polled) in sessions.iter_mut().zip(polled[1..].chunks_exact(4)) {
            session.work(polled, writer);
        }
    }
}

/// Gives a frame to its session, or makes the session.
fn deliver(
    sessions: &mut [Session],
    port: Port,
    channel: u32,
    kind: u8,
    payload: &[u8],
    trouble: Option<&Trouble>,
) {
    if kind != to_guest::EXEC {
        if let Some(session) = sessions.iter_mut().find(|session| session.is(channel)) {
            session.take(kind, payload, port);
        }
        return;
    }
    if let Some(trouble) = trouble {
        return port.refuse(channel, 125, trouble.words());
    }
    let Some(free) = sessions.iter_mut().find(|session| session.is(0)) else {
        return port.refuse(channel, 125, b"too many commands at once");
    };
    match Request::parse(payload) {
        Some(mut request) => free.start(channel, &mut request, port),
        None => port.refuse(channel, 125, b"the request makes no sense"),
    }
}

fn set_clock(payload: &[u8]) {
    if let Some((seconds, nanoseconds)) = payload.split_first_chunk::<8>()
        && let Some((nanoseconds, _)) = nanoseconds.split_first_chunk::<8>()
    {
        sys::set_clock(i64::from_le_bytes(*seconds), i64::from_le_bytes(*nanoseconds));
    }
}

/// Asks for the machine's end. A guest without an init of its own is ended here if its script doesn't.
fn power_off(mode: Mode) {
    if mode == Mode::System {
        if let Ok(None) = sys::fork() {
            // An init that is only starting doesn't listen yet.
            while session::run(&[c"/sbin/poweroff"]) != 0 {
                sys::sleep(RETRY_MILLISECONDS);
            }
            sys::exit(0);
        }
        return;
    }
    if let Ok(None) = sys::fork() {
        // All but this process and the script, which ends the machine once its command or shell has ended.
        sys::kill_all(sys::SIGTERM);
        sys::kill_all(sys::SIGHUP);
        sys::sleep(GRACE_MILLISECONDS);
        sys::kill_all(sys::SIGKILL);
        sys::sync();
        sys::make_root_read_only();
        sys::power_off();
        sys::exit(1);
    }
}
