//! The kernel of an image, taken from Debian's package.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use crate::deb::Deb;
use crate::elf::needed_modules;
use crate::error::{Error, Result};

/// Largest kernel or module that is unpacked, in bytes.
const SIZE_LIMIT: u64 = 512 << 20;

/// A kernel and its modules.
#[derive(Debug)]
pub struct Kernel {
    /// As `6.12.48+deb13-riscv64`.
    pub version: String,
    /// The raw Linux `Image`.
    pub image: Vec<u8>,
    /// Files of the modules by name, as packaged.
    modules: BTreeMap<String, Module>,
}

#[derive(Debug)]
struct Module {
    file: String,
    content: Vec<u8>,
}

impl Kernel {
    /// Reads the kernel out of the file of a `linux-image` package.
    pub fn from_package(path: &Path) -> Result<Self> {
        let what = path.display().to_string();
        let malformed = |reason: String| Error::malformed(&what, reason);
        let mut deb = Deb::open(path)?;
        let (mut kernel, mut modules) = (None, BTreeMap::new());
        let mut data = deb.data()?;
        let mut read = || {
            for entry in data.entries()? {
                let mut entry = entry?;
                if !entry.header().entry_type().is_file() {
                    continue;
                }
                let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
                let mut content = Vec::new();
                if let Some(version) = kernel_version(&name) {
                    entry.by_ref().take(SIZE_LIMIT).read_to_end(&mut content)?;
                    kernel = Some((version.to_owned(), content));
                } else if let Some((module, file)) = module_name(&name) {
                    entry.by_ref().take(SIZE_LIMIT).read_to_end(&mut content)?;
                    modules.insert(module, Module { file: file.to_owned(), content });
                }
            }
            Ok::<_, io::Error>(())
        };
        read().map_err(|error| malformed(error.to_string()))?;
        let (version, content) = kernel.ok_or_else(|| malformed("it has no kernel".to_owned()))?;
        let image = raw_image(content).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { version, image, modules })
    }

    /// The unpacked files of the modules called `wanted` and of those that they need, in an order in which they
    /// can be loaded. A name that isn't among the modules is taken to be built in.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let (mut loaded, mut seen) = (Vec::new(), HashSet::new());
        for name in wanted {
            self.collect(name, &mut seen, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn collect(
        &self,
        name: &str,
        seen: &mut HashSet<String>,
        loaded: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<()> {
        let name = name.replace('-', "_");
        let Some(module) = self.modules.get(&name) else { return Ok(()) };
        if !seen.insert(name) {
            return Ok(());
        }
        let unpacked = unpack_module(module).map_err(|error| Error::malformed(&module.file, error))?;
        for needed in needed_modules(&unpacked).map_err(|error| Error::malformed(&module.file, error))? {
            self.collect(&needed, seen, loaded)?;
        }
        let file = module.file.split_once(".ko").map_or(module.file.as_str(), |(stem, _)| stem);
        loaded.push((format!("{file}.ko"), unpacked));
        Ok(())
    }
}

/// The version in `boot/vmlinux-VERSION` or `boot/vmlinuz-VERSION`.
fn kernel_version(path: &str) -> Option<&str> {
    let file = path.strip_prefix("boot/")?;
    file.strip_prefix("vmlinux-").or_else(|| file.strip_prefix("vmlinuz-"))
}

/// Name and file name of a module: `virtio_blk` and `virtio_blk.ko.xz`. Names have underscores.
fn module_name(path: &str) -> Option<(String, &str)> {
    let path = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some((name.replace('-', "_"), file))
}

fn unpack_module(module: &Module) -> io::Result<Vec<u8>> {
    let packed = module.content.as_slice();
    let reader: Box<dyn Read + '_> = match module.file.rsplit_once('.').map_or("", |(_, extension)| extension)
    {
        "xz" => Box::new(XzReader::new(packed, true)),
        "gz" => Box::new(GzDecoder::new(packed)),
        "zst" => Box::new(StreamingDecoder::new(packed).map_err(io::Error::other)?),
        _ => Box::new(packed),
    };
    let mut unpacked = Vec::new();
    reader.take(SIZE_LIMIT).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Unpacks a kernel to a raw `Image` (Linux, Documentation/arch/riscv/boot-image-header.rst).
fn raw_image(content: Vec<u8>) -> io::Result<Vec<u8>> {
    let image = if content.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        GzDecoder::new(content.as_slice()).take(SIZE_LIMIT).read_to_end(&mut unpacked)?;
        unpacked
    } else {
        content
    };
    if image.get(0x38..0x3c) != Some(b"RSC\x05") {
        return Err(io::Error::other("its kernel isn't a RISC-V Linux Image"));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::tests::{ar_of, gzip, tar_of};

    fn package(files: &[(&str, u32, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (control, data) = (tar_of(&[]), tar_of(files));
        std::fs::write(file.path(), ar_of(&[("control.tar", &control), ("data.tar.gz", &gzip(&data))]))
            .unwrap();
        file
    }

    fn image() -> String {
        format!("MZ{}RSC\u{5}more", "\0".repeat(0x36))
    }

    #[test]
    fn kernel_and_its_version_are_found() {
        let file = package(&[("./boot/vmlinux-6.1-riscv64", 0o644, &image())]);
        let kernel = Kernel::from_package(file.path()).unwrap();
        assert_eq!(kernel.version, "6.1-riscv64");
        assert_eq!(kernel.image, image().as_bytes());
        assert!(kernel.modules(&["virtio_blk"]).unwrap().is_empty(), "what isn't a module is built in");
    }

    #[test]
    fn other_kernels_and_empty_packages_return_error() {
        let file = package(&[("./boot/vmlinuz-6.1", 0o644, "\x7fELF x86")]);
        assert!(Kernel::from_package(file.path()).unwrap_err().to_string().contains("RISC-V"));
        let file = package(&[("./usr/share/x", 0o644, "")]);
        assert!(Kernel::from_package(file.path()).is_err());
    }

    #[test]
    fn module_names_have_underscores() {
        let path = "usr/lib/modules/6.1/kernel/drivers/char/hw_random/virtio-rng.ko.xz";
        assert_eq!(module_name(path), Some(("virtio_rng".to_owned(), "virtio-rng.ko.xz")));
        assert_eq!(module_name("usr/share/x.ko"), None);
    }
}
