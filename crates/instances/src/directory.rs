//! Directories of machines. The layout is documented in the book, "Machines".
//!
//! A directory appears as a whole, by a rename, and disappears as a whole, by another one. Whoever changes what is
//! in it holds its lock: the machine's process for as long as the machine runs, a command for a moment. A process
//! that dies lets go of its lock, however it dies; that tells a machine that runs from one that did.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rvisor_images::lock_new;
use serde::de::DeserializeOwned;

use crate::config::{Config, FORMAT, State, Status, now};
use crate::error::{Context, Error, Result};
use crate::networks::Networks;

/// The machine's own disk, a qcow2 overlay over its image's.
const DISK: &str = "disk.qcow2";
/// Held by the process that runs the machine.
pub(crate) const LOCK: &str = "lock";
const CONFIG: &str = "config.json";
/// All that the machine's process may make, replace and remove is in there: what tells the next process what it may do
/// is not.
pub(crate) const RUN: &str = "run";
const STATE: &str = "run/state.json";
const SOCKET: &str = "run/control.sock";
const LOG: &str = "run/log";

/// How often, and with what pauses, a lock is asked for: others take it for a moment to look.
const ATTEMPTS: u32 = 25;
const PAUSE: Duration = Duration::from_millis(10);
/// Directories that are being made or removed begin so; names of machines don't.
const TRANSIENT: &str = ".";

/// All machines of a store.
#[derive(Clone, Debug)]
pub struct Machines {
    root: PathBuf,
}

/// A machine as listings show it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it is; `None` for one that an older Rvisor made.
    pub config: Option<Config>,
    /// How it is.
    pub state: State,
    /// Bytes that its own disks occupy on the host.
    pub disk: u64,
}

/// A machine's directory, open: it is the same one after it was renamed.
#[derive(Debug)]
pub struct Directory {
    name: String,
    handle: File,
    path: PathBuf,
    root: PathBuf,
}

/// The right to change a machine, until it is dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// Names are host names too: letters, digits and hyphens.
///
/// # Errors
/// [`Error::BadName`].
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    if !(1..=63).contains(&name.len()) || !name.bytes().all(allowed) || name.starts_with('-') {
        return Err(Error::BadName(name.to_owned()));
    }
    Ok(())
}

impl Machines {
    /// The machines of the store in the directory `store`. Removes what commands that were killed have left.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        let machines = Self { root: store.join("machines") };
        machines.remove_leftovers();
        machines
    }

    /// The store's directory.
    #[must_use]
    pub fn store(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// A name that no machine has, beginning like its image's.
    ///
    /// # Errors
    /// If the host gives no random numbers.
    pub fn unused_name(&self, image: &str) -> Result<String> {
        use rvisor_waist::EntropyBackend;
        let stem: String =
            image.chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let mut entropy =
            rvisor_hosted::HostEntropy::new().context("take random numbers from", Path::new("the host"))?;
        loop {
            let mut bytes = [0; 3];
            entropy.fill(&mut bytes);
            let name = format!("{stem}-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]);
            if !self.root.join(&name).exists() {
                return Ok(name);
            }
        }
    }

    /// Makes a machine; `fill` puts its disks into the directory. Returns it locked.
    ///
    /// # Errors
    /// If the name is taken or no name, or the host refuses; nothing is left then.
    pub fn create(
        &self,
        name: &str,
        config: &Config,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<(Directory, Lock)> {
        self.check_unused(name)?;
        let path = self.root.join(name);
        fs::create_dir_all(&self.root).context("create", &self.root)?;
        let draft = Draft::new(&self.root, name)?;
        write_json(&draft.path.join(CONFIG), config)?;
        let run = draft.path.join(RUN);
        fs::create_dir(&run).context("create", &run)?;
        write_json(&draft.path.join(STATE), &State::created())?;
        fill(&draft.path)?;
        let lock = draft.publish(&path, name)?;
        Ok((self.open(name)?, lock))
    }

    /// Checks that a machine can have this name.
    pub(crate) fn check_unused(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.root.join(name).exists() {
            return Err(Error::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    /// A directory for this process's work, beside those of machines.
    pub(crate) fn transient(&self, what: &str) -> PathBuf {
        self.root.join(format!("{TRANSIENT}{what}-{}", std::process::id()))
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(&self, name: &str) -> Result<Directory> {
        check_name(name)?;
        let path = self.root.join(name);
        match File::open(&path) {
            Ok(handle) if handle.metadata().is_ok_and(|metadata| metadata.is_dir()) => {
                Ok(Directory { name: name.to_owned(), handle, path, root: self.root.clone() })
            }
            Ok(_) => Err(Error::NoMachine(name.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoMachine(name.to_owned())),
            Err(error) => Err(error).context("open", &path),
        }
    }

    /// All machines, by name.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut machines = self.list_all()?;
        machines.retain(|listed| !listed.config.as_ref().is_some_and(|config| config.template));
        Ok(machines)
    }

    /// The same with those that are only made to be copied.
    fn list_all(&self) -> Result<Vec<Listed>> {
        let mut machines = Vec::new();
        for name in self.names()? {
            // One that is being removed at this moment isn't there any more.
            if let Ok(directory) = self.open(&name) {
                machines.extend(directory.look());
            }
        }
        Ok(machines)
    }

    fn names(&self) -> Result<Vec<String>> {
        names(&self.root)
    }

    /// What killed commands and killed processes of `--rm` machines have left.
    fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_transient =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TRANSIENT));
            if is_transient && is_abandoned(&path) {
                let _ = fs::remove_dir_all(&path);
            }
        }
        for name in self.names().unwrap_or_default() {
            let path = self.root.join(name);
            // Its process removed all that it could, and was killed then.
            let is_none = !path.join(CONFIG).exists() || Directory::did_not_arrive(&path);
            if is_none && is_abandoned(&path) {
                let _ = fs::remove_dir_all(&path);
            }
        }
        for listed in self.list_all().unwrap_or_default() {
            let is_over = matches!(listed.state.status, Status::Crashed | Status::Exited)
                && listed.config.as_ref().is_some_and(|config| config.remove);
            if is_over {
                let _ = self.open(&listed.name).and_then(Directory::remove);
            }
        }
    }
}

/// Whether nobody is at work in a directory: its lock is free. One without a lock may be about to get it.
fn is_abandoned(path: &Path) -> bool {
    const YOUNG: Duration = Duration::from_secs(60);
    match File::open(path.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG)),
    }
}

/// A directory that isn't a machine yet. Dropping it removes it.
struct Draft {
    path: PathBuf,
    lock: Option<File>,
}

impl Draft {
    fn new(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(format!("{TRANSIENT}new-{}-{name}", std::process::id()));
        // Others must not use the socket, nor read what the guest has on its disks.
        fs::DirBuilder::new().mode(0o700).create(&path).context("create", &path)?;
        let mut draft = Self { path, lock: None };
        draft.lock = Some(lock_new(&draft.path).context("lock", &draft.path)?);
        Ok(draft)
    }

    fn publish(mut self, path: &Path, name: &str) -> Result<Lock> {
        rename(&self.path, path, name)?;
        self.path = PathBuf::new();
        // It was taken in `new`.
        self.lock.take().map(Lock).ok_or_else(|| Error::NoMachine(name.to_owned()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// What is in a directory, which needn't be there.
pub(crate) fn entries(path: &Path) -> Result<impl Iterator<Item = fs::DirEntry> + use<>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries.context("read", path)?),
    };
    Ok(entries.into_iter().flatten().flatten())
}

/// The names in such a directory that the user has given, in order.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let names = entries(path)?.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| check_name(name).is_ok()).collect();
    names.sort();
    Ok(names)
}

/// Renames a directory unless the new name is taken.
pub(crate) fn rename(from: &Path, to: &Path, name: &str) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::NameTaken(name.to_owned())),
        // File systems without that kind of rename still refuse to replace a directory that has something in it.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && !to.exists() => {
            fs::rename(from, to).context("create", to)
        }
        renamed => renamed.context("create", to),
    }
}

impl Directory {
    /// The machine's name when it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same directory, for another thread.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let handle = self.handle.try_clone().context("open", &self.path)?;
        Ok(Self { name: self.name.clone(), handle, path: self.path.clone(), root: self.root.clone() })
    }

    /// The machine's name now: it may have been renamed.
    pub(crate) fn current_name(&self) -> String {
        let path = fs::read_link(format!("/proc/self/fd/{}", self.handle.as_raw_fd()));
        let name = path.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        // One that is being removed has none any more.
        name.filter(|name| check_name(name).is_ok()).unwrap_or_else(|| self.name.clone())
    }

    /// The store's directory.
    #[must_use]
    pub fn store(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// A file in the directory. The path holds in this process, whatever the machine is renamed to, and is short
    /// enough for a socket's address.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }

    /// Where its own disk is.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.file(DISK)
    }

    /// Where the `number`th disk beside the first is.
    #[must_use]
    pub fn other_disk(&self, number: usize) -> PathBuf {
        self.file(&other_disk(number))
    }

    /// Where a machine's own disk is to be, while its directory is being filled.
    #[must_use]
    pub fn disk_in(directory: &Path) -> PathBuf {
        directory.join(DISK)
    }

    /// The same for the disks beside it.
    #[must_use]
    pub fn other_disk_in(directory: &Path, number: usize) -> PathBuf {
        directory.join(other_disk(number))
    }

    /// The control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file(SOCKET)
    }

    /// What the machine has said.
    pub(crate) fn log(&self) -> PathBuf {
        self.file(LOG)
    }

    /// Names of the files of its own disks.
    pub(crate) fn disk_files(&self) -> Result<Vec<String>> {
        let config = self.config()?;
        let own = config.base_disk.iter().map(|_| DISK.to_owned());
        Ok(own.chain((0..config.disks.len()).map(other_disk)).collect())
    }

    /// Where it is now, for people: it may have been renamed.
    pub(crate) fn current_path(&self) -> PathBuf {
        self.root.join(self.current_name())
    }

    /// What the machine is.
    ///
    /// # Errors
    /// If an older Rvisor made it, or the file is damaged.
    pub fn config(&self) -> Result<Config> {
        let config: Option<Config> = self.read(CONFIG)?;
        config.filter(|config| config.format == FORMAT).ok_or_else(|| Error::TooOld(self.name.clone()))
    }

    /// How the machine is.
    ///
    /// # Errors
    /// If the file is damaged, or the host refuses.
    pub fn state(&self) -> Result<State> {
        // Older ones have none.
        let ended = || State { status: Status::Exited, ..State::created() };
        let mut state: State = self.read(STATE)?.unwrap_or_else(ended);
        if matches!(state.status, Status::Running | Status::Paused) && !self.is_running()? {
            // It may have ended in between.
            state = self.read(STATE)?.unwrap_or(state);
            if matches!(state.status, Status::Running | Status::Paused) {
                state.status = Status::Crashed;
            }
        }
        Ok(state)
    }

    fn read<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>> {
        let path = self.file(name);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read", &path),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::Damaged {
                name: self.name.clone(),
                what: name,
                reason: error.to_string(),
            }),
        }
    }

    /// Says how the machine is. For the holder of the lock.
    pub(crate) fn set_state(&self, state: &State) -> Result<()> {
        write_json(&self.file(STATE), state)
    }

    /// Whether a process runs the machine.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn is_running(&self) -> Result<bool> {
        let path = self.file(LOCK);
        let Ok(lock) = File::open(&path) else { return Ok(false) };
        match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error).context("lock", &path),
        }
    }

    /// Waits until no process runs the machine.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn wait(&self) -> Result<()> {
        let path = self.file(LOCK);
        match File::open(&path) {
            Ok(lock) => lock.lock_shared().context("lock", &path),
            // Removed as it ended.
            Err(_) => Ok(()),
        }
    }

    /// Takes the lock, if no process runs the machine.
    ///
    /// # Errors
    /// If one does, or the machine has just been removed.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.file(LOCK);
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let lock = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoMachine(self.name.clone()));
            }
            lock => lock.context("open", &path)?,
        };
        for attempt in 0.. {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(Error::Running(self.name.clone())),
                Err(TryLockError::Error(error)) => return Err(error).context("lock", &path),
            }
        }
        // Somebody may have removed or renamed the machine before the lock was ours.
        let is_same = |metadata: &fs::Metadata| {
            use std::os::unix::fs::MetadataExt;
            self.handle.metadata().is_ok_and(|ours| ours.ino() == metadata.ino())
        };
        match fs::metadata(&self.path) {
            Ok(metadata) if is_same(&metadata) => Ok(Lock(lock)),
            _ => Err(Error::NoMachine(self.name.clone())),
        }
    }

    /// Gives the machine another name, whether it runs or not.
    ///
    /// # Errors
    /// If the name is taken or no name.
    pub fn rename(&self, name: &str) -> Result<()> {
        check_name(name)?;
        rename(&self.path, &self.root.join(name), name)?;
        // The handle is still this machine's.
        match self.config()?.private_network {
            Some(network) => Networks::new(self.store()).rename_machine(&network, &self.name, name),
            None => Ok(()),
        }
    }

    /// Removes a machine that isn't running.
    ///
    /// # Errors
    /// If it is, or the host refuses.
    pub fn remove(self) -> Result<()> {
        let lock = self.lock()?;
        self.remove_locked(&lock)
    }

    /// Removes the machine whose lock is held.
    pub(crate) fn remove_locked(&self, lock: &Lock) -> Result<()> {
        // The name that it has now: it may have been renamed while it ran.
        let path = fs::read_link(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
            .context("find", &self.path)?;
        let gone = self.root.join(format!("{TRANSIENT}gone-{}-{}", std::process::id(), self.name));
        match fs::rename(&path, &gone) {
            // This is the machine's process, in its sandbox.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return self.remove_own(lock),
            renamed => renamed.context("remove", &path)?,
        }
        fs::remove_dir_all(&gone).context("remove", &gone)
    }

    /// Removes the machine that this process has run, as its sandbox lets it: in place, and what makes it a machine last.
    /// What a process that is killed meanwhile leaves is removed by the next command.
    pub(crate) fn remove_own(&self, _: &Lock) -> Result<()> {
        let path = fs::read_link(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
            .context("find", &self.path)?;
        let entries = fs::read_dir(self.file("")).context("read", &path)?;
        for entry in entries.flatten() {
            let is_last = [CONFIG, LOCK].iter().any(|name| entry.file_name() == *name);
            if !is_last {
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let remove = if is_directory { fs::remove_dir_all } else { fs::remove_file };
                remove(&entry.path()).context("remove", &path.join(entry.file_name()))?;
            }
        }
        for name in [CONFIG, LOCK] {
            fs::remove_file(self.file(name)).context("remove", &path.join(name))?;
        }
        fs::remove_dir(&path).context("remove", &path)
    }

    /// The machine as listings show it; `None` if it can't be told.
    #[must_use]
    pub fn look(&self) -> Option<Listed> {
        let state = self.state().inspect_err(|error| log::warn!("{error}")).ok()?;
        let config = self.config().ok();
        let others = config.as_ref().map_or(0, |config| config.disks.len());
        let disks = (0..others).map(|number| self.other_disk(number)).chain([self.disk()]);
        let disk = disks.map(|disk| occupied(&disk)).sum();
        Some(Listed { name: self.name.clone(), config, state, disk })
    }

    /// Says that the machine has started.
    pub(crate) fn started() -> State {
        let mut state = State::created();
        (state.status, state.pid, state.started) = (Status::Running, std::process::id(), now());
        state
    }
}

fn other_disk(number: usize) -> String {
    format!("disk-{}.qcow2", number + 1)
}

/// Bytes on the host's disk, as `du` counts them.
pub(crate) fn occupied(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Replaces a file as a whole.
fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::from).context("write", path)?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).context("write", &temporary)?;
    fs::rename(&temporary, path).context("write", path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::EngineConfig;

    pub(crate) fn config() -> Config {
        Config {
            format: FORMAT,
            created: 1,
            image: "debian".into(),
            kernel: "0".repeat(64),
            run_initrd: "1".repeat(64),
            base_disk: None,
            append: String::new(),
            cpus: 1,
            hypervisor: false,
            portable: false,
            paging: None,
            memory: 1 << 30,
            network: false,
            publish: Vec::new(),
            disks: Vec::new(),
            volumes: Vec::new(),
            workdir: None,
            terminal: false,
            command: Vec::new(),
            environment: Vec::new(),
            remove: false,
            unconfined: false,
            cpu_limit: None,
            private_network: None,
            tap: None,
            engine: EngineConfig {
                engine: "translator".into(),
                optimize: "hot".into(),
                code_cache: None,
                code_memory: None,
            },
            template: false,
            takes_command: false,
            takes_shares: false,
        }
    }

    fn machines() -> (tempfile::TempDir, Machines) {
        let directory = tempfile::tempdir().unwrap();
        let machines = Machines::new(directory.path());
        (directory, machines)
    }

    fn make(machines: &Machines, name: &str) -> (Directory, Lock) {
        machines.create(name, &config(), |_| Ok(())).unwrap()
    }

    #[test]
    fn machine_is_listed_until_it_is_removed() {
        let (_directory, machines) = machines();
        let (web, lock) = make(&machines, "web");
        assert!(web.is_running().unwrap());
        assert!(matches!(machines.open("web").unwrap().remove(), Err(Error::Running(_))));
        assert!(matches!(machines.create("web", &config(), |_| Ok(())), Err(Error::NameTaken(_))));
        drop(lock);
        assert_eq!(machines.list().unwrap()[0].state.status, Status::Created);
        machines.open("web").unwrap().remove().unwrap();
        assert!(machines.list().unwrap().is_empty());
        assert!(matches!(machines.open("web"), Err(Error::NoMachine(_))));
        assert!(matches!(web.lock(), Err(Error::NoMachine(_))), "the directory is another one now, or none");
    }

    #[test]
    fn machine_that_cannot_be_filled_leaves_nothing() {
        let (directory, machines) = machines();
        let failure = |path: &Path| {
            fs::write(path.join("half"), "x").unwrap();
            Err(Error::NoMachine("x".into()))
        };
        assert!(machines.create("web", &config(), failure).is_err());
        assert_eq!(fs::read_dir(directory.path().join("machines")).unwrap().count(), 0);
    }

    #[test]
    fn process_that_dies_leaves_a_crashed_machine_and_none_that_was_to_go() {
        let (directory, machines) = machines();
        for (name, remove) in [("kept", false), ("gone", true)] {
            let config = Config { remove, ..config() };
            let (machine, lock) = machines.create(name, &config, |_| Ok(())).unwrap();
            machine.set_state(&Directory::started()).unwrap();
            assert_eq!(machine.state().unwrap().status, Status::Running);
            drop(lock);
        }
        let names: Vec<_> = machines.list().unwrap().into_iter().map(|listed| listed.state.status).collect();
        assert_eq!(names, [Status::Crashed; 2]);
        let machines = Machines::new(directory.path());
        assert_eq!(machines.list().unwrap().len(), 1);
        assert_eq!(machines.list().unwrap()[0].name, "kept");
    }

    #[test]
    fn directory_that_is_just_being_made_is_nobody_elses() {
        let (directory, machines) = machines();
        let others = directory.path().to_owned();
        let (stop, is_over) = std::sync::mpsc::channel::<()>();
        let tidying = std::thread::spawn(move || {
            while is_over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                drop(Machines::new(&others));
            }
        });
        for number in 0..100 {
            let (machine, lock) = make(&machines, &format!("made-{number}"));
            machine.remove_own(&lock).unwrap();
        }
        drop(stop);
        tidying.join().unwrap();
    }

    #[test]
    fn half_made_directory_of_a_killed_command_is_removed() {
        let (directory, machines) = machines();
        drop(make(&machines, "other"));
        let half = directory.path().join("machines/.new-1-web");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(LOCK), "").unwrap();
        assert_eq!(machines.list().unwrap().len(), 1);
        drop(Machines::new(directory.path()));
        assert!(!half.exists());
    }

    #[test]
    fn machine_that_removes_itself_is_gone_and_one_killed_meanwhile_goes_later() {
        let (directory, machines) = machines();
        let (web, lock) = make(&machines, "web");
        web.rename("shop").unwrap();
        web.remove_own(&lock).unwrap();
        assert!(!directory.path().join("machines/shop").exists());
        let (_half, lock) = make(&machines, "half");
        let path = directory.path().join("machines/half");
        fs::remove_file(path.join(CONFIG)).unwrap();
        drop(Machines::new(directory.path()));
        assert!(path.exists(), "its process is at it");
        drop(lock);
        drop(Machines::new(directory.path()));
        assert!(!path.exists());
    }

    #[test]
    fn renamed_machine_keeps_its_lock_and_its_files() {
        let (_directory, machines) = machines();
        let (web, lock) = make(&machines, "web");
        drop(make(&machines, "taken"));
        assert!(matches!(web.rename("taken"), Err(Error::NameTaken(_))));
        web.rename("shop").unwrap();
        assert!(machines.open("shop").unwrap().is_running().unwrap());
        web.set_state(&Directory::started()).unwrap();
        assert_eq!(machines.open("shop").unwrap().state().unwrap().status, Status::Running);
        web.remove_locked(&lock).unwrap();
        assert_eq!(machines.list().unwrap().len(), 1);
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let (_directory, machines) = machines();
        for name in ["", "..", "a/b", "-rf", "a b", &"x".repeat(64)] {
            assert!(matches!(machines.create(name, &config(), |_| Ok(())), Err(Error::BadName(_))), "{name}");
            assert!(matches!(machines.open(name), Err(Error::BadName(_))), "{name}");
        }
    }
}
