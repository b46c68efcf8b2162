//! Machines on their way between the homes (the book, "Moving between the homes"): what a bundle needs of one that leaves,
//! and one that comes back as a file that [`import`](crate::import) takes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rvisor_hosted::disk::{DiskOptions, Format, Image, create_empty};
use rvisor_images::digest;
use rvisor_machine::Extensions;
use rvisor_machine::persist::SavedState;
use rvisor_machine::slots::{AGENT_PORT, MetalSlots};
use serde::{Deserialize, Serialize};

use crate::AGENT;
use crate::config::{Config, EngineConfig, FORMAT, Paging, now};
use crate::copies::Scratch;
use crate::directory::{Directory, Machines};
use crate::error::{Context, Error, Result};
use crate::export;
use crate::packed;
use crate::saved::{self, SavedHost};

/// Bytes of a disk that are moved at once.
const CHUNK: u64 = 1 << 20;
/// A run of zeros of this size is left out.
const HOLE: usize = 64 << 10;

fn refused(text: impl Into<String>) -> Error {
    Error::Refused(text.into())
}

/// What this home has to know of a machine that is in the other one, for when it comes back.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    config: Config,
    host: SavedHost,
}

/// A saved machine that leaves for the type-1 home.
pub struct Leaving {
    config: Config,
    name: String,
    /// Where its files are.
    files: PathBuf,
    /// Where its image's files are, unless they are among its own.
    blobs: Option<PathBuf>,
    /// What keeps its files where they are.
    _held: Held,
}

/// The paths of a machine's files hold as long as its directory is open.
#[expect(dead_code, reason = "it is only held")]
enum Held {
    Machine(Directory),
    Copy(Scratch),
}

impl Leaving {
    /// A machine as it was when a snapshot was made.
    ///
    /// # Errors
    /// If there is no such machine or snapshot, or the machine didn't run then.
    pub fn of_snapshot(machines: &Machines, machine: &str, snapshot: &str) -> Result<Self> {
        let directory = machines.open(machine)?;
        let leaving = Self {
            config: directory.config()?,
            name: machine.to_owned(),
            files: directory.files_of_snapshot(snapshot)?,
            blobs: Some(machines.store().join("blobs/sha256")),
            _held: Held::Machine(directory),
        };
        leaving.check_running(&format!("snapshot {snapshot} of machine {machine}"))
    }

    /// A machine that was exported; `name` is the guest's.
    ///
    /// # Errors
    /// If it can't be read, or the machine didn't run.
    pub fn of_export(machines: &Machines, name: &str, input: &mut dyn Read) -> Result<Self> {
        let scratch = Scratch::new(machines)?;
        let (config, _) = export::read(scratch.path(), input)?;
        let files = scratch.path().to_owned();
        export::point_disks(&files, &config, |digest| export::blob_in(&files, digest))?;
        export::check_disks(&files, &config, |digest| export::blob_in(&files, digest))?;
        let leaving = Self { config, name: name.to_owned(), files, blobs: None, _held: Held::Copy(scratch) };
        leaving.check_running("the exported machine")
    }

    fn check_running(self, what: &str) -> Result<Self> {
        if self.files.join(saved::STATE).exists() {
            return Ok(self);
        }
        Err(refused(format!("{what} didn't run when it was saved; there is nothing to go on from")))
    }

    fn read_file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.files.join(name);
        fs::read(&path).context("read", &path)
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let path = match &self.blobs {
            Some(blobs) => blobs.join(digest),
            None => export::blob_in(&self.files, digest),
        };
        fs::read(&path).context("read a file of the machine's image,", &path)
    }

    /// Its harts and devices.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn state(&self) -> Result<SavedState> {
        let damaged = |error| refused(format!("the saved machine is damaged: {error}"));
        SavedState::new(self.read_file(saved::STATE)?).map_err(damaged)
    }

    /// Its memory, as runs.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn memory(&self) -> Result<Vec<u8>> {
        let packed = self.files.join(saved::PACKED);
        if packed.exists() {
            return packed::runs(&packed, saved::MEMORY);
        }
        let path = self.files.join(saved::MEMORY);
        let mut bytes = Vec::new();
        let mut put = |piece: &[u8]| {
            bytes.extend(piece);
            Ok(())
        };
        File::open(&path)
            .and_then(|file| packed::write_pages(&file, file.metadata()?.len(), &mut put))
            .context("read", &path)?;
        Ok(bytes)
    }

    /// What is to come back with it.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn notes(&self) -> Result<Vec<u8>> {
        let host = serde_json::from_slice(&self.read_file(saved::HOST)?);
        let host = host.map_err(|error| refused(format!("the saved machine is damaged: {error}")))?;
        let notes = serde_json::to_vec(&Notes { config: self.config.clone(), host });
        notes.map_err(|error| refused(error.to_string()))
    }

    /// What it boots from when it is restarted: kernel, initial RAM disk, and command line.
    ///
    /// # Errors
    /// If its image's files can't be read.
    pub fn boot_files(&self) -> Result<(Vec<u8>, Vec<u8>, String)> {
        let mut initrd = self.blob(&self.config.run_initrd)?;
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(rvisor_images::run_overlay(AGENT));
        let (append, name) = (&self.config.append, &self.name);
        let line = format!("{append} quiet rvisor.agent=1 rvisor.hostname={name} systemd.hostname={name}");
        Ok((self.blob(&self.config.kernel)?, initrd, line))
    }

    /// Its first disk, if it has one.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn disk(&self) -> Result<Option<std::sync::Arc<dyn Image>>> {
        let path = match (&self.config.base_disk, self.config.disks.is_empty()) {
            (Some(_), _) => Directory::disk_in(&self.files),
            (None, false) => Directory::other_disk_in(&self.files, 0),
            (None, true) => return Ok(None),
        };
        let options = DiskOptions { read_only: true, format: Some(Format::Qcow2), ..DiskOptions::new(path) };
        Ok(Some(options.open()?))
    }
}

/// Files of an image, each with its digest.
type Blobs<'a> = Vec<(String, &'a [u8])>;

/// A guest of the type-1 home that comes here.
pub struct Arriving<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its state.
    pub state: &'a SavedState,
    /// What this home noted when it left; nothing if it began there.
    pub notes: &'a [u8],
    /// Its kernel.
    pub kernel: &'a [u8],
    /// Its initial RAM disk.
    pub initrd: &'a [u8],
    /// Its kernel's command line.
    pub command_line: &'a str,
    /// The disk that its own is a part of, and which: first byte, and bytes.
    pub disk: Option<(&'a dyn Image, u64, u64)>,
}

/// Writes a guest that comes here to `output`, as if it had been exported. `fill` writes its memory.
///
/// # Errors
/// If it isn't a machine that this home can have, or the host refuses.
pub fn arrive(
    machines: &Machines,
    arriving: &Arriving<'_>,
    fill: impl FnOnce(&File) -> Result<()>,
    output: &mut dyn Write,
) -> Result<()> {
    let scratch = Scratch::new(machines)?;
    let files = scratch.path();
    let (config, host, blobs) = arriving.describe(machines)?;
    for (digest, bytes) in &blobs {
        let path = export::blob_in(files, digest);
        fs::write(&path, bytes).context("write", &path)?;
    }
    let write = |name: &str, bytes: &[u8]| saved::write(files.join(name), bytes);
    write(saved::STATE, arriving.state.as_bytes())?;
    let host = serde_json::to_vec(&host).map_err(|error| refused(error.to_string()))?;
    write(saved::HOST, &host)?;
    let path = files.join(saved::MEMORY);
    let memory = File::create_new(&path).context("create", &path)?;
    memory.set_len(config.memory).context("write", &path)?;
    fill(&memory)?;
    if let Some((disk, start, length)) = arriving.disk {
        let path = Directory::other_disk_in(files, 0);
        create_empty(&path, Format::Qcow2, length)?;
        let target = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::new(&path) }.open()?;
        copy_part(disk, start, &*target).context("write", &path)?;
    }
    let store = machines.store().join("blobs/sha256");
    let blob = |digest: &str| match blobs.iter().any(|(own, _)| own == digest) {
        true => export::blob_in(files, digest),
        false => store.join(digest),
    };
    export::write(files, config, blob, output)
}

impl<'a> Arriving<'a> {
    /// What machine it is here, what this host's end of its connections is to know, and the files of its image that
    /// aren't in the store.
    fn describe(&self, machines: &Machines) -> Result<(Config, SavedHost, Blobs<'a>)> {
        let damaged = |error: &dyn std::fmt::Display| refused(format!("the saved guest is damaged: {error}"));
        let shape = self.state.shape().map_err(|error| damaged(&error))?;
        let slots = self.state.slots().map_err(|error| damaged(&error))?;
        let slots = MetalSlots::of(&slots).map_err(|error| damaged(&error))?;
        let (config, host) = if self.notes.is_empty() {
            let is_agent = |ports: &Vec<_>| matches!(&ports[..], [port] if is_agent_port(port));
            if !slots.console.as_ref().is_some_and(is_agent) || !slots.entropy {
                let text = "its console or its entropy device isn't one of this home's machines";
                return Err(refused(format!("guest {}: {text}", self.name)));
            }
            (self.fresh_config(), SavedHost::default())
        } else {
            let notes: Notes = serde_json::from_slice(self.notes).map_err(|error| damaged(&error))?;
            (notes.config, notes.host)
        };
        let config = Config {
            cpus: shape.config.harts as u32,
            memory: shape.memory,
            hypervisor: false,
            portable: shape.config.extensions == Extensions::portable(),
            paging: Paging::of(shape.config.translation),
            network: slots.network.is_some(),
            private_network: None,
            tap: None,
            volumes: Vec::new(),
            publish: Vec::new(),
            base_disk: None,
            disks: self.disk.iter().map(|(.., length)| *length).collect(),
            ..config
        };
        let store = machines.store().join("blobs/sha256");
        if !self.notes.is_empty() && export::digests(&config).all(|digest| is_in(&store, digest)) {
            return Ok((config, host, Vec::new()));
        }
        let (kernel, initrd) = (digest(self.kernel), digest(self.initrd));
        let config = Config { kernel: kernel.clone(), run_initrd: initrd.clone(), ..config };
        Ok((config, host, vec![(kernel, self.kernel), (initrd, self.initrd)]))
    }

    fn fresh_config(&self) -> Config {
        Config {
            format: FORMAT,
            created: now(),
            image: self.name.to_owned(),
            kernel: String::new(),
            run_initrd: String::new(),
            base_disk: None,
            append: self.command_line.to_owned(),
            cpus: 1,
            memory: 0,
            hypervisor: false,
            portable: false,
            paging: None,
            cpu_limit: None,
            network: false,
            private_network: None,
            tap: None,
            publish: Vec::new(),
            volumes: Vec::new(),
            disks: Vec::new(),
            command: Vec::new(),
            workdir: None,
            terminal: false,
            environment: Vec::new(),
            remove: false,
            engine: EngineConfig {
                engine: "translator".into(),
                optimize: "hot".into(),
                code_cache: None,
                code_memory: None,
            },
            unconfined: false,
            template: false,
            takes_command: false,
            takes_shares: false,
        }
    }
}

fn is_agent_port(port: &rvisor_machine::slots::SavedPort) -> bool {
    port.name == AGENT_PORT
}

/// Whether the store has a file of this digest; the digest may be anything.
fn is_in(store: &Path, digest: &str) -> bool {
    digest.bytes().all(|byte| byte.is_ascii_hexdigit()) && store.join(digest).is_file()
}

/// Copies a part of a disk, as long as the target, to it.
fn copy_part(source: &dyn Image, start: u64, target: &dyn Image) -> io::Result<()> {
    let end = start.checked_add(target.size()).filter(|end| *end <= source.size());
    let end = end.ok_or_else(|| io::Error::other("the disk is shorter than the bundle says"))?;
    let mut buffer = vec![0; CHUNK as usize];
    for offset in (start..end).step_by(CHUNK as usize) {
        let chunk = &mut buffer[..(end - offset).min(CHUNK) as usize];
        source.read_at(offset, chunk)?;
        for (number, piece) in (0..).zip(chunk.chunks(HOLE)) {
            if piece.iter().any(|byte| *byte != 0) {
                target.write_at(offset - start + number * HOLE as u64, piece)?;
            }
        }
    }
    target.flush()
}
