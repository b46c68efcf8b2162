//! A session on this process's standard streams: raw terminal, signals, window size, the escape key.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::termios::tcgetwinsize;
use rvisor_hosted::terminal::{ESCAPE, RawTerminal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::client::Session;
use crate::protocol::Frame;

/// What to tell the user who has attached a terminal.
const HELP: &str = "escape key: Ctrl-A; Ctrl-A d detaches and leaves the machine running, Ctrl-A Ctrl-A sends Ctrl-A, \
                    Ctrl-A h shows this";

/// How to connect a session.
#[derive(Clone, Copy, Debug)]
pub struct Drive {
    /// Whether standard input goes to the guest.
    pub input: bool,
    /// Whether a terminal there is made raw, so that keys go to the guest one by one.
    pub raw: bool,
    /// Whether the escape key detaches.
    pub escape: bool,
    /// Whether signals and the window's size are for the other side.
    pub signals: bool,
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With an exit code.
    Exit(u8),
    /// It couldn't be: an exit code and why.
    Failed(u8, String),
    /// The user left, or the command goes on without.
    Detached,
    /// The machine's process went away.
    Broken,
}

impl Drive {
    /// Rows and columns of the terminal on standard input.
    #[must_use]
    pub fn window() -> Option<(u16, u16)> {
        let size = tcgetwinsize(io::stdin()).ok()?;
        Some((size.ws_row, size.ws_col))
    }

    /// Whether keys can be read one by one from standard input.
    #[must_use]
    pub fn has_terminal() -> bool {
        io::stdin().is_terminal()
    }

    /// Waits until a command that goes on without anybody runs.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn see_start(mut session: Session) -> io::Result<Outcome> {
        Ok(match session.receive()? {
            Some(Frame::Started) => Outcome::Detached,
            Some(Frame::Exit(code)) => Outcome::Exit(code),
            Some(Frame::Failed(code, reason)) => Outcome::Failed(code, reason),
            _ => Outcome::Broken,
        })
    }

    /// Runs the session to its end.
    ///
    /// # Errors
    /// What the host says about threads and the terminal.
    pub fn run(self, mut session: Session) -> io::Result<Outcome> {
        let raw = if self.raw { RawTerminal::enter()? } else { None };
        if self.escape && raw.is_some() {
            eprint!("rvisor: {HELP}\r\n");
        }
        let sender = Arc::new(Mutex::new(session.try_clone()?));
        if self.signals {
            forward_signals(Arc::clone(&sender))?;
        }
        let detached = Arc::new(AtomicBool::new(false));
        if self.input {
            let (sender, detached) = (Arc::clone(&sender), Arc::clone(&detached));
            let escape = self.escape && raw.is_some();
            thread::Builder::new()
                .name("input".into())
                .spawn(move || read_input(&sender, escape, &detached))?;
        } else if !self.raw {
            let _ = send(&sender, &Frame::InputEnd);
        }
        let outcome = copy_output(&mut session);
        drop(raw);
        if detached.load(Ordering::SeqCst) { Ok(Outcome::Detached) } else { Ok(outcome) }
    }
}

fn send(sender: &Mutex<Session>, frame: &Frame) -> io::Result<()> {
    sender.lock().unwrap_or_else(PoisonError::into_inner).send(frame)
}

/// Writes what comes until the end.
fn copy_output(session: &mut Session) -> Outcome {
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    loop {
        // What this process's reader doesn't take ends the session, as a broken pipe ends a program.
        let written = match session.receive() {
            Ok(Some(Frame::Stdout(bytes))) => stdout.write_all(&bytes).and_then(|()| stdout.flush()),
            Ok(Some(Frame::Stderr(bytes))) => stderr.write_all(&bytes),
            Ok(Some(Frame::Exit(code))) => return Outcome::Exit(code),
            Ok(Some(Frame::Failed(code, reason))) => return Outcome::Failed(code, reason),
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => return Outcome::Broken,
        };
        if written.is_err() {
            session.close();
            return Outcome::Exit(128 + 13);
        }
    }
}

/// Sends what is typed, or piped in.
fn read_input(sender: &Mutex<Session>, escape: bool, detached: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    let mut keys = Keys::default();
    loop {
        let bytes = match io::stdin().read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let kept = if escape { keys.filter(bytes) } else { bytes.to_vec() };
        if std::mem::take(&mut keys.help) {
            eprint!("\r\nrvisor: {HELP}\r\n");
        }
        if !kept.is_empty() && send(sender, &Frame::Input(kept)).is_err() {
            return;
        }
        if keys.detach {
            detached.store(true, Ordering::SeqCst);
            return sender.lock().unwrap_or_else(PoisonError::into_inner).close();
        }
    }
    let _ = send(sender, &Frame::InputEnd);
}

/// Finds the escape key in what is typed.
#[derive(Default)]
struct Keys {
    escaped: bool,
    detach: bool,
    help: bool,
}

impl Keys {
    fn filter(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut kept = Vec::new();
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (false, _) | (true, ESCAPE) => kept.push(byte),
                (true, b'd' | b'D') => self.detach = true,
                (true, b'h' | b'H' | b'?') => self.help = true,
                (true, _) => {}
            }
        }
        kept
    }
}

/// Sends signals and the window's size on.
fn forward_signals(sender: Arc<Mutex<Session>>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let frame = match signal {
                SIGWINCH => Drive::window().map(|(rows, columns)| Frame::Resize(rows, columns)),
                signal => Some(Frame::Signal(signal as u8)),
            };
            if frame.is_some_and(|frame| send(&sender, &frame).is_err()) {
                return;
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_key_detaches_and_everything_else_passes() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"a\x01"), b"a");
        assert_eq!(keys.filter(b"\x01b\x01hz"), b"\x01bz");
        assert!(keys.help && !keys.detach);
        assert_eq!(keys.filter(b"\x01d"), b"");
        assert!(keys.detach);
    }
}
