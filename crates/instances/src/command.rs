//! The host's side of the one command that a machine was made for: three streams and a control port (the book, "The
//! guest protocol").

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rvisor_hosted::Stream;
use rvisor_hosted::machine::Port;

/// Longest line that a guest may send on the control port.
const LINE_LIMIT: usize = 4096;

/// How a guest says that a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// With this exit code.
    Exit(u8),
    /// It couldn't be run, for this reason.
    Failed(String),
}

/// Ports of the virtio console for the command's streams. Clones are the same ports.
#[derive(Clone)]
pub(crate) struct CommandPorts {
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    control: Stream,
    outcome: Arc<Mutex<Option<Outcome>>>,
    ready: Arc<AtomicBool>,
}

impl CommandPorts {
    /// Ports of which nothing is connected yet.
    pub fn new() -> Self {
        let stream = Stream::new;
        Self {
            stdin: stream(),
            stdout: stream(),
            stderr: stream(),
            control: stream(),
            outcome: Arc::default(),
            ready: Arc::default(),
        }
    }

    /// The ports, for the machine.
    pub fn ports(&self) -> Vec<Port> {
        [
            ("org.rvisor.control", &self.control),
            ("org.rvisor.stdin", &self.stdin),
            ("org.rvisor.stdout", &self.stdout),
            ("org.rvisor.stderr", &self.stderr),
        ]
        .map(|(name, stream)| Port::new(name, stream))
        .into()
    }

    /// Only listens for word that the guest is ready.
    pub fn listen(&self) -> io::Result<()> {
        self.control.write_to(self.reader(|| ()))
    }

    fn reader<F: Fn()>(&self, ended: F) -> ControlReader<F> {
        let (outcome, ready) = (Arc::clone(&self.outcome), Arc::clone(&self.ready));
        ControlReader { line: Vec::new(), outcome, ready, ended }
    }

    /// Whether the guest has said that it waits for a command.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// Connects the standard streams; `ended` is called once the command's outcome is known. Without standard input the
    /// command reads its end at once.
    pub fn connect(
        &self,
        stdin: Option<Box<dyn Read + Send>>,
        (stdout, stderr): (impl Write + Send + 'static, impl Write + Send + 'static),
        ended: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        self.stdout.write_to(stdout)?;
        self.stderr.write_to(stderr)?;
        self.control.write_to(self.reader(ended))?;
        match stdin {
            Some(stdin) => self.stdin.read_from(stdin, None)?,
            None => self.stdin.end_input(),
        }
        Ok(())
    }

    /// Sends the command.
    pub fn give(&self, environment: &[String], command: &[String]) {
        self.control.feed(&request(environment, command));
    }

    /// Waits until standard output and standard error have taken everything.
    pub fn drain(&self, patience: Duration) {
        self.stdout.drain(patience);
        self.stderr.drain(patience);
    }

    /// How the command ended, if the guest said so.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `run LENGTH`, then that many bytes of shell words: assignments, `--`, the command.
fn request(environment: &[String], command: &[String]) -> Vec<u8> {
    let separator = "--".to_owned();
    let words = environment.iter().chain([&separator]).chain(command);
    let words = words.map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    format!("run {}\n{words}", words.len()).into_bytes()
}

/// A word that a POSIX shell reads back as `text`.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Takes lines from the control port.
struct ControlReader<F> {
    line: Vec<u8>,
    outcome: Arc<Mutex<Option<Outcome>>>,
    ready: Arc<AtomicBool>,
    ended: F,
}

impl<F: Fn()> Write for ControlReader<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                let outcome = parse(&String::from_utf8_lossy(&self.line));
                if self.line.trim_ascii() == b"ready" {
                    self.ready.store(true, Ordering::SeqCst);
                }
                self.line.clear();
                if let Some(outcome) = outcome {
                    self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
                    (self.ended)();
                }
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what a guest says on the control port, cut at `cut`, and checks that it makes no difference where it is cut, that the
/// first outcome counts, and that no line is kept without end: for fuzzing.
pub fn check_control(bytes: &[u8], cut: usize) {
    let read = |pieces: &[&[u8]]| {
        let (ports, told) = (CommandPorts::new(), Cell::new(0_usize));
        let mut reader = ports.reader(|| told.set(told.get() + 1));
        let mut first = None;
        for piece in pieces {
            assert_eq!(reader.write(piece).ok(), Some(piece.len()));
            assert!(reader.line.len() <= LINE_LIMIT);
            first = first.or_else(|| ports.outcome());
            assert_eq!(ports.outcome(), first);
        }
        assert_eq!(first.is_some(), told.get() > 0);
        (first, ports.is_ready())
    };
    let (before, after) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(read(&[before, after]), read(&[bytes]));
}

fn parse(line: &str) -> Option<Outcome> {
    match line.trim_end_matches('\r').split_once(' ')? {
        ("exit", code) => code.parse().ok().map(Outcome::Exit),
        ("failed", reason) => Some(Outcome::Failed(reason.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        let words = ["a b", "it's", "$HOME `x` \"y\"", "", "line\nbreak", "ü"].map(String::from);
        let text = String::from_utf8(request(&["TERM=dumb".into()], &words)).unwrap();
        let (head, words_text) = text.split_once('\n').unwrap();
        assert_eq!(head, format!("run {}", words_text.len()));
        let script = format!("set -- {words_text}; shift 2; for word; do printf '%s\\0' \"$word\"; done");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let seen: Vec<_> = output.stdout.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        assert_eq!(seen[..6], words);
    }

    #[test]
    fn first_outcome_counts_and_noise_is_ignored() {
        let ports = CommandPorts::new();
        let mut reader = ports.reader(|| ());
        reader.write_all(b"hello\nexit 999\nexi").unwrap();
        assert_eq!((ports.outcome(), ports.is_ready()), (None, false));
        reader.write_all(b"t 7\nexit 0\n").unwrap();
        assert_eq!(ports.outcome(), Some(Outcome::Exit(7)));
        reader.write_all(&[b'x'; 3 * LINE_LIMIT]).unwrap();
        assert!(reader.line.len() <= LINE_LIMIT);
    }
}
