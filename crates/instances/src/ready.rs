//! Ready points: snapshots of machines that have just booted and wait for what they are to do. Machines begin as copies
//! of them, in a blink (the book, "Snapshots").
//!
//! A ready point belongs to an image, a build of Rvisor and the shape of the machine. It lies in the store, in a directory
//! that appears as a whole, beside the text that says what it belongs to. Machines have names of their own for its files, so
//! that it can be removed at any time.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rvisor_hosted::disk::create_overlay_beside;
use serde::{Deserialize, Serialize};

use crate::agent::ExecRequest;
use crate::client::Client;
use crate::config::{Config, Paging};
use crate::directory::{Directory, Machines};
use crate::error::{Context, Error, Result};
use crate::file_copy::link;
use crate::protocol::Frame;
use crate::saved::{self, sync_directory};
use crate::snapshot::{BASE, RESUME};

const KEY: &str = "key.json";
/// Ready points that are kept.
const MOST: usize = 8;
/// How long a guest may take to become ready.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(10);

/// Waits for the system's own init, if it is one that can tell; it doesn't listen yet when the agent does. A system that
/// never gets all of it up is as ready as it will be.
const SYSTEM_IS_UP: &str = "command -v systemctl >/dev/null || exit 0; for try in $(seq 600); do \
    case $(systemctl is-system-running --wait 2>/dev/null) in running|degraded|maintenance) exit 0;; esac; \
    sleep 0.2; done";

/// What a ready point belongs to.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    build: String,
    kernel: String,
    run_initrd: String,
    base_disk: Option<String>,
    append: String,
    cpus: u32,
    memory: u64,
    hypervisor: bool,
    #[serde(default)]
    portable: bool,
    #[serde(default)]
    paging: Option<Paging>,
    network: bool,
    for_command: bool,
    #[serde(default)]
    shares: bool,
}

impl Key {
    fn new(config: &Config) -> Self {
        Self {
            build: build(),
            kernel: config.kernel.clone(),
            run_initrd: config.run_initrd.clone(),
            base_disk: config.base_disk.clone(),
            append: config.append.clone(),
            cpus: config.cpus,
            memory: config.memory,
            hypervisor: config.hypervisor,
            portable: config.portable,
            paging: config.paging,
            network: config.network,
            for_command: config.is_for_command(),
            shares: !config.volumes.is_empty(),
        }
    }

    fn directory(&self, text: &str) -> String {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// The program that this is: its version, and when and how large its file was made.
fn build() -> String {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata("/proc/self/exe")
        .map(|metadata| format!("{}-{}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
    format!("{}-{}", env!("CARGO_PKG_VERSION"), file.unwrap_or_default())
}

/// A ready point, for machines to begin as.
pub struct ReadyPoint {
    path: PathBuf,
}

impl ReadyPoint {
    /// Fills the directory of a machine that begins as a copy of it: the disk is an overlay, and memory the same file.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn give(&self, to: &Path) -> Result<()> {
        let disk = Directory::disk_in(&self.path);
        if disk.exists() {
            link(&disk, &to.join(BASE))?;
            create_overlay_beside(&Directory::disk_in(to), BASE)?;
        }
        saved::give(&self.path, &to.join(RESUME), true)
    }
}

impl Machines {
    fn ready_root(&self) -> PathBuf {
        self.store().join("ready")
    }

    /// The ready point for machines like this. It is made if there is none yet: `fill` makes the disks of the machine
    /// that is booted for that, `start` starts its process.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn ready_point(
        &self,
        config: &Config,
        fill: impl FnOnce(&Path) -> Result<()>,
        start: impl FnOnce(&Directory) -> Result<()>,
    ) -> Result<ReadyPoint> {
        let key = Key::new(config);
        let text = serde_json::to_string_pretty(&key).map_err(io::Error::from);
        let text = text.context("write", Path::new(KEY))?;
        let root = self.ready_root();
        let path = root.join(key.directory(&text));
        let exists = || fs::read_to_string(path.join(KEY)).is_ok_and(|found| found == text);
        if exists() {
            return Ok(ReadyPoint { path });
        }
        fs::create_dir_all(&root).context("create", &root)?;
        let lock = root.join("lock");
        let lock_file = File::create(&lock).context("create", &lock)?;
        lock_file.lock().context("lock", &lock)?;
        if exists() {
            return Ok(ReadyPoint { path });
        }
        tidy(&root, self.store(), MOST - 1);
        let draft = root.join(".new");
        for leftover in [&draft, &path] {
            let _ = fs::remove_dir_all(leftover);
        }
        fs::create_dir(&draft).context("create", &draft)?;
        self.make_ready(config, &draft, fill, start)?;
        saved::write(draft.join(KEY), text.as_bytes())?;
        sync_directory(&draft)?;
        fs::rename(&draft, &path).context("create", &path)?;
        sync_directory(&root)?;
        Ok(ReadyPoint { path })
    }

    /// Removes ready points that are of no use any more.
    pub fn tidy_ready_points(&self) {
        let root = self.ready_root();
        if let Ok(lock) = File::open(root.join("lock"))
            && lock.try_lock().is_ok()
        {
            tidy(&root, self.store(), MOST);
        }
    }

    /// Boots a machine, and saves it once it is ready.
    fn make_ready(
        &self,
        config: &Config,
        draft: &Path,
        fill: impl FnOnce(&Path) -> Result<()>,
        start: impl FnOnce(&Directory) -> Result<()>,
    ) -> Result<()> {
        let template = Config {
            command: Vec::new(),
            environment: Vec::new(),
            publish: Vec::new(),
            // Each copy takes its own place on a network.
            private_network: None,
            // Nor is it known what the next one may use.
            cpu_limit: None,
            remove: true,
            unconfined: false,
            template: true,
            takes_command: config.is_for_command(),
            // Where the files are is each copy's own affair, and so is a terminal.
            takes_shares: !config.volumes.is_empty(),
            volumes: Vec::new(),
            terminal: false,
            ..config.clone()
        };
        let (directory, lock) = self.create(&self.unused_name("ready")?, &template, fill)?;
        drop(lock);
        start(&directory)?;
        let client = Client::new(&directory);
        let saved = wait_ready(&client, &template).and_then(|()| directory.save_into(draft));
        let _ = client.kill();
        saved.map(|_| ())
    }
}

fn wait_ready(client: &Client<'_>, config: &Config) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !client.live()?.ready {
        if Instant::now() > deadline {
            return Err(Error::Refused("the guest didn't become ready".into()));
        }
        thread::sleep(LOOK);
    }
    if !config.is_for_command() {
        run(client, &["/bin/sh", "-c", SYSTEM_IS_UP])?;
    }
    // What any command needs is in the guest's memory then, and so in that of all copies.
    run(client, &["/bin/sh", "-c", "exec true"])?;
    run(client, &["/bin/sh", "-c", "sync; exec hostname"])
}

fn run(client: &Client<'_>, words: &[&str]) -> Result<()> {
    let request = crate::exec_command::request(
        &words.iter().map(|word| (*word).into()).collect::<Vec<_>>(),
        &[],
        false,
    );
    let mut session = client.exec(ExecRequest { patience: PATIENCE.as_secs_f64(), ..request })?;
    let _ = session.send(&Frame::InputEnd);
    while let Ok(Some(frame)) = session.receive() {
        if matches!(frame, Frame::Exit(_) | Frame::Failed(..)) {
            break;
        }
    }
    Ok(())
}

/// Removes ready points of other builds, those whose images are gone, and the oldest if there are too many. For the
/// holder of the lock.
fn tidy(root: &Path, store: &Path, most: usize) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut kept = Vec::new();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let key = fs::read(path.join(KEY)).ok().and_then(|text| serde_json::from_slice::<Key>(&text).ok());
        let is_useful = key.is_some_and(|key| {
            let blobs = [Some(&key.kernel), Some(&key.run_initrd), key.base_disk.as_ref()];
            key.build == build()
                && blobs.into_iter().flatten().all(|blob| store.join("blobs/sha256").join(blob).exists())
        });
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(time) if is_useful => kept.push((time, path)),
            _ => drop(fs::remove_dir_all(&path)),
        }
    }
    kept.sort();
    let excess = kept.len().saturating_sub(most);
    kept.drain(..excess).for_each(|(_, path)| drop(fs::remove_dir_all(path)));
}
