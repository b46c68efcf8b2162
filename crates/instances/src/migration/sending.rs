//! A machine's process while the machine is being migrated: it sends what the machine is to the command that moves it,
//! which passes it on. The command says a word for each step. Before the machine is handed over, a command that goes away
//! lets it go on; from then on only somebody who knows does.

use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rvisor_hosted::changes::{Changes, Copier};

use super::wire::{self, Message, Sent};
use crate::process::Control;
use crate::protocol::{Reply, read_line, write_line};

/// What the command says: send all, or what has changed.
pub(super) const ROUND: &str = "round";
/// Stand still, and send the rest.
pub(super) const FREEZE: &str = "freeze";
/// Don't go on any more unless you are told to.
pub(super) const COMMIT: &str = "commit";
/// It goes on elsewhere: end.
pub(super) const END: &str = "end";
/// It doesn't: go on.
pub(super) const ABORT: &str = "abort";

/// How long a command may say nothing while the machine stands still for it.
const PATIENCE: Duration = Duration::from_secs(90);

/// Sends the machine to the client on `stream`.
pub(crate) fn send(control: &Control, mut stream: UnixStream) -> io::Result<()> {
    let begun = control.begin_migration();
    let answer =
        begun.as_ref().map_or_else(|text| Reply::Error(text.clone()), |()| Reply::Ok(control.disk_sizes()));
    let told =
        write_line(&mut stream, &serde_json::json!({"version": crate::protocol::VERSION, "reply": answer}));
    if begun.is_err() {
        return told;
    }
    let result = told.and_then(|()| serve(control, &mut stream));
    // Nothing to do for a machine that was handed over, or has gone on already.
    control.abort_migration();
    if let Err(error) = &result {
        let _ = Message::Failed(error.to_string()).write_to(&mut stream);
    }
    result
}

fn serve(control: &Control, stream: &mut UnixStream) -> io::Result<()> {
    let changes = control.changes();
    let mut changes = changes.ok_or_else(|| io::Error::other("the machine is ending"))?;
    loop {
        let word = read_line(stream)?;
        match std::str::from_utf8(&word).unwrap_or_default() {
            ROUND => round(&mut changes, stream)?,
            FREEZE => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let state = control.freeze_for_migration().map_err(io::Error::other)?;
                // What devices have finished since is in memory and on disks now.
                Message::State(state.as_bytes().to_vec()).write_to(stream)?;
                let host = serde_json::to_vec(&control.saved_host())?;
                Message::Host(host).write_to(stream)?;
                round(&mut changes, stream)?;
            }
            COMMIT => {
                control.hand_over().map_err(io::Error::other)?;
                stream.set_read_timeout(None)?;
                Message::Sent(Sent::default()).write_to(stream)?;
            }
            ABORT => {
                drop(changes);
                control.resume_handed_over();
                return Message::Sent(Sent::default()).write_to(stream).map(|_| ());
            }
            END => {
                drop(changes);
                Message::Sent(Sent::default()).write_to(stream)?;
                control.end_handed_over();
                return Ok(());
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn round(changes: &mut Changes<'_>, stream: &mut UnixStream) -> io::Result<()> {
    let amount = changes.copy(&mut Sender(stream))?;
    let left = changes.left();
    let (pages, disk) = (amount.pages, amount.disk);
    Message::Sent(Sent { pages, disk, left_pages: left.pages, left_disk: left.disk }).write_to(stream)?;
    stream.flush()
}

/// Sends what is copied.
struct Sender<'a>(&'a mut UnixStream);

impl Copier for Sender<'_> {
    fn memory(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let (kind, payload) = Message::memory(first, bytes);
        wire::write(kind, &payload, self.0).map(|_| ())
    }

    fn zero_memory(&mut self, first: u64, pages: u64) -> io::Result<()> {
        Message::ZeroMemory(first, pages).write_to(self.0).map(|_| ())
    }

    fn disk(&mut self, disk: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (kind, payload) = Message::disk(disk as u8, offset, bytes);
        wire::write(kind, &payload, self.0).map(|_| ())
    }

    fn zero_disk(&mut self, disk: usize, range: Range<u64>) -> io::Result<()> {
        Message::ZeroDisk(disk as u8, range.start, range.end).write_to(self.0).map(|_| ())
    }
}
