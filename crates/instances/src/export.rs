//! A machine as one file, with all that another host needs to run it: its files, and those of its image.
//!
//! The format (the book, "Snapshots"): magic, version; then for each file its name, its size, its pages that aren't zero as
//! the snapshot format has memory, and a checksum over them. A name of no length is the end.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rvisor_hosted::disk::{DiskOptions, Format, backing_files, set_backing};
use rvisor_images::Store;
use rvisor_waist::StateError;

use crate::config::{Config, EngineConfig, now};
use crate::copies::Scratch;
use crate::directory::{Directory, LOCK, Lock, Machines};
use crate::error::{Context, Error, Result};
use crate::packed::{Wrong, read_file, write_file};
use crate::saved;
use crate::snapshot::{BASE, RESUME};

const MAGIC: &[u8; 8] = b"RVISOREX";
const VERSION: u32 = 1;
const CONFIG: &str = "config.json";
/// Files of the image begin so, then their digest follows.
const BLOB: &str = "blob-";

fn refused(text: impl Into<String>) -> Error {
    Error::Refused(text.into())
}

/// Writes a machine as it is now to `output`; one that runs goes on meanwhile.
///
/// # Errors
/// If it can't be saved, or the output be written.
pub fn export(machines: &Machines, directory: &Directory, output: &mut dyn Write) -> Result<()> {
    let scratch = Scratch::new(machines)?;
    directory.save_into(scratch.path())?;
    let blobs = directory.store().join("blobs/sha256");
    write(scratch.path(), directory.config()?, |digest| blobs.join(digest), output)
}

/// Writes the machine whose files are in `files`, and those of its image where `blob` says.
pub(crate) fn write(
    files: &Path,
    config: Config,
    blob: impl Fn(&str) -> PathBuf,
    output: &mut dyn Write,
) -> Result<()> {
    let told =
        |error: io::Error| refused(format!("the machine can't be written ({error}); check disk space"));
    output.write_all(MAGIC).and_then(|()| output.write_all(&VERSION.to_le_bytes())).map_err(told)?;
    let path = files.join(CONFIG);
    let text = serde_json::to_vec(&Config { remove: false, ..config.clone() });
    fs::write(&path, text.map_err(io::Error::from).map_err(told)?).context("write", &path)?;
    let entries = fs::read_dir(files).context("read", files)?;
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name != LOCK);
    names.sort();
    let own = names.into_iter().map(|name| (files.join(&name), name));
    let blobs = digests(&config).map(|digest| (blob(digest), format!("{BLOB}{digest}")));
    for (path, name) in own.chain(blobs) {
        let file = File::open(&path).context("open", &path)?;
        write_file(&file, &name, output).map_err(told)?;
    }
    output.write_all(&0_u16.to_le_bytes()).and_then(|()| output.flush()).map_err(told)
}

/// Digests of the image's files that a machine needs.
pub(crate) fn digests(config: &Config) -> impl Iterator<Item = &String> {
    [Some(&config.kernel), Some(&config.run_initrd), config.base_disk.as_ref()].into_iter().flatten()
}

/// Makes the machine that [`export`] has written; a `fresh` one gets an identity of its own. Returns it locked, and
/// whether it goes on from a running machine.
///
/// # Errors
/// If the file is damaged or something else, or the name is taken; nothing is left then.
pub fn import(
    machines: &Machines,
    store: &Store,
    name: &str,
    fresh: bool,
    code_cache: Option<PathBuf>,
    input: &mut dyn Read,
) -> Result<(Directory, Lock, bool)> {
    machines.check_unused(name)?;
    let scratch = Scratch::new(machines)?;
    let (config, blobs) = read(scratch.path(), input)?;
    let config = local(config, code_cache);
    let files = scratch.path().to_owned();
    let blob = |digest: &str| machines.store().join("blobs/sha256").join(digest);
    point_disks(&files, &config, blob)?;
    // The machine's description comes first, so that its files aren't taken for garbage.
    let (directory, lock) = machines.create(name, &config, |path| {
        for digest in &blobs {
            let adopted = store.adopt_blob(&blob_in(&files, digest), digest);
            adopted.map_err(|error| refused(error.to_string()))?;
        }
        fill(&files, path, fresh)?;
        check_disks(path, &config, blob)
    })?;
    let running = directory.file(RESUME).exists();
    Ok((directory, lock, running))
}

/// Reads the files of an exported machine into a directory. Returns what it is, and the digests of its image's files.
pub(crate) fn read(files: &Path, input: &mut dyn Read) -> Result<(Config, Vec<String>)> {
    let damaged = |error: Wrong| refused(format!("the exported machine can't be read: {error}"));
    read_header(input).map_err(damaged)?;
    let mut blobs = Vec::new();
    while let Some(name) = read_file(files, input).map_err(damaged)? {
        if let Some(digest) = name.strip_prefix(BLOB) {
            blobs.push(digest.to_owned());
        }
    }
    let text = fs::read(files.join(CONFIG)).map_err(|_| damaged(StateError::Malformed.into()))?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("its description is damaged: {error}")))?;
    if digests(&config).any(|digest| !blobs.contains(digest)) {
        return Err(refused("the exported machine lacks a file of its image"));
    }
    Ok((config, blobs))
}

/// Where a file of the image is, beside those of its exported machine.
pub(crate) fn blob_in(files: &Path, digest: &str) -> PathBuf {
    files.join(format!("{BLOB}{digest}"))
}

/// What of a machine's description holds on this host: what it is, and nothing about the host. Field by field, so that
/// what is added to descriptions is thought of here: the file may come from anybody.
pub(crate) fn local(config: Config, code_cache: Option<PathBuf>) -> Config {
    Config {
        format: config.format,
        created: now(),
        image: config.image,
        kernel: config.kernel,
        run_initrd: config.run_initrd,
        base_disk: config.base_disk,
        append: config.append,
        cpus: config.cpus,
        memory: config.memory,
        cpu_limit: config.cpu_limit,
        hypervisor: config.hypervisor,
        portable: config.portable,
        paging: config.paging,
        network: config.network,
        private_network: None,
        tap: None,
        // Ports of this host are its user's to give.
        publish: Vec::new(),
        // And so are its files.
        volumes: Vec::new(),
        disks: config.disks,
        command: config.command,
        workdir: config.workdir,
        terminal: config.terminal,
        environment: config.environment,
        remove: false,
        engine: EngineConfig {
            engine: config.engine.engine,
            optimize: config.engine.optimize,
            code_cache,
            code_memory: None,
        },
        unconfined: false,
        template: false,
        takes_command: config.takes_command,
        takes_shares: false,
    }
}

/// Checks that the disks lie over nothing but what they were given: a disk could name any file of this host.
pub(crate) fn check_disks(machine: &Path, config: &Config, blob: impl Fn(&str) -> PathBuf) -> Result<()> {
    let same = |path: &Path| path.canonicalize().context("find", path);
    let own = Directory::disk_in(machine);
    for number in 0..=config.disks.len() {
        let path = if number == 0 { own.clone() } else { Directory::other_disk_in(machine, number - 1) };
        if number == 0 && config.base_disk.is_none() {
            continue;
        }
        let mut allowed = Vec::new();
        if let Some(digest) = config.base_disk.as_ref().filter(|_| number == 0) {
            let base = machine.join(BASE);
            if base.exists() {
                allowed.push(same(&base)?);
            }
            allowed.push(same(&blob(digest))?);
        }
        let options = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::new(&path) };
        let found = backing_files(&options)?.iter().map(|path| same(path)).collect::<Result<Vec<_>>>()?;
        if found != allowed {
            return Err(refused("a disk of the exported machine lies over a file that isn't the machine's"));
        }
    }
    Ok(())
}

fn read_header(input: &mut dyn Read) -> Result<(), Wrong> {
    let (mut magic, mut version) = ([0; 8], [0; 4]);
    input.read_exact(&mut magic)?;
    input.read_exact(&mut version)?;
    match u32::from_le_bytes(version) {
        _ if magic != *MAGIC => {
            Err(StateError::Invalid("beginning: `rvisor export` makes such files").into())
        }
        VERSION => Ok(()),
        other => Err(StateError::Version(other).into()),
    }
}

/// Has the disks lie over the image's file that is where `blob` says.
pub(crate) fn point_disks(files: &Path, config: &Config, blob: impl Fn(&str) -> PathBuf) -> Result<()> {
    let Some(digest) = &config.base_disk else { return Ok(()) };
    let blob = blob(digest);
    let (base, disk) = (files.join(BASE), Directory::disk_in(files));
    if base.exists() {
        set_backing(&base, &blob)?;
        set_backing(&disk, Path::new(BASE))?;
    } else {
        set_backing(&disk, &blob)?;
    }
    Ok(())
}

/// Moves the files of a machine to where they belong.
fn fill(from: &Path, to: &Path, fresh: bool) -> Result<()> {
    let resume: PathBuf = to.join(RESUME);
    if from.join(saved::STATE).exists() {
        saved::give(from, &resume, fresh)?;
    }
    for entry in fs::read_dir(from).context("read", from)?.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(".qcow2")) {
            fs::rename(entry.path(), to.join(&name)).context("create", to)?;
        }
    }
    Ok(())
}
