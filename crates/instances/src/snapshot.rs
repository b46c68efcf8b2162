//! Snapshots of machines: memory, devices and disks of one moment (the book, "Snapshots").
//!
//! A snapshot is a directory of files that never change. It appears as a whole, by a rename, after all of it is durable.
//! Going back to one begins with a note in the machine's directory; whoever takes the machine's lock next finishes what
//! the note says, as often as it takes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::client::{Client, Saving};
use crate::config::now;
use crate::directory::{Directory, Lock, check_name, entries, occupied};
use crate::error::{Context, Error, Result};
use crate::file_copy::{FileCopy, copy, link};
use crate::saved::{self, Saved, sync_directory};
use crate::saving;

const SNAPSHOTS: &str = "snapshots";
const INFO: &str = "info.json";
/// Version of the description's format.
const FORMAT: u32 = 1;
/// The same of a snapshot whose memory is compressed.
const PACKED_FORMAT: u32 = 2;
/// The snapshot that a machine is going back to.
const RESTORE: &str = "restore.json";
/// What the machine goes on from when it is started next.
pub(crate) const RESUME: &str = "resume";
/// The disk under the machine's own, if it began as a copy of another machine.
pub(crate) const BASE: &str = "base.qcow2";
/// Directories that aren't snapshots yet begin so.
const TRANSIENT: &str = ".new-";

/// What is known of a snapshot (`info.json`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotInfo {
    /// Version of this format.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// Seconds since 1970 when it was made.
    pub created: u64,
    /// Whether the machine ran, so that it goes on where it was.
    pub running: bool,
    /// Microseconds for which the machine stood still.
    pub stopped: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    snapshot: String,
}

impl Directory {
    fn snapshots_path(&self) -> PathBuf {
        self.file(SNAPSHOTS)
    }

    fn snapshot_path(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        let path = self.snapshots_path().join(name);
        let Ok(text) = fs::read(path.join(INFO)) else {
            return Err(Error::Refused(format!(
                "machine {0} has no snapshot {name}; `rvisor snapshot ls {0}` lists them",
                self.name()
            )));
        };
        match serde_json::from_slice::<SnapshotInfo>(&text) {
            Ok(info) if info.format <= PACKED_FORMAT => Ok(path),
            _ => Err(Error::Refused(format!(
                "snapshot {name} of machine {} is damaged, or a newer Rvisor has made it; use that one",
                self.name()
            ))),
        }
    }

    /// The machine's snapshots, the oldest first, each with the bytes that it occupies.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn snapshots(&self) -> Result<Vec<(SnapshotInfo, u64)>> {
        // Those that aren't made yet, or are being removed, have names that nobody gives.
        let is_one =
            |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| check_name(name).is_ok());
        let infos = entries(&self.snapshots_path())?.filter(is_one).filter_map(|entry| {
            let text = fs::read(entry.path().join(INFO)).ok()?;
            let info: SnapshotInfo = serde_json::from_slice(&text).ok()?;
            let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            Some((info, files.map(|file| occupied(&file.path())).sum()))
        });
        let mut infos: Vec<_> = infos.collect();
        infos.sort_by(|(one, _), (other, _)| (one.created, &one.name).cmp(&(other.created, &other.name)));
        Ok(infos)
    }

    /// Whoever makes or removes snapshots holds this lock.
    fn lock_snapshots(&self) -> Result<File> {
        let path = self.snapshots_path();
        fs::create_dir_all(&path).context("create", &path)?;
        let path = path.join("lock");
        let lock = File::create(&path).context("create", &path)?;
        lock.lock().context("lock", &path)?;
        // What a command that was killed has left.
        for entry in fs::read_dir(self.snapshots_path()).context("read", &path)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TRANSIENT) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(lock)
    }

    /// Makes a snapshot, of a running machine or one that has ended; without a name it gets a number. To `compress` its
    /// memory takes time, now and when the machine goes back to it.
    ///
    /// # Errors
    /// If the machine can't be saved, or the name is taken. Nothing is left then.
    pub fn make_snapshot(&self, name: Option<&str>, compress: bool) -> Result<SnapshotInfo> {
        name.map(check_name).transpose()?;
        let _lock = self.lock_snapshots()?;
        let free = |number: &u32| !self.snapshots_path().join(number.to_string()).exists();
        let name = match name {
            Some(name) => name.to_owned(),
            None => (1..).find(free).unwrap_or_default().to_string(),
        };
        let path = self.snapshots_path().join(&name);
        if path.exists() {
            return Err(Error::Refused(format!(
                "machine {0} has a snapshot {name} already; choose another name, or remove it with \
                 `rvisor snapshot rm {0} {name}`",
                self.name()
            )));
        }
        let draft = self.snapshots_path().join(format!("{TRANSIENT}{name}"));
        fs::create_dir(&draft).context("create", &draft)?;
        let made = self.fill_snapshot(&draft, &name, compress).and_then(|info| {
            fs::rename(&draft, &path).context("create", &path)?;
            sync_directory(&self.snapshots_path())?;
            Ok(info)
        });
        if made.is_err() {
            let _ = fs::remove_dir_all(&draft);
        }
        made
    }

    fn fill_snapshot(&self, draft: &Path, name: &str, compress: bool) -> Result<SnapshotInfo> {
        let (running, stopped) = self.save_into(draft)?;
        if compress {
            saved::pack(draft)?;
        }
        let format = if compress { PACKED_FORMAT } else { FORMAT };
        let info = SnapshotInfo { format, name: name.to_owned(), created: now(), running, stopped };
        let text = serde_json::to_vec_pretty(&info).map_err(io::Error::from).context("write", draft)?;
        saved::write(draft.join(INFO), &text)?;
        sync_directory(draft)?;
        Ok(info)
    }

    /// Fills a directory with the machine's files as they are at one moment: of a machine that runs, its memory and
    /// devices too. Returns whether it runs, and for how many microseconds it stood still.
    pub(crate) fn save_into(&self, target: &Path) -> Result<(bool, u64)> {
        let base = self.file(BASE);
        if base.exists() {
            link(&base, &target.join(BASE))?;
        }
        if !self.is_running()? {
            let lock = self.lock()?;
            self.finish_restore(&lock)?;
            for name in self.disk_files()? {
                copy(&self.file(&name), &target.join(&name))?;
            }
            let resume = self.file(RESUME);
            let running = resume.join(saved::STATE).exists();
            if running {
                saved::FILES.iter().try_for_each(|name| link(&resume.join(name), &target.join(name)))?;
            }
            return Ok((running, 0));
        }
        let mut process = Client::new(self).save()?;
        let stopped = self.copy_running(&mut process, target)?;
        for name in saved::FILES {
            let path = target.join(name);
            fs::rename(self.file(&saving::place(name)), &path).context("create", &path)?;
        }
        Ok((true, stopped))
    }

    fn copy_running(&self, process: &mut Saving, target: &Path) -> Result<u64> {
        let mut copies = Vec::new();
        for name in self.disk_files()? {
            let path = target.join(&name);
            let mut copy = FileCopy::new(&self.file(&name), &path)?;
            copy.update().context("write", &path)?;
            copies.push((copy, path));
        }
        process.freeze()?;
        for (copy, path) in &mut copies {
            copy.update().context("write", path)?;
        }
        let stopped = process.thaw()?;
        for (copy, path) in &copies {
            copy.sync().context("write", path)?;
        }
        Ok(stopped)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn remove_snapshot(&self, name: &str) -> Result<()> {
        let _lock = self.lock_snapshots()?;
        let path = self.snapshot_path(name)?;
        if self.note()?.is_some_and(|note| note.snapshot == name) {
            let text = format!("machine {0} is going back to snapshot {name}; start it first", self.name());
            return Err(Error::Refused(text));
        }
        let gone = self.snapshots_path().join(format!("{TRANSIENT}gone-{name}"));
        fs::rename(&path, &gone).context("remove", &path)?;
        fs::remove_dir_all(&gone).context("remove", &gone)
    }

    /// Goes back to a snapshot; the machine doesn't run. It goes on from there when it is started.
    ///
    /// # Errors
    /// If there is none of that name, or the host refuses; after that the machine is as before, or as it was then.
    pub fn restore_snapshot(&self, name: &str, lock: &Lock) -> Result<()> {
        let _lock = self.lock_snapshots()?;
        self.finish_restore(lock)?;
        // From the note on there is no way back.
        saved::check(&self.snapshot_path(name)?)?;
        let note = Note { snapshot: name.to_owned() };
        let (path, temporary) = (self.file(RESTORE), self.file("restore.new"));
        let text = serde_json::to_vec(&note).map_err(io::Error::from).context("write", &path)?;
        saved::write(temporary.clone(), &text)?;
        fs::rename(&temporary, &path).context("write", &path)?;
        sync_directory(&self.file(""))?;
        self.finish_restore(lock)
    }

    fn note(&self) -> Result<Option<Note>> {
        let path = self.file(RESTORE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read", &path),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| Error::Damaged {
                name: self.name().to_owned(),
                what: RESTORE,
                reason: error.to_string(),
            }),
        }
    }

    /// Does what the note says, if there is one. For the holder of the machine's lock.
    pub(crate) fn finish_restore(&self, _: &Lock) -> Result<()> {
        let Some(note) = self.note()? else { return Ok(()) };
        let from = self.snapshot_path(&note.snapshot)?;
        for name in self.disk_files()? {
            let (path, temporary) = (self.file(&name), self.file(&format!("{name}.new")));
            let _ = fs::remove_file(&temporary);
            copy(&from.join(&name), &temporary)?;
            fs::rename(&temporary, &path).context("write", &path)?;
        }
        let (resume, draft) = (self.file(RESUME), self.file("resume.new"));
        for path in [&resume, &draft] {
            if path.exists() {
                fs::remove_dir_all(path).context("remove", path)?;
            }
        }
        if from.join(saved::STATE).exists() {
            saved::give(&from, &draft, false)?;
            fs::rename(&draft, &resume).context("create", &resume)?;
        }
        sync_directory(&self.file(""))?;
        let path = self.file(RESTORE);
        fs::remove_file(&path).context("remove", &path)?;
        sync_directory(&self.file(""))
    }

    /// What the machine goes on from, if it doesn't begin with power-on.
    pub(crate) fn saved(&self) -> Result<Option<Saved>> {
        saved::read(&self.file(RESUME), self.name())
    }

    /// The machine begins with power-on the next time.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn forget_saved(&self) -> Result<()> {
        let path = self.file(RESUME);
        // The state first: without it there is nothing to go on from.
        for name in saved::FILES.iter().chain([&saved::FRESH]) {
            match fs::remove_file(path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).context("remove", &path)?
                }
                _ => {}
            }
        }
        // The machine's own process may not.
        let _ = fs::remove_dir(&path);
        Ok(())
    }

    /// Fills the directory of a new machine from a directory that [`save_into`](Self::save_into) has filled, or a
    /// snapshot: it is to be another machine, or this one.
    pub(crate) fn fill_from(from: &Path, to: &Path, fresh: bool) -> Result<()> {
        for entry in fs::read_dir(from).context("read", from)?.flatten() {
            let name = entry.file_name();
            let path = to.join(&name);
            match name.to_str() {
                Some(BASE) => link(&entry.path(), &path)?,
                Some(name) if name.ends_with(".qcow2") => copy(&entry.path(), &path)?,
                _ => {}
            }
        }
        if from.join(saved::STATE).exists() {
            saved::give(from, &to.join(RESUME), fresh)?;
        }
        Ok(())
    }

    /// Where a snapshot's files are.
    pub(crate) fn files_of_snapshot(&self, name: &str) -> Result<PathBuf> {
        self.snapshot_path(name)
    }
}

#[cfg(test)]
mod tests;
