//! A machine's process while the machine is being saved: it writes state and memory into a directory of its own; the
//! client copies the disks, and moves all of it to where it belongs.
//!
//! The client says how far it is, a line each time. A client that goes away lets the machine go on.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rvisor_hosted::MemoryCopy;
use serde::{Deserialize, Serialize};

use crate::process::Control;
use crate::protocol::{read_line, write_line};
use crate::saved;

/// Where the process writes a file, in the machine's directory: it may make files there, but no directories.
pub(crate) fn place(name: &str) -> String {
    format!("run/saved-{name}")
}
/// What the client says when it has copied the disks once.
pub(crate) const FREEZE: &[u8] = b"freeze";
/// What it says when it has copied what had changed since.
pub(crate) const THAW: &[u8] = b"thaw";

/// What the process says when it has done that.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Memory has been written once. / State and memory are written, and nothing changes. / The machine goes on, or is
    /// paused as before, after so many microseconds.
    Done(u64),
    /// It can't be, and the machine goes on.
    Failed(String),
}

/// Saves the machine for the client on `stream`.
pub(crate) fn save(control: &Control, mut stream: UnixStream) -> io::Result<()> {
    let work = match Work::begin(control) {
        Ok(work) => work,
        Err(text) => return write_line(&mut stream, &Step::Failed(text)),
    };
    let result = work.run(&mut stream);
    work.end();
    result
}

struct Work<'a> {
    control: &'a Control,
}

impl<'a> Work<'a> {
    fn begin(control: &'a Control) -> Result<Self, String> {
        control.begin_saving()?;
        let work = Self { control };
        // What a client that went away has left.
        work.clean_up();
        Ok(work)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.control.directory().file(&place(name))
    }

    fn clean_up(&self) {
        saved::FILES.iter().for_each(|name| drop(fs::remove_file(self.file(name))));
    }

    fn run(&self, stream: &mut UnixStream) -> io::Result<()> {
        let memory = self.control.vm().memory();
        let opened = File::options().read(true).write(true).create_new(true).open(self.file(saved::MEMORY));
        let copied = opened.and_then(|file| {
            let mut copy = MemoryCopy::new(memory, file)?;
            copy.update(memory)?;
            self.control.flush_disks()?;
            Ok(copy)
        });
        let mut copy = match copied {
            Ok(copy) => copy,
            Err(error) => return write_line(stream, &Step::Failed(failed(&error))),
        };
        write_line(stream, &Step::Done(0))?;
        expect(stream, FREEZE)?;
        let start = Instant::now();
        let was_paused = match self.control.freeze() {
            Ok(was_paused) => was_paused,
            Err(text) => return write_line(stream, &Step::Failed(text)),
        };
        let result = self.write_frozen(&mut copy).and_then(|()| {
            write_line(stream, &Step::Done(start.elapsed().as_micros() as u64))?;
            expect(stream, THAW)
        });
        self.control.thaw(was_paused);
        let stopped = start.elapsed().as_micros() as u64;
        match result {
            Ok(()) => {}
            Err(error) => return write_line(stream, &Step::Failed(failed(&error))),
        }
        // Now that the machine runs again, it may take as long as it likes.
        match copy.sync() {
            Ok(()) => write_line(stream, &Step::Done(stopped)),
            Err(error) => write_line(stream, &Step::Failed(failed(&error))),
        }
    }

    fn write_frozen(&self, copy: &mut MemoryCopy) -> io::Result<()> {
        let state = self.control.saved_state().map_err(io::Error::other)?;
        // Devices may have finished something: memory and disks come after their state.
        self.control.flush_disks()?;
        copy.update(self.control.vm().memory())?;
        let host = serde_json::to_vec(&self.control.saved_host())?;
        let write = |name: &str, bytes: &[u8]| saved::write(self.file(name), bytes).map_err(io::Error::other);
        write(saved::STATE, state.as_bytes())?;
        write(saved::HOST, &host)
    }

    fn end(self) {
        self.control.end_saving();
    }
}

fn failed(error: &io::Error) -> String {
    format!("the machine's state can't be saved ({error}); check disk space")
}

fn expect(stream: &mut UnixStream, word: &[u8]) -> io::Result<()> {
    if read_line(stream)? == word { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Wall-clock time since 1970.
pub(crate) fn wall_clock() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
