//! Linux guests for bundles: Debian's kernel, and the image busybox's initial RAM disk with another first program laid over.

use std::path::{Path, PathBuf};

use rvisor_images::Store;
use rvisor_images::cpio::Cpio;

use crate::LIMIT;
use crate::common::{finish, rvisor};

/// What the store's own scripts begin with: file systems and drivers.
const COMMON: &str = include_str!("../../../images/guest/common.sh");

/// Debian's kernel, and an initial RAM disk.
pub struct Linux([PathBuf; 2]);

impl Linux {
    /// A table in a description; `append` goes behind the words that all have.
    pub fn table(&self, name: &str, memory: &str, append: &str, more: &str) -> String {
        let [kernel, initrd] = &self.0;
        format!(
            "[[guest]]\nname = '{name}'\nkernel = '{}'\ninitrd = '{}'\nmemory = '{memory}'\n\
             append = 'console=ttyS0 quiet {append}'\n{more}\n",
            kernel.display(),
            initrd.display()
        )
    }
}

/// One whose first program goes on with `script`.
pub fn linux(script: &str, directory: &Path) -> Linux {
    finish(&mut rvisor(["pull", "busybox"]), b"", 3 * LIMIT).assert(0, "busybox\n");
    let image = Store::open_default().and_then(|store| store.get("busybox")).expect("the image");
    let mut archive = std::fs::read(&image.run_initrd).expect("its initial RAM disk");
    let mut overlay = Cpio::default();
    overlay.file("init", 0o755, [COMMON, script].concat().as_bytes());
    archive.extend(overlay.finish());
    let initrd = directory.join("initrd");
    std::fs::write(&initrd, archive).expect("a file");
    Linux([image.kernel, initrd])
}
