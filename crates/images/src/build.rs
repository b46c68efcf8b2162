//! Builds images: chooses and fetches packages, lays them out, and lets a builder VM finish the disk.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::archive::{Archive, Keyring, Package, Selection, mirror, resolve};
use crate::cpio::Cpio;
use crate::disk;
use crate::error::{Error, IoContext, Result};
use crate::fetch::{FetchOptions, Fetcher};
use crate::initramfs::{self, Programs};
use crate::kernel::Kernel;
use crate::payload::{Payload, Summary};
use crate::progress::{Progress, Unit};
use crate::recipe::{Base, Recipe};
use crate::store::{Draft, Image, Name, NewImage, Store};

/// Memory of the builder VM in bytes.
const BUILDER_MEMORY: u64 = 1 << 30;
/// Size of the disk on which it gives files back, in bytes. It is sparse.
const OUTPUT_SIZE: u64 = 512 << 20;
/// How many of its last lines are told when it fails.
const LAST_LINES: usize = 8;
/// The partition with an image's root file system.
const ROOT: &str = "/dev/vda1";

/// The builder VM: what its board has to be.
pub struct BuildVm<'a> {
    /// The kernel, a raw Linux `Image`.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
    /// Its command line.
    pub append: String,
    /// Raw disks on virtio-blk.
    pub disks: Vec<BuildDisk>,
    /// Bytes of RAM.
    pub memory: u64,
    /// Takes each line of the serial console, without its line break.
    pub on_console_line: &'a mut (dyn FnMut(&str) + Send),
}

/// A disk of the builder VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildDisk {
    /// Its file, raw.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

/// Runs virtual machines for the image store.
pub trait Builder {
    /// Boots a machine and returns when its guest has powered it off. A disk's flushes needn't reach the host's
    /// disk: after a crash the build starts anew. The error says why the machine couldn't run to its end.
    fn boot(&self, vm: BuildVm<'_>) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// How images are pulled and built.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Root URL of the Debian archive; see [`mirror::find`] for what happens without.
    pub mirror: Option<String>,
    /// Build the image even where the store has it.
    pub refresh: bool,
    /// How packages are downloaded.
    pub fetch: FetchOptions,
    /// Keys that are trusted instead of Debian's.
    pub keyring: Option<Keyring>,
}

/// Gets an image that Rvisor carries a recipe for, as `debian`, into the store; where it is there already, nothing
/// is done.
pub fn pull(
    store: &Store,
    name: &str,
    options: &Options,
    builder: &dyn Builder,
    progress: &dyn Progress,
) -> Result<Image> {
    let name = Name::parse(name)?;
    if !options.refresh
        && let Ok(image) = store.get(&name.to_string())
    {
        return Ok(image);
    }
    let recipe = Recipe::built_in(&name.name).unwrap_or_else(|| {
        let known = Recipe::built_in_names().collect::<Vec<_>>().join(", ");
        let reason =
            format!("Rvisor has no recipe of this name (it has {known}); build your own with `rvisor build`");
        Err(Error::Recipe { name: name.to_string(), reason })
    })?;
    if ![recipe.suite(), "latest"].contains(&name.tag.as_str()) {
        let reason = format!("there is only {}:{}", name.name, recipe.suite());
        return Err(Error::Recipe { name: name.to_string(), reason });
    }
    build(store, &name, &recipe, options, builder, progress)
}

/// Builds an image and puts it into the store, in place of an earlier one of that name.
pub fn build(
    store: &Store,
    name: &Name,
    recipe: &Recipe,
    options: &Options,
    builder: &dyn Builder,
    progress: &dyn Progress,
) -> Result<Image> {
    let mirror = mirror::find(options.mirror.as_deref())?;
    let fetcher = Fetcher::new(&store.cache(), options.fetch.clone())?;
    let keyring = options.keyring.clone().map_or_else(Keyring::debian, Ok)?;
    let archive = Archive::open(&mirror, recipe.suite(), &keyring, &fetcher, progress)?;
    let draft = store.draft()?;
    let work = Build { name, recipe, archive: &archive, fetcher: &fetcher, draft: &draft, progress };
    let new = match recipe.base {
        Base::Debian(_) => work.debian(builder)?,
        Base::Busybox(_) => work.busybox()?,
    };
    store.add(name, &new)
}

struct Build<'a> {
    name: &'a Name,
    recipe: &'a Recipe,
    archive: &'a Archive,
    fetcher: &'a Fetcher,
    draft: &'a Draft,
    progress: &'a dyn Progress,
}

impl Build<'_> {
    fn path(&self, file: &str) -> PathBuf {
        self.draft.path().join(file)
    }

    fn new_image(&self, append: &str) -> NewImage {
        let recipe = self.recipe;
        NewImage {
            recipe: recipe.digest.clone(),
            description: format!("{}, archive version {}", recipe.description, self.archive.release.version),
            kernel: self.path("kernel"),
            run_initrd: self.path("run-initrd"),
            append: append.to_owned(),
            memory: recipe.memory.0,
            ..NewImage::default()
        }
    }

    /// Fetches packages; the paths are in the order of the selection.
    fn fetch(&self, selection: &Selection<'_>) -> Result<Vec<PathBuf>> {
        let items: Vec<_> = selection.packages.iter().map(|package| self.archive.item(package)).collect();
        self.fetcher.fetch("downloading packages", &items, self.progress)
    }

    fn fetch_one(&self, package: &Package) -> Result<PathBuf> {
        let mut paths = self.fetcher.fetch("downloading", &[self.archive.item(package)], self.progress)?;
        Ok(paths.remove(0))
    }

    fn package(&self, name: &str) -> Result<&Package> {
        let missing = || Error::Unresolvable(format!("the archive has no package {name}"));
        self.archive.index.get(name).ok_or_else(missing)
    }

    /// The package with the kernel itself, which the recipe's may only depend on.
    fn kernel_package(&self) -> Result<&Package> {
        let package = self.package(&self.recipe.kernel)?;
        let is_image = |name: &str| name.starts_with("linux-image-");
        let mut needed = package.depends.iter().flatten().map(|relation| relation.name.as_str());
        needed.find(|name| is_image(name)).map_or(Ok(package), |name| self.package(name))
    }

    fn kernel(&self) -> Result<Kernel> {
        let path = self.fetch_one(self.kernel_package()?)?;
        self.progress.begin("reading the kernel", 1, Unit::Items);
        let kernel = Kernel::from_package(&path)?;
        self.progress.advance(1);
        self.progress.end();
        write(&self.path("kernel"), &kernel.image)?;
        Ok(kernel)
    }

    fn busybox_program(&self) -> Result<Vec<u8>> {
        initramfs::busybox(&self.fetch_one(self.package("busybox-static")?)?)
    }

    fn busybox(&self) -> Result<NewImage> {
        let kernel = self.kernel()?;
        let mut initrd = initramfs::run(&kernel, &self.busybox_program()?, false)?;
        let mut more = Cpio::default();
        more.file("etc/hostname", 0o644, format!("{}\n", self.recipe.hostname).as_bytes());
        initrd.extend(more.finish());
        write(&self.path("run-initrd"), &initrd)?;
        Ok(self.new_image("console=ttyS0"))
    }

    fn debian(&self, builder: &dyn Builder) -> Result<NewImage> {
        let mut wanted = self.recipe.packages.clone();
        wanted.push(self.recipe.kernel.clone());
        let selection = resolve(&self.archive.index, true, &wanted)?;
        let packages = self.fetch(&selection)?;
        let kernel = self.kernel()?;
        let busybox = self.busybox_program()?;
        write(&self.path("run-initrd"), &initramfs::run(&kernel, &busybox, true)?)?;
        let uuid = Uuid::new_v4().to_string();
        let summary = self.lay_out(&selection, &packages, &uuid)?;
        let tools = Programs::from_packages(&self.fetch(&resolve(
            &self.archive.index,
            false,
            &["e2fsprogs".to_owned()],
        )?)?)?;
        let files = self.builder_files(&summary, selection.packages.len(), &uuid, &kernel.version);
        write(&self.path("builder-initrd"), &initramfs::builder(&kernel, &busybox, &tools, &files)?)?;
        disk::create(&self.path("disk"), self.recipe.size.0)?;
        disk::blank(&self.path("output"), OUTPUT_SIZE)?;
        self.boot(builder)?;
        self.take_output(&kernel.version)?;
        Ok(NewImage {
            initrd: Some(self.path("initrd")),
            disk: Some(self.path("disk")),
            ..self.new_image(&format!("console=ttyS0 root={ROOT} rw net.ifnames=0"))
        })
    }

    /// Writes the payload.
    fn lay_out(&self, selection: &Selection<'_>, packages: &[PathBuf], uuid: &str) -> Result<Summary> {
        self.progress.begin("unpacking packages", packages.len() as u64, Unit::Items);
        let mut payload = Payload::create(&self.path("payload"), self.recipe)?;
        for (package, path) in selection.packages.iter().zip(packages) {
            self.progress.detail(&package.name);
            payload.package(path)?;
            self.progress.advance(1);
        }
        self.progress.end();
        let hostname = &self.recipe.hostname;
        payload.file("etc/hostname", 0o644, format!("{hostname}\n").as_bytes())?;
        let hosts =
            format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\n");
        payload.file("etc/hosts", 0o644, hosts.as_bytes())?;
        let table = format!("UUID={uuid} / ext4 noatime,errors=remount-ro 0 1\n");
        payload.file("etc/fstab", 0o644, table.as_bytes())?;
        // Debian keeps /vmlinuz and /initrd.img pointing at the newest kernel.
        let boot_menu = format!(
            "default debian\ntimeout 10\nlabel debian\n  linux /vmlinuz\n  initrd /initrd.img\n  \
             append root=UUID={uuid} rw console=ttyS0 net.ifnames=0\n"
        );
        payload.file("boot/extlinux/extlinux.conf", 0o644, boot_menu.as_bytes())?;
        if self.archive.mirror.starts_with("http") {
            let (mirror, suite) = (&self.archive.mirror, self.recipe.suite());
            let sources = format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suite} {suite}-updates\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            );
            payload.file("etc/apt/sources.list.d/debian.sources", 0o644, sources.as_bytes())?;
        }
        payload.recipe_files()?;
        let automatic = selection.packages.iter().map(|package| package.name.as_str());
        let automatic: Vec<&str> = automatic.filter(|name| !selection.manual.contains(name)).collect();
        payload.finish(&automatic)
    }

    fn builder_files(
        &self,
        summary: &Summary,
        packages: usize,
        uuid: &str,
        version: &str,
    ) -> Vec<(String, Vec<u8>)> {
        let commands = &self.recipe.commands;
        let config = format!(
            "FILES={}\nPACKAGES={packages}\nCOMMANDS={}\nUUID={uuid}\nKERNEL='{version}'\n",
            summary.files,
            commands.len()
        );
        let preinst: String =
            summary.preinst.iter().map(|(name, script)| format!("{name} {script}\n")).collect();
        let mut files = vec![
            ("rvisor/build.conf".to_owned(), config.into_bytes()),
            ("rvisor/preinst".to_owned(), preinst.into_bytes()),
        ];
        let scripts = commands.iter().enumerate();
        // A fixed width, so that the shell's order of names is the order of commands.
        files.extend(
            scripts.map(|(i, text)| (format!("rvisor/commands/{:03}", i + 1), text.clone().into_bytes())),
        );
        files
    }

    fn boot(&self, builder: &dyn Builder) -> Result<()> {
        let mut console = Console::new(self.progress);
        let result = builder.boot(BuildVm {
            kernel: self.path("kernel"),
            initrd: self.path("builder-initrd"),
            append: "console=ttyS0 quiet panic=-1 mitigations=off".to_owned(),
            disks: vec![
                BuildDisk { path: self.path("disk"), read_only: false },
                BuildDisk { path: self.path("payload"), read_only: true },
                BuildDisk { path: self.path("output"), read_only: false },
            ],
            memory: BUILDER_MEMORY,
            on_console_line: &mut |line| console.line(line),
        });
        let result = result.map_err(|error| error.to_string());
        console.finish(result).map_err(|reason| Error::Build { image: self.name.to_string(), reason })
    }

    /// Takes the initial RAM disk that the guest has made.
    fn take_output(&self, version: &str) -> Result<()> {
        let path = self.path("output");
        let mut tar = tar::Archive::new(File::open(&path).context("read", &path)?);
        let wanted = format!("initrd.img-{version}");
        let mut copy = || {
            for entry in tar.entries()? {
                let mut entry = entry?;
                if entry.path()?.to_string_lossy().trim_start_matches("./") == wanted {
                    // A sparse one would fill the host's disk.
                    if entry.size() > OUTPUT_SIZE {
                        return Err(io::Error::other(
                            "its initial RAM disk is larger than the disk that it is on",
                        ));
                    }
                    return io::copy(&mut entry, &mut File::create(self.path("initrd"))?);
                }
            }
            Err(io::Error::other("it has no initial RAM disk"))
        };
        copy().map(|_| ()).map_err(|error| Error::malformed("the builder VM's output", error))
    }
}

/// Listens to the builder VM.
struct Console<'a> {
    progress: &'a dyn Progress,
    step: Option<(String, u64)>,
    position: u64,
    last: VecDeque<String>,
    done: bool,
    failure: Option<String>,
}

impl<'a> Console<'a> {
    fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, step: None, position: 0, last: VecDeque::new(), done: false, failure: None }
    }

    fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("RVISOR-PROGRESS ") {
            self.advance(rest);
        } else if line == "RVISOR-DONE" {
            self.done = true;
        } else if let Some(reason) = line.strip_prefix("RVISOR-FAILED ") {
            self.failure.get_or_insert(reason.to_owned());
        } else if !line.is_empty() && self.failure.is_none() {
            log::debug!("builder: {line}");
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line.to_owned());
        }
    }

    /// Takes `n/m phase detail`.
    fn advance(&mut self, text: &str) {
        let parsed = text.split_once(' ').and_then(|(count, rest)| {
            let (position, total) = count.split_once('/')?;
            Some((position.parse::<u64>().ok()?, total.parse::<u64>().ok()?, rest))
        });
        let Some((position, total, rest)) = parsed else { return };
        let phase = rest.split(' ').next().unwrap_or_default();
        if self.step.as_ref().is_none_or(|(step, size)| step != phase || *size != total) {
            self.end_step();
            self.progress.begin(&format!("in the builder VM: {phase}"), total, Unit::Items);
            self.step = Some((phase.to_owned(), total));
            self.position = 0;
        }
        self.progress.detail(rest.strip_prefix(phase).unwrap_or(rest).trim());
        self.progress.advance(position.saturating_sub(self.position));
        self.position = self.position.max(position);
    }

    fn end_step(&mut self) {
        if self.step.take().is_some() {
            self.progress.end();
        }
    }

    fn finish(mut self, result: std::result::Result<(), String>) -> std::result::Result<(), String> {
        self.end_step();
        let reason = match (result, self.failure) {
            (Err(reason), _) => reason,
            (Ok(()), Some(reason)) => reason,
            (Ok(()), None) if self.done => return Ok(()),
            (Ok(()), None) => "the builder VM ended before its work was done".to_owned(),
        };
        if self.last.is_empty() {
            return Err(reason);
        }
        let last = Vec::from(self.last).join(" | ");
        Err(format!("{reason}; the builder VM's last lines: {last}"))
    }
}

impl Recipe {
    /// The Debian suite that the packages come from.
    #[must_use]
    pub fn suite(&self) -> &str {
        match &self.base {
            Base::Debian(suite) | Base::Busybox(suite) => suite,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).context("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn hear(lines: &[&str], result: std::result::Result<(), String>) -> std::result::Result<(), String> {
        let mut console = Console::new(&Silent);
        lines.iter().for_each(|line| console.line(line));
        console.finish(result)
    }

    #[test]
    fn builder_that_is_done_succeeds() {
        assert_eq!(
            hear(&["RVISOR-PROGRESS 1/2 unpacking files", "noise\r", "RVISOR-DONE\r"], Ok(())),
            Ok(())
        );
    }

    #[test]
    fn failure_tells_its_reason_and_the_lines_before_it() {
        let error = hear(&["one", "RVISOR-FAILED no space", "reboot: Power down"], Ok(())).unwrap_err();
        assert_eq!(error, "no space; the builder VM's last lines: one");
    }

    #[test]
    fn builder_that_ends_early_or_cannot_run_fails() {
        assert!(hear(&["RVISOR-PROGRESS 1/x garbage", "panic"], Ok(())).unwrap_err().contains("panic"));
        assert_eq!(hear(&[], Err("no memory".to_owned())), Err("no memory".to_owned()));
    }
}
