//! The initial RAM disks that Rvisor makes itself: one for the builder VM, one that serves `rvisor run`.
//!
//! Both are busybox, a few kernel modules and a script, not compressed: they are a few MB, and unpacking costs a
//! guest more than copying.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::cpio::Cpio;
use crate::deb::Deb;
use crate::elf::needed_libraries;
use crate::error::{Error, Result};
use crate::kernel::Kernel;

/// Modules for the board's devices, loaded in this order.
const BOARD_MODULES: [&str; 5] = ["virtio_mmio", "virtio_rng", "virtio_balloon", "virtio_blk", "virtio_net"];
/// Modules for a root file system on a disk, loaded after those. They are large: a machine without a disk starts
/// seconds sooner without them.
const ROOT_MODULES: [&str; 2] = ["crc32c_generic", "ext4"];
/// Modules for shared directories, loaded where there are any; a root file system on a disk has its own.
const SHARE_MODULES: [&str; 2] = ["9p", "9pnet_virtio"];
/// The busybox applets that the scripts use, and what a person at the busybox image's shell expects.
const APPLETS: &str = include_str!("../guest/applets");
/// Directory of shared libraries.
const LIBRARIES: &str = "usr/lib/riscv64-linux-gnu";
/// The program interpreter of every dynamically linked program.
const INTERPRETER: &str = "ld-linux-riscv64-lp64d.so.1";

/// What the `/init` scripts begin with.
const COMMON: &str = include_str!("../guest/common.sh");

/// The RAM disk that serves `rvisor run`, for images whose root file system is on a disk, or without.
pub fn run(kernel: &Kernel, busybox: &[u8], has_disk: bool) -> Result<Vec<u8>> {
    let mut cpio = base(kernel, busybox, has_disk)?;
    cpio.file("init", 0o755, [COMMON, include_str!("../guest/run.sh")].concat().as_bytes());
    Ok(cpio.finish())
}

/// What is laid over a run initrd at each boot: the current script and the in-guest agent, so that images serve
/// whatever this Rvisor asks for, whenever they were made. The kernel unpacks one archive after the other.
#[must_use]
pub fn overlay(agent: &[u8]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.file("init", 0o755, [COMMON, include_str!("../guest/run.sh")].concat().as_bytes());
    cpio.file("rvisor/agent", 0o755, agent);
    cpio.finish()
}

/// The RAM disk of the builder VM: `programs` from e2fsprogs with their libraries, and `files` for its script.
pub fn builder(
    kernel: &Kernel,
    busybox: &[u8],
    programs: &Programs,
    files: &[(String, Vec<u8>)],
) -> Result<Vec<u8>> {
    let mut cpio = base(kernel, busybox, true)?;
    programs.install("usr/sbin/mke2fs", "rvisor/mke2fs", &mut cpio)?;
    for (path, content) in files {
        cpio.file(path, 0o755, content);
    }
    cpio.file("init", 0o755, [COMMON, include_str!("../guest/build.sh")].concat().as_bytes());
    Ok(cpio.finish())
}

fn base(kernel: &Kernel, busybox: &[u8], has_disk: bool) -> Result<Cpio> {
    let mut cpio = Cpio::default();
    for directory in ["dev", "etc", "proc", "root", "run", "sys", "target", "tmp", "usr/lib"] {
        cpio.directory(directory);
    }
    cpio.symlink("lib", "usr/lib");
    cpio.symlink("sbin", "bin");
    // The kernel opens it for /init before any file system is mounted.
    cpio.character_device("dev/console", 0o600, 5, 1);
    cpio.file("bin/busybox", 0o755, busybox);
    for applet in APPLETS.split_whitespace() {
        cpio.symlink(&format!("bin/{applet}"), "busybox");
    }
    let (root_modules, share_modules): (&[&str], &[&str]) =
        if has_disk { (&ROOT_MODULES, &[]) } else { (&[], &SHARE_MODULES) };
    add_modules(&mut cpio, kernel, &[&BOARD_MODULES, root_modules].concat(), "order")?;
    if !share_modules.is_empty() {
        add_modules(&mut cpio, kernel, share_modules, "shares")?;
    }
    cpio.file("rvisor/udhcpc", 0o755, include_bytes!("../guest/udhcpc.sh"));
    cpio.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    // Process 1 is a script, which these would ask in vain without the option.
    cpio.file("etc/profile", 0o644, b"alias poweroff='poweroff -f' halt='halt -f' reboot='reboot -f'\n");
    cpio.file("etc/group", 0o644, b"root:x:0:\n");
    Ok(cpio)
}

/// Adds modules and those that they need, and a file `list` of them in the order in which they are loaded.
fn add_modules(cpio: &mut Cpio, kernel: &Kernel, names: &[&str], list: &str) -> Result<()> {
    let mut order = String::new();
    for (file, content) in kernel.modules(names)? {
        let path = format!("rvisor/modules/{file}");
        order.push_str(&format!("/{path}\n"));
        cpio.file(&path, 0o644, &content);
    }
    cpio.file(&format!("rvisor/modules/{list}"), 0o644, order.as_bytes());
    Ok(())
}

/// Programs and libraries out of packages.
#[derive(Debug, Default)]
pub struct Programs {
    files: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
}

impl Programs {
    /// Reads the programs and libraries of these packages.
    pub fn from_packages(paths: &[PathBuf]) -> Result<Self> {
        let mut programs = Self::default();
        for path in paths {
            let mut deb = Deb::open(path)?;
            let mut data = deb.data()?;
            programs.read(&mut data).map_err(|error| Error::malformed(path.display().to_string(), error))?;
        }
        Ok(programs)
    }

    fn read(&mut self, data: &mut tar::Archive<impl Read>) -> io::Result<()> {
        for entry in data.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let in_folder = |folder: &str| {
                path.strip_prefix(folder)
                    .is_some_and(|rest| rest.starts_with('/') && !rest[1..].contains('/'))
            };
            if !in_folder(LIBRARIES) && !in_folder("usr/sbin") && !in_folder("usr/bin") {
                continue;
            }
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            if let Some(target) = entry.link_name()? {
                self.links.insert(path, format!("{folder}/{}", target.to_string_lossy()));
            } else if entry.header().entry_type().is_file() {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                self.files.insert(path, content);
            }
        }
        Ok(())
    }

    /// The content of a file, through at most one link.
    pub fn content(&self, path: &str) -> Result<&[u8]> {
        let found = self.files.get(path).or_else(|| self.files.get(self.links.get(path)?));
        let missing = || Error::malformed(path, "the archive's packages don't have it");
        found.map(Vec::as_slice).ok_or_else(missing)
    }

    /// Adds a program as `target`, and the libraries it needs.
    fn install(&self, path: &str, target: &str, cpio: &mut Cpio) -> Result<()> {
        let program = self.content(path)?;
        cpio.file(target, 0o755, program);
        let mut seen = HashSet::new();
        let mut unfollowed = vec![program];
        while let Some(elf) = unfollowed.pop() {
            for library in needed_libraries(elf).map_err(|error| Error::malformed(path, error))? {
                if seen.insert(library.clone()) {
                    let content = self.content(&format!("{LIBRARIES}/{library}"))?;
                    cpio.file(&format!("{LIBRARIES}/{library}"), 0o755, content);
                    unfollowed.push(content);
                }
            }
        }
        if seen.insert(INTERPRETER.to_owned()) {
            cpio.file(
                &format!("{LIBRARIES}/{INTERPRETER}"),
                0o755,
                self.content(&format!("{LIBRARIES}/{INTERPRETER}"))?,
            );
        }
        cpio.symlink(&format!("usr/lib/{INTERPRETER}"), &format!("riscv64-linux-gnu/{INTERPRETER}"));
        Ok(())
    }
}

/// The busybox program out of its package.
pub fn busybox(path: &Path) -> Result<Vec<u8>> {
    Programs::from_packages(&[path.to_owned()])?.content("usr/bin/busybox").map(<[u8]>::to_vec)
}
