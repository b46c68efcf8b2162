//! Directories of machines made by `rvisor run`: one each, with the machine's own disk and a lock that its
//! process holds. The layout is documented in the book, "Machines".

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rvisor_images::Store;

/// The machine's own disk, a qcow2 overlay over its image's.
const DISK: &str = "disk.qcow2";
/// Held by the process that runs the machine.
const LOCK: &str = "lock";
/// The image's name, for listings.
const IMAGE: &str = "image";

/// A machine's directory, locked as long as the value lives.
pub struct MachineDirectory {
    path: PathBuf,
    name: String,
    remove: bool,
    _lock: File,
}

impl MachineDirectory {
    /// Makes the directory of a new machine. It is removed when the value is dropped, unless it was told to
    /// [`keep`](Self::keep) it.
    pub fn create(store: &Store, name: Option<&str>, image: &str) -> anyhow::Result<Self> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => unused_name(store, image)?,
        };
        check_name(&name)?;
        let path = root(store).join(&name);
        let parent = root(store);
        let say = || {
            format!("can't make the machine's directory {}; check disk space and permissions", path.display())
        };
        fs::create_dir_all(&parent).with_context(say)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!(
                    "a machine is called {name} already; choose another --name, or remove it with `rvisor rm {name}`"
                )
            }
            result => result.with_context(say)?,
        }
        let lock = File::create(path.join(LOCK)).with_context(say)?;
        // Nobody else holds it, except for a listing's short look.
        lock.lock().with_context(say)?;
        fs::write(path.join(IMAGE), image).with_context(say)?;
        Ok(Self { path, name, remove: true, _lock: lock })
    }

    /// Keeps the directory when the machine ends.
    pub fn keep(&mut self) {
        self.remove = false;
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its own disk is to be.
    pub fn disk(&self) -> PathBuf {
        self.path.join(DISK)
    }
}

impl Drop for MachineDirectory {
    fn drop(&mut self) {
        if self.remove
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("rvisor: warning: can't remove {}: {error}", self.path.display());
        }
    }
}

/// A machine as listings show it.
pub struct Listed {
    pub name: String,
    pub image: String,
    pub running: bool,
    /// Bytes that its own disk occupies.
    pub disk: u64,
}

/// All machines, by name.
pub fn list(store: &Store) -> anyhow::Result<Vec<Listed>> {
    let root = root(store);
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("can't read {}", root.display()))?,
    };
    let mut machines = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("can't read {}", root.display()))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        machines.push(Listed {
            name: name.to_owned(),
            image: fs::read_to_string(path.join(IMAGE)).unwrap_or_default(),
            running: is_running(&path)?,
            disk: occupied(&path.join(DISK)),
        });
    }
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(machines)
}

/// Removes a machine that isn't running.
pub fn remove(store: &Store, name: &str) -> anyhow::Result<()> {
    check_name(name)?;
    let path = root(store).join(name);
    if !path.is_dir() {
        bail!("no machine is called {name}; `rvisor ps` lists them");
    }
    if is_running(&path)? {
        bail!("machine {name} is running; end it first");
    }
    fs::remove_dir_all(&path).with_context(|| format!("can't remove {}", path.display()))
}

fn root(store: &Store) -> PathBuf {
    store.root().join("machines")
}

fn is_running(path: &Path) -> anyhow::Result<bool> {
    let Ok(lock) = File::open(path.join(LOCK)) else { return Ok(false) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}

/// Bytes on the host's disk, as `du` counts them.
fn occupied(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Names are host names too: letters, digits and hyphens.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    if !(1..=63).contains(&name.len()) || !name.bytes().all(allowed) || name.starts_with('-') {
        bail!("{name:?} can't be a machine's name; use up to 63 letters, digits and hyphens");
    }
    Ok(())
}

fn unused_name(store: &Store, image: &str) -> anyhow::Result<String> {
    use rvisor_waist::EntropyBackend;
    let stem: String =
        image.chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let mut entropy = rvisor_hosted::HostEntropy::new().context("the host gives no random numbers")?;
    loop {
        let mut bytes = [0; 3];
        entropy.fill(&mut bytes);
        let name = format!("{stem}-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]);
        if !root(store).join(&name).exists() {
            return Ok(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn machine_is_listed_until_it_is_removed() {
        let (_directory, store) = store();
        let mut machine = MachineDirectory::create(&store, Some("web"), "debian").unwrap();
        machine.keep();
        assert!(list(&store).unwrap()[0].running);
        assert!(remove(&store, "web").unwrap_err().to_string().contains("running"));
        drop(machine);
        assert!(!list(&store).unwrap()[0].running);
        assert!(MachineDirectory::create(&store, Some("web"), "debian").is_err());
        remove(&store, "web").unwrap();
        assert!(list(&store).unwrap().is_empty());
        assert!(remove(&store, "web").is_err());
    }

    #[test]
    fn temporary_machine_leaves_nothing() {
        let (_directory, store) = store();
        drop(MachineDirectory::create(&store, None, "debian").unwrap());
        assert!(list(&store).unwrap().is_empty());
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let (_directory, store) = store();
        for name in ["", "..", "a/b", "-rf", "a b", &"x".repeat(64)] {
            assert!(MachineDirectory::create(&store, Some(name), "debian").is_err(), "{name}");
            assert!(remove(&store, name).is_err(), "{name}");
        }
    }
}
