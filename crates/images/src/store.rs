//! The image store on disk. Its layout is documented in the book, "The image store".
//!
//! Whatever has its final name is whole: files are written under another name, made durable and renamed. A lock
//! on the file `lock` keeps processes apart: shared while an image is looked up, exclusive while one is added
//! or removed.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext, Result};
use crate::fetch::file_digest;

/// The version of the manifest's format.
const FORMAT: u32 = 1;
/// How long an interrupted pull may be gone on with before its leftovers are removed.
const LEFTOVER_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The image store in a user's data directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// An image's name and tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// As `debian`.
    pub name: String,
    /// As `trixie`; `latest` where none is given.
    pub tag: String,
}

impl Name {
    /// Reads `name` or `name:tag`.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, tag) = text.split_once(':').unwrap_or((text, "latest"));
        let sound = |part: &str| {
            let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
            (1..=64).contains(&part.len()) && part.bytes().all(allowed) && !part.starts_with(['.', '-'])
        };
        if !sound(name) || !sound(tag) {
            return Err(Error::BadName(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if self.tag == "latest" { Ok(()) } else { write!(f, ":{}", self.tag) }
    }
}

/// A file of an image: its content's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// SHA-256 in lowercase hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// What the store knows of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// Seconds since 1970 when it was made.
    pub created: u64,
    /// SHA-256 of the recipe that it was made from.
    pub recipe: String,
    /// One line for people: `Debian 13.1 trixie`.
    pub description: String,
    /// The kernel, a raw Linux `Image`.
    pub kernel: Blob,
    /// The distribution's own initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub initrd: Option<Blob>,
    /// Rvisor's initial RAM disk, which serves `run` (see the book, "The guest protocol").
    pub run_initrd: Blob,
    /// The disk, raw.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk: Option<Blob>,
    /// Kernel command line.
    pub append: String,
    /// Memory that it needs at least, in bytes.
    pub memory: u64,
}

/// An image, ready to run. Its files are shared with other images and read-only.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name and tag.
    pub name: Name,
    /// What the store knows of it.
    pub manifest: Manifest,
    /// The kernel's file, a raw Linux `Image`.
    pub kernel: PathBuf,
    /// The file of the distribution's own initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The file of Rvisor's initial RAM disk.
    pub run_initrd: PathBuf,
    /// The raw disk's file.
    pub disk: Option<PathBuf>,
}

/// An image to be added to the store. The fields are those of [`Manifest`]; the files are on the store's file
/// system, as those of a [`Draft`] are.
#[derive(Clone, Debug, Default)]
pub struct NewImage {
    /// SHA-256 of the recipe.
    pub recipe: String,
    /// One line for people.
    pub description: String,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The file of the distribution's own initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The file of Rvisor's initial RAM disk.
    pub run_initrd: PathBuf,
    /// The raw disk's file.
    pub disk: Option<PathBuf>,
    /// Kernel command line.
    pub append: String,
    /// Memory that it needs at least, in bytes.
    pub memory: u64,
}

impl NewImage {
    /// In the order of [`Manifest::blobs`].
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let files = [Some(&self.kernel), self.initrd.as_ref(), Some(&self.run_initrd), self.disk.as_ref()];
        files.into_iter().flatten()
    }
}

/// Files made for an image that is not in the store yet. Dropping it removes them.
#[derive(Debug)]
pub struct Draft {
    directory: PathBuf,
    _lock: File,
}

impl Draft {
    /// The directory for the files.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            log::warn!("can't remove {}: {error}", self.directory.display());
        }
    }
}

/// Makes the file `lock` in a directory that was just made, and takes it. It gets its name only then: who found it free would
/// take the directory for one that somebody has left.
///
/// # Errors
/// If the host refuses.
pub fn lock_new(directory: &Path) -> io::Result<File> {
    let unnamed = directory.join("lock.new");
    let lock = File::create(&unnamed)?;
    lock.lock()?;
    fs::rename(unnamed, directory.join("lock"))?;
    Ok(lock)
}

impl Store {
    /// The store of this user: in `$RVISOR_HOME`, else `$XDG_DATA_HOME/rvisor`, else `~/.local/share/rvisor`.
    pub fn open_default() -> Result<Self> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("RVISOR_HOME")
            .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("rvisor")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/share/rvisor")))
            .ok_or_else(|| Error::Io {
                action: "find",
                path: "the data directory (set RVISOR_HOME)".into(),
                source: io::ErrorKind::NotFound.into(),
            })?;
        Self::open(&root)
    }

    /// The store in the directory `root`, made if missing. Removes what interrupted pulls have left.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self { root: root.to_owned() };
        for directory in [store.blobs(), store.images(), store.drafts(), store.cache()] {
            fs::create_dir_all(&directory).context("create", &directory)?;
        }
        store.remove_leftovers();
        Ok(store)
    }

    /// The directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of downloaded packages.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache/sha256")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn drafts(&self) -> PathBuf {
        self.root.join("drafts")
    }

    fn manifest_path(&self, name: &Name) -> PathBuf {
        self.images().join(&name.name).join(format!("{}.json", name.tag))
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.root.join("lock");
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        options.open(&path).context("open", &path)
    }

    /// The image of this name.
    pub fn get(&self, name: &str) -> Result<Image> {
        let name = Name::parse(name)?;
        let lock = self.lock_file()?;
        lock.lock_shared().context("lock", &self.root)?;
        self.load(name)
    }

    fn load(&self, name: Name) -> Result<Image> {
        let path = self.manifest_path(&name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoImage(name.to_string()));
            }
            text => text.context("read", &path)?,
        };
        let again = format!("remove it with `rvisor rmi {name}` and pull it again");
        let damaged =
            |reason: String| Error::malformed(format!("image {name}"), format!("{reason}; {again}"));
        let manifest = Manifest::parse(&text).map_err(damaged)?;
        let file = |blob: &Blob| {
            let path = self.blobs().join(&blob.sha256);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.len() == blob.size => Ok(path),
                _ => Err(damaged(format!("its file {} is missing or has the wrong size", path.display()))),
            }
        };
        Ok(Image {
            kernel: file(&manifest.kernel)?,
            initrd: manifest.initrd.as_ref().map(file).transpose()?,
            run_initrd: file(&manifest.run_initrd)?,
            disk: manifest.disk.as_ref().map(file).transpose()?,
            name,
            manifest,
        })
    }

    /// Every image that can be used, by name. Damaged ones are logged and left out.
    pub fn list(&self) -> Result<Vec<Image>> {
        let lock = self.lock_file()?;
        lock.lock_shared().context("lock", &self.root)?;
        let images = self
            .names()?
            .into_iter()
            .filter_map(|name| self.load(name).inspect_err(|error| log::warn!("{error}")).ok());
        Ok(images.collect())
    }

    fn names(&self) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for folder in entries(&self.images())? {
            for file in entries(&folder)? {
                let part = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
                if let (Some(name), Some(file)) = (part(&folder), part(&file))
                    && let Some(tag) = file.strip_suffix(".json")
                {
                    names.extend(Name::parse(&format!("{name}:{tag}")));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes an image, and the files that no other image uses.
    pub fn remove(&self, name: &str) -> Result<()> {
        let name = Name::parse(name)?;
        let lock = self.lock_file()?;
        lock.lock().context("lock", &self.root)?;
        let path = self.manifest_path(&name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoImage(name.to_string()));
            }
            removed => removed.context("remove", &path)?,
        }
        if let Some(folder) = path.parent() {
            let _ = fs::remove_dir(folder); // Fails while other tags are in it.
        }
        self.collect_garbage()
    }

    /// Removes blobs that no manifest names. Nothing is removed while a manifest can't be read.
    fn collect_garbage(&self) -> Result<()> {
        let mut used = HashSet::new();
        for name in self.names()? {
            let path = self.manifest_path(&name);
            let text = fs::read_to_string(&path).context("read", &path)?;
            let Ok(manifest) = Manifest::parse(&text) else {
                log::warn!("image {name} is damaged: unused files are kept until it is removed");
                return Ok(());
            };
            used.extend(manifest.blobs().map(|blob| blob.sha256.clone()));
        }
        used.extend(self.used_by_machines());
        for path in entries(&self.blobs())? {
            if path.file_name().is_some_and(|name| !used.contains(&*name.to_string_lossy())) {
                fs::remove_file(&path).context("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Digests of the files that machines need to be started again, whatever became of their images.
    fn used_by_machines(&self) -> Vec<String> {
        let machines = entries(&self.root.join("machines")).unwrap_or_default();
        let configs = machines.iter().filter_map(|machine| fs::read(machine.join("config.json")).ok());
        let configs = configs.filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        let digests = configs.flat_map(|config| {
            ["kernel", "run_initrd", "base_disk"].map(|field| config[field].as_str().map(str::to_owned))
        });
        digests.flatten().collect()
    }

    /// A directory for the files of an image that is being made.
    pub fn draft(&self) -> Result<Draft> {
        for number in 0.. {
            let directory = self.drafts().join(format!("{}-{number}", std::process::id()));
            match fs::create_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.context("create", &directory)?,
            }
            let lock = lock_new(&directory).context("lock", &directory)?;
            return Ok(Draft { directory, _lock: lock });
        }
        unreachable!("the numbers don't end")
    }

    /// Adds an image, in place of an earlier one of that name. Its files are moved away from where they are and
    /// become read-only.
    pub fn add(&self, name: &Name, new: &NewImage) -> Result<Image> {
        let blob = |path: &PathBuf| prepare_blob(path);
        let manifest = Manifest {
            format: FORMAT,
            created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            recipe: new.recipe.clone(),
            description: new.description.clone(),
            kernel: blob(&new.kernel)?,
            initrd: new.initrd.as_ref().map(blob).transpose()?,
            run_initrd: blob(&new.run_initrd)?,
            disk: new.disk.as_ref().map(blob).transpose()?,
            append: new.append.clone(),
            memory: new.memory,
        };
        let text =
            serde_json::to_string_pretty(&manifest).map_err(|error| Error::malformed("manifest", error))?;
        // Under one lock from the first blob to the manifest: nobody takes the blobs for garbage.
        let lock = self.lock_file()?;
        lock.lock().context("lock", &self.root)?;
        for (file, blob) in new.files().zip(manifest.blobs()) {
            let path = self.blobs().join(&blob.sha256);
            fs::rename(file, &path).context("create", &path)?;
        }
        sync_directory(&self.blobs())?;
        let path = self.manifest_path(name);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).context("create", folder)?;
        write_durably(&path, text.as_bytes())?;
        let image = self.load(name.clone())?;
        self.collect_garbage()?;
        Ok(image)
    }

    /// Takes a file that isn't an image's but a machine's, from elsewhere: it is moved if it isn't there yet, and if it
    /// is what its digest says. A machine's description must name it already.
    pub fn adopt_blob(&self, file: &Path, sha256: &str) -> Result<()> {
        let malformed = |reason: &str| Error::malformed(file.display().to_string(), reason);
        if !crate::archive::is_sha256(sha256) {
            return Err(malformed("its name isn't a digest"));
        }
        let path = self.blobs().join(sha256);
        if path.exists() {
            return Ok(());
        }
        if prepare_blob(file)?.sha256 != sha256 {
            return Err(malformed("it isn't what its digest says"));
        }
        let lock = self.lock_file()?;
        lock.lock().context("lock", &self.root)?;
        fs::rename(file, &path).context("create", &path)?;
        sync_directory(&self.blobs())
    }

    /// Removes drafts whose process has ended, and partial downloads that nobody has gone on with.
    fn remove_leftovers(&self) {
        for directory in entries(&self.drafts()).unwrap_or_default() {
            let abandoned = match File::open(directory.join("lock")) {
                Ok(lock) => lock.try_lock().is_ok(),
                // Its process may be about to make the lock.
                Err(_) => is_older(&directory, Duration::from_secs(60)),
            };
            if abandoned {
                log::info!("removing {}, which an interrupted pull has left", directory.display());
                let _ = fs::remove_dir_all(&directory);
            }
        }
        for path in entries(&self.cache()).unwrap_or_default() {
            if path.extension().is_some_and(|extension| extension == "part") && is_older(&path, LEFTOVER_AGE)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

impl Manifest {
    /// Reads a manifest's text.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if manifest.format != FORMAT {
            return Err(format!("its format is {}, this Rvisor knows {FORMAT}", manifest.format));
        }
        if let Some(blob) = manifest.blobs().find(|blob| !crate::archive::is_sha256(&blob.sha256)) {
            return Err(format!("{:?} isn't a digest", blob.sha256));
        }
        Ok(manifest)
    }

    /// The files of the image.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [Some(&self.kernel), self.initrd.as_ref(), Some(&self.run_initrd), self.disk.as_ref()]
            .into_iter()
            .flatten()
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        // Removed by another process, or not a directory at all.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.context("read", directory)?,
    };
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| time.elapsed().ok()).is_some_and(|elapsed| elapsed > age)
}

/// Makes a file read-only and durable, and computes its address.
fn prepare_blob(path: &Path) -> Result<Blob> {
    let (sha256, size) = file_digest(path)?;
    let handle = File::open(path).context("open", path)?;
    handle.sync_all().context("write", path)?;
    let mut permissions = handle.metadata().context("read", path)?.permissions();
    permissions.set_readonly(true);
    handle.set_permissions(permissions).context("write", path)?;
    Ok(Blob { sha256, size })
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary).context("create", &temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).context("write", &temporary)?;
    fs::rename(&temporary, path).context("create", path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).context("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    fn add(store: &Store, name: &str, kernel: &str, initrd: &str) -> Image {
        let draft = store.draft().unwrap();
        let file = |name: &str, content: &str| {
            let path = draft.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let new = NewImage {
            kernel: file("kernel", kernel),
            run_initrd: file("initrd", initrd),
            ..NewImage::default()
        };
        store.add(&Name::parse(name).unwrap(), &new).unwrap()
    }

    fn blob_count(store: &Store) -> usize {
        entries(&store.blobs()).unwrap().len()
    }

    #[test]
    fn added_image_is_listed_and_read_back() {
        let (_directory, store) = store();
        let image = add(&store, "debian", "kernel", "initrd");
        assert_eq!(fs::read_to_string(&image.kernel).unwrap(), "kernel");
        assert_eq!(store.get("debian:latest").unwrap().manifest, image.manifest);
        assert_eq!(store.list().unwrap().len(), 1);
        assert!(fs::metadata(&image.kernel).unwrap().permissions().readonly());
    }

    #[test]
    fn removal_keeps_blobs_that_others_use() {
        let (_directory, store) = store();
        add(&store, "a", "kernel", "one");
        add(&store, "b", "kernel", "two");
        assert_eq!(blob_count(&store), 3);
        store.remove("a").unwrap();
        assert_eq!(blob_count(&store), 2);
        assert!(store.get("b").is_ok());
        store.remove("b").unwrap();
        assert_eq!(blob_count(&store), 0);
        assert!(matches!(store.remove("b"), Err(Error::NoImage(_))));
    }

    #[test]
    fn files_that_a_machine_needs_outlive_their_image() {
        let (directory, store) = store();
        let image = add(&store, "a", "kernel", "initrd");
        let machine = directory.path().join("machines/web");
        fs::create_dir_all(&machine).unwrap();
        let config = format!("{{\"kernel\": \"{}\"}}", image.manifest.kernel.sha256);
        fs::write(machine.join("config.json"), config).unwrap();
        store.remove("a").unwrap();
        assert_eq!(entries(&store.blobs()).unwrap(), [image.kernel]);
        fs::remove_dir_all(machine).unwrap();
        add(&store, "b", "other", "initrd");
        assert_eq!(blob_count(&store), 2);
    }

    #[test]
    fn replaced_image_leaves_no_blobs_behind() {
        let (_directory, store) = store();
        add(&store, "a", "old", "initrd");
        add(&store, "a", "new", "initrd");
        assert_eq!(blob_count(&store), 2);
    }

    #[test]
    fn names_that_leave_the_store_return_error() {
        for name in ["", "../x", "a/b", "A", "a:", "a:../b", ".hidden", "-x", "a:b:c"] {
            assert!(matches!(Name::parse(name), Err(Error::BadName(_))), "{name}");
        }
        assert_eq!(Name::parse("debian").unwrap().to_string(), "debian");
        assert_eq!(Name::parse("debian:trixie").unwrap().to_string(), "debian:trixie");
    }

    #[test]
    fn truncated_manifest_and_missing_blob_return_error() {
        let (_directory, store) = store();
        let image = add(&store, "a", "kernel", "initrd");
        add(&store, "b", "other", "initrd");
        fs::remove_file(&image.kernel).unwrap();
        assert!(store.get("a").unwrap_err().to_string().contains("rvisor rmi a"));
        let path = store.manifest_path(&image.name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(store.get("a"), Err(Error::Malformed { .. })));
        assert_eq!(store.list().unwrap().len(), 1);
        store.remove("a").unwrap();
        assert!(store.get("b").is_ok());
    }

    #[test]
    fn leftovers_of_a_killed_pull_are_removed_and_those_of_a_live_one_kept() {
        let (directory, store) = store();
        let live = store.draft().unwrap();
        let dead = store.drafts().join("1-0");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("disk"), "half").unwrap();
        Store::open(directory.path()).unwrap();
        assert!(!dead.exists());
        assert!(live.path().exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn crash_between_blobs_and_manifest_leaves_no_image() {
        let (directory, store) = store();
        fs::write(store.blobs().join("0".repeat(64)), "orphan").unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(store.list().unwrap().is_empty());
        add(&store, "a", "kernel", "initrd");
        assert_eq!(blob_count(&store), 2, "the orphan goes with the next change");
    }
}
