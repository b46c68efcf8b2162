//! Notes in a machine's directory that it isn't here, or not yet: it was handed over (`moved.json`), so that whoever would
//! start it again has to say that it doesn't run there; or it is on its way here (`arriving`), and is removed if nobody is at
//! it any more.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::directory::Directory;
use crate::error::{Context, Error, Result};
use crate::saved;

const NOTE: &str = "moved.json";
const ARRIVING: &str = "arriving";
/// How long it may take from when its directory is there until its process is.
const YOUNG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    to: String,
}

impl Directory {
    /// Notes durably that the machine is being handed over.
    pub(super) fn note_moved(&self, to: &str) -> Result<()> {
        let path = self.file(NOTE);
        let text = serde_json::to_vec(&Note { to: to.to_owned() })
            .map_err(io::Error::from)
            .context("write", &path)?;
        saved::write(path, &text)?;
        saved::sync_directory(&self.file(""))
    }

    /// The machine is to run here again: it wasn't handed over, or doesn't run there any more.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn forget_moved(&self) -> Result<()> {
        let path = self.file(NOTE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove", &path),
            _ => Ok(()),
        }
    }

    /// Notes in a directory that was filled, and isn't a machine's yet, that the machine isn't there yet: from now on its
    /// process is awaited.
    pub(super) fn note_arriving(path: &Path) -> Result<()> {
        let path = path.join(ARRIVING);
        File::create(&path).map(|_| ()).context("create", &path)
    }

    /// The file that goes when the machine is there, in the process that runs it.
    #[must_use]
    pub fn arriving_note(&self) -> PathBuf {
        self.file(ARRIVING)
    }

    /// Whether a machine's directory was left by one that didn't arrive, if nobody holds its lock.
    pub(crate) fn did_not_arrive(path: &Path) -> bool {
        let age = fs::metadata(path.join(ARRIVING)).and_then(|metadata| metadata.modified());
        age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG))
    }

    /// Checks that the machine is here: it wasn't handed over.
    pub(crate) fn check_here(&self) -> Result<()> {
        let Ok(file) = File::open(self.file(NOTE)) else { return Ok(()) };
        let to = serde_json::from_reader(file).map_or("another host".into(), |note: Note| note.to);
        let name = self.name();
        Err(Error::Refused(format!(
            "machine {name} was handed over to {to}; remove it here with `rvisor rm {name}`, or, if it doesn't run \
             there, start it as it was left with `rvisor start --force {name}`"
        )))
    }
}
