//! What happens to machines, as a file of lines of JSON that every process adds to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Bytes in the file before it is put aside, in place of the one that was put aside before.
const LIMIT: u64 = 1 << 20;

/// Something that happened to a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When: milliseconds since 1970.
    pub time: u64,
    /// The machine's name.
    pub machine: String,
    /// `create`, `start`, `pause`, `unpause`, `stop`, `kill`, `exec`, `disk-error`, `die`, `rename` or `destroy`.
    pub action: String,
    /// More about it: the exit code of `die`, the new name of `rename`, `TERM` where a `kill` only asked, the disk's file and
    /// the host's error of `disk-error`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// The file of events of a store.
#[derive(Clone, Debug)]
pub struct Events {
    path: PathBuf,
}

impl Events {
    /// The events of the store in this directory.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        // A directory of its own: machines' processes may write there, and nowhere else in the store.
        Self { path: store.join("journal/events") }
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("old")
    }

    /// Adds one. What can't be written is logged: nothing is held up for it.
    pub fn add(&self, machine: &str, action: &str, detail: Option<String>) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let event = Event { time, machine: machine.into(), action: action.into(), detail };
        if let Err(error) = self.try_add(&event) {
            log::warn!("can't write {}: {error}", self.path.display());
        }
    }

    fn try_add(&self, event: &Event) -> std::io::Result<()> {
        let open = || File::options().create(true).append(true).open(&self.path);
        if let Some(directory) = self.path.parent().filter(|directory| !directory.exists()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut file = open()?;
        // Under a lock, so that two processes don't both put it aside.
        file.lock()?;
        if file.metadata()?.len() >= LIMIT {
            fs::rename(&self.path, self.older())?;
            file = open()?;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        // One write to the end: lines of several processes don't mix.
        file.write_all(&line)
    }

    /// Reads events from the oldest that is kept on.
    #[must_use]
    pub fn read(&self) -> EventReader {
        EventReader { path: self.path.clone(), file: File::open(self.older()).ok(), position: 0 }
    }
}

/// Reads events, while they happen too.
pub struct EventReader {
    path: PathBuf,
    file: Option<File>,
    position: u64,
}

impl EventReader {
    /// The next event, if there is one by now.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if self.file.is_none() {
                self.file = File::open(&self.path).ok();
                self.position = 0;
            }
            let file = self.file.as_mut()?;
            file.seek(SeekFrom::Start(self.position)).ok()?;
            let mut line = String::new();
            let length = BufReader::new(&*file).read_line(&mut line).unwrap_or(0);
            if line.ends_with('\n') {
                self.position += length as u64;
                match serde_json::from_str(&line) {
                    Ok(event) => return Some(event),
                    // Half a line of a process that was killed, with a whole one behind it.
                    Err(_) => continue,
                }
            }
            if is_same(file, &self.path) {
                return None;
            }
            self.file = None;
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => ours.ino() == theirs.ino(),
        (_, theirs) => theirs.is_err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_order_while_they_happen() {
        let directory = tempfile::tempdir().unwrap();
        let events = Events::new(directory.path());
        let mut reader = events.read();
        assert_eq!(reader.next_event(), None);
        events.add("web", "create", None);
        events.add("web", "die", Some("7".into()));
        assert_eq!(reader.next_event().unwrap().action, "create");
        assert_eq!(reader.next_event().unwrap().detail.as_deref(), Some("7"));
        assert_eq!(reader.next_event(), None);
        for _ in 0..30_000 {
            events.add("web", "start", None);
        }
        let mut count = 0;
        while reader.next_event().is_some() {
            count += 1;
        }
        assert_eq!(count, 30_000);
    }
}
