//! Machines that begin as copies of others.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rvisor_images::lock_new;

use crate::config::{Config, now};
use crate::directory::{Directory, Lock, Machines};
use crate::error::{Context, Result};

/// A directory with a machine's files, removed when it is dropped.
pub(crate) struct Scratch(PathBuf, #[allow(dead_code)] File);

impl Scratch {
    /// An empty one, in which the files of machines can be linked.
    pub fn new(machines: &Machines) -> Result<Self> {
        let path = machines.transient("copy");
        let root = machines.store().join("machines");
        fs::create_dir_all(&root).context("create", &root)?;
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).context("create", &path)?;
        // By which others see that somebody is at it.
        let lock = lock_new(&path).context("lock", &path)?;
        Ok(Self(path, lock))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Machines {
    /// Makes a machine that begins as another one is now, or was when a snapshot was made; it gets an identity of its
    /// own. Ports of the host stay the other's. Returns it locked, and whether it goes on from a running machine.
    ///
    /// # Errors
    /// If the machine can't be saved, or the name is taken; nothing is left then.
    pub fn copy(
        &self,
        original: &Directory,
        snapshot: Option<&str>,
        name: &str,
    ) -> Result<(Directory, Lock, bool)> {
        let config = Config { created: now(), remove: false, publish: Vec::new(), ..original.config()? };
        // Before anything is saved for nothing.
        self.check_unused(name)?;
        let scratch = Scratch::new(self)?;
        let from = match snapshot {
            Some(snapshot) => original.files_of_snapshot(snapshot)?,
            None => {
                original.save_into(scratch.path())?;
                scratch.path().to_owned()
            }
        };
        let running = from.join(crate::saved::STATE).exists();
        let (directory, lock) = self.create(name, &config, |path| Directory::fill_from(&from, path, true))?;
        Ok((directory, lock, running))
    }
}
