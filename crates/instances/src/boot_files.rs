//! What a machine's guest is booted from: files of its image, which stay open for a reboot.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rvisor_machine::boot::Program;

use crate::AGENT;
use crate::config::Config;
use crate::directory::Directory;
use crate::error::{Context, Result};

/// A file of the machine's image, open.
struct ImageFile {
    path: PathBuf,
    file: File,
}

impl ImageFile {
    fn open(directory: &Directory, digest: &str) -> Result<Self> {
        let path = directory.store().join("blobs/sha256").join(digest);
        let file = File::open(&path).context("read a file of the machine's image,", &path)?;
        Ok(Self { path, file })
    }

    fn read(&self) -> Result<Vec<u8>> {
        let read = || {
            let mut bytes = vec![0; self.file.metadata()?.len() as usize];
            self.file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        read().context("read a file of the machine's image,", &self.path)
    }
}

/// The files that a guest is booted from.
pub(crate) struct BootFiles {
    kernel: ImageFile,
    initrd: ImageFile,
}

impl BootFiles {
    /// Opens them: a process that is confined can't.
    pub fn open(directory: &Directory, config: &Config) -> Result<Self> {
        let open = |digest| ImageFile::open(directory, digest);
        Ok(Self { kernel: open(&config.kernel)?, initrd: open(&config.run_initrd)? })
    }

    /// Reads them. Script and agent of this build are laid over the image's initrd.
    pub fn read(&self, command_line: String) -> Result<Boot> {
        let (kernel, mut initrd) = (self.kernel.read()?, self.initrd.read()?);
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(rvisor_images::run_overlay(AGENT));
        Ok(Boot { kernel, initrd, command_line })
    }
}

/// What a guest is booted from, read.
pub(crate) struct Boot {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    command_line: String,
}

impl Boot {
    /// As it is placed in a machine's memory.
    pub fn program(&self) -> Program<'_> {
        Program::Linux { kernel: &self.kernel, initrd: Some(&self.initrd), command_line: &self.command_line }
    }
}
