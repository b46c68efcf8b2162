#![no_main]
//! What is read as text before or after its signature is checked: the archive's indexes, versions, manifests,
//! recipes.

use std::path::Path;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use rvisor_images::archive::{Index, Keyring, Release, compare_versions, resolve};
use rvisor_images::{Manifest, Recipe};

fuzz_target!(|text: &str| {
    if let Ok(index) = Index::parse(text) {
        let wanted: Vec<String> = index.iter().map(|package| package.name.clone()).collect();
        if let Ok(selection) = resolve(&index, true, &wanted) {
            assert_eq!(selection.packages.len(), wanted.len());
        }
    }
    let _ = Release::parse(text, SystemTime::UNIX_EPOCH);
    if let Ok(keyring) = Keyring::read(&b""[..]) {
        assert!(Release::verify("fuzz", text, &keyring).is_err());
    }
    let _ = Manifest::parse(text);
    let _ = Recipe::parse(text, "fuzz", Path::new("/"));
    if let Some((a, b)) = text.split_once(' ') {
        assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse());
        assert!(compare_versions(a, a).is_eq());
    }
});
