//! A Debian archive: finds a mirror, verifies its signed index, and tells which packages a system needs.
//!
//! Trust starts at the signing keys that Rvisor carries: they vouch for `InRelease`, its digests for `Packages`,
//! and the digests there for each package file. Nothing else that a mirror sends is believed.

mod control;
pub mod mirror;
mod packages;
mod release;
mod resolve;
mod version;

use std::io::Read;

use lzma_rust2::XzReader;

pub use control::{Stanza, stanzas};
pub use mirror::MIRROR_VARIABLE;
pub use packages::is_sha256;
pub use packages::{Comparison, Index, Package, Priority, Relation};
pub use release::{IndexFile, Keyring, Release};
pub use resolve::{Selection, resolve};
pub use version::compare as compare_versions;

use crate::error::{Error, Result};
use crate::fetch::{Fetcher, Item};
use crate::progress::Progress;

/// The architecture of the packages.
pub const ARCHITECTURE: &str = "riscv64";

/// The largest `InRelease` that is read, in bytes.
const RELEASE_LIMIT: u64 = 16 << 20;
/// The largest `Packages` that is unpacked, in bytes.
const PACKAGES_LIMIT: u64 = 1 << 30;

/// One suite of an archive, verified.
#[derive(Debug)]
pub struct Archive {
    /// The mirror's root URL.
    pub mirror: String,
    /// The suite's signed table of contents.
    pub release: Release,
    /// Its packages.
    pub index: Index,
}

impl Archive {
    /// Fetches and verifies the index of `suite` from `mirror`.
    pub fn open(
        mirror: &str,
        suite: &str,
        keyring: &Keyring,
        fetcher: &Fetcher,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let url = format!("{mirror}/dists/{suite}/InRelease");
        let text = fetcher.text(&url, RELEASE_LIMIT)?;
        let release = Release::verify(&url, &text, keyring)?;
        if release.codename != suite {
            let reason = format!("it is the index of {:?}, not of {suite}", release.codename);
            return Err(Error::Untrusted { url, reason });
        }
        let path = format!("main/binary-{ARCHITECTURE}/Packages.xz");
        let file = release.file(&path).ok_or_else(|| {
            Error::malformed(&url, format!("the archive has no packages for {ARCHITECTURE} in suite {suite}"))
        })?;
        let place = match path.rsplit_once('/') {
            Some((folder, _)) if release.by_hash => format!("{folder}/by-hash/SHA256/{}", file.sha256),
            _ => path.clone(),
        };
        let item = Item {
            name: format!("{suite} index"),
            url: format!("{mirror}/dists/{suite}/{place}"),
            size: file.size,
            sha256: file.sha256.clone(),
        };
        let paths = fetcher.fetch("downloading the package index", &[item], progress)?;
        let text = unpack_index(&paths[0]).map_err(|error| Error::malformed(&path, error))?;
        Ok(Self { mirror: mirror.to_owned(), index: Index::parse(&text)?, release })
    }

    /// What to fetch for a package.
    #[must_use]
    pub fn item(&self, package: &Package) -> Item {
        Item {
            name: package.name.clone(),
            url: format!("{}/{}", self.mirror, package.filename),
            size: package.size,
            sha256: package.sha256.clone(),
        }
    }
}

fn unpack_index(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    XzReader::new(std::fs::File::open(path)?, true).take(PACKAGES_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}
