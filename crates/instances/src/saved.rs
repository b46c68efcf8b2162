//! The files of a saved machine, in a snapshot or in a machine that is to go on from one (the book, "Snapshots").

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rvisor_hosted::machine::Origin;
use rvisor_machine::persist::SavedState;
use serde::{Deserialize, Serialize};

use crate::agent::SavedLink;
use crate::error::{Context, Error, Result};
use crate::packed;

/// Devices and harts.
pub(crate) const STATE: &str = "state";
/// RAM, as large as it is.
pub(crate) const MEMORY: &str = "memory";
/// RAM in a snapshot that was to be small.
pub(crate) const PACKED: &str = "memory.packed";
/// What this host's end of the guest's connections has to know.
pub(crate) const HOST: &str = "host.json";
/// Says that the guest is to get an identity of its own.
pub(crate) const FRESH: &str = "fresh";

/// The files of a running machine.
pub(crate) const FILES: [&str; 3] = [STATE, MEMORY, HOST];

/// What the host's end of the guest's connections has to know.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedHost {
    /// The agent's port.
    pub agent: SavedLink,
    /// The channel of the machine's command, if the agent runs it.
    pub command: Option<u32>,
}

/// A saved machine, read.
pub(crate) struct Saved {
    pub origin: Origin,
    pub host: SavedHost,
    pub is_fresh: bool,
}

/// Reads the saved machine in `directory`; `None` if there is none.
pub(crate) fn read(directory: &Path, name: &str) -> Result<Option<Saved>> {
    let damaged = |what, reason: String| Error::Damaged { name: name.to_owned(), what, reason };
    let path = directory.join(STATE);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).context("read", &path)?;
    let state = SavedState::new(bytes).map_err(|error| damaged("its saved state", error.to_string()))?;
    let path = directory.join(MEMORY);
    let memory = File::open(&path).context("open", &path)?;
    let path = directory.join(HOST);
    let text = fs::read(&path).context("read", &path)?;
    let host =
        serde_json::from_slice(&text).map_err(|error| damaged("its saved state", error.to_string()))?;
    let is_fresh = directory.join(FRESH).exists();
    Ok(Some(Saved { origin: Origin { state, memory, hold: None }, host, is_fresh }))
}

/// Gives the saved machine in `from` to a new directory `to`; with a `fresh` identity if it is to be another machine.
pub(crate) fn give(from: &Path, to: &Path, fresh: bool) -> Result<()> {
    fs::create_dir(to).context("create", to)?;
    let packed = from.join(PACKED);
    for name in FILES {
        if name == MEMORY && packed.exists() {
            packed::unpack(&packed, MEMORY, to)?;
        } else {
            crate::file_copy::link(&from.join(name), &to.join(name))?;
        }
    }
    if fresh {
        let path = to.join(FRESH);
        File::create(&path).context("create", &path)?;
    }
    Ok(())
}

/// Makes a saved machine in `directory` smaller, if there is one.
pub(crate) fn pack(directory: &Path) -> Result<()> {
    let memory = directory.join(MEMORY);
    if memory.exists() {
        packed::pack(&memory, MEMORY, &directory.join(PACKED))?;
        fs::remove_file(&memory).context("remove", &memory)?;
    }
    Ok(())
}

/// Checks that a machine can go on from what was saved in `directory`, as far as that can be told from the outside.
pub(crate) fn check(directory: &Path) -> Result<()> {
    let packed = directory.join(PACKED);
    if packed.exists() { packed::check(&packed) } else { Ok(()) }
}

/// Makes what is in a directory durable, but for the content of its files.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).context("write", path)
}

/// Makes a file durable with this content.
pub(crate) fn write(path: PathBuf, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut file = File::create(&path).context("create", &path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).context("write", &path)
}
