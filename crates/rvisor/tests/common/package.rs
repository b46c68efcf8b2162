//! Files of Debian's packages, fetched as the program does it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rvisor_images::Store;
use rvisor_images::archive::{Archive, Keyring, mirror};
use rvisor_images::deb::Deb;
use rvisor_images::fetch::{FetchOptions, Fetcher};
use rvisor_images::progress::Silent;

fn archive() -> (Fetcher, Archive) {
    let store = Store::open_default().expect("a store");
    let fetcher = Fetcher::new(&store.cache(), FetchOptions::default()).expect("a fetcher");
    let mirror = mirror::find(None).expect("a mirror");
    let keys = Keyring::debian().expect("keys");
    let archive = Archive::open(&mirror, "trixie", &keys, &fetcher, &Silent).expect("the archive");
    (fetcher, archive)
}

/// A file of a package of Debian's, in `directory`.
pub fn file_of_package(package: &str, name: &str, directory: &Path) -> PathBuf {
    let (fetcher, archive) = archive();
    let item = archive.item(archive.index.get(package).expect("the package"));
    let paths = fetcher.fetch("firmware", &[item], &Silent).expect("the package's file");
    let mut package = Deb::open(&paths[0]).expect("a package");
    let mut data = package.data().expect("its files");
    for entry in data.entries().expect("its files") {
        let mut entry = entry.expect("a file");
        if entry.path().is_ok_and(|path| path.ends_with(name)) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            let path = directory.join(name.replace('/', "-"));
            fs::write(&path, content).expect("a copy");
            return path;
        }
    }
    panic!("the package has no {name}");
}
