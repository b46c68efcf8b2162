//! What a mirror may send, and what comes of it.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use rvisor_images::archive::{Archive, resolve};
use rvisor_images::fetch::{FetchOptions, Fetcher, Item};
use rvisor_images::progress::Silent;
use rvisor_images::{BuildVm, Builder, Error, Options, Result, Store, pull};
use support::{Manner, Server, archive, key, keyring, release, sha256, sign, xz};

fn quick() -> FetchOptions {
    FetchOptions { parallel: 4, tries: 3, backoff: Duration::from_millis(1), ..FetchOptions::default() }
}

fn fetcher(cache: &Path) -> Fetcher {
    Fetcher::new(cache, quick()).unwrap()
}

fn open(server: &Server, key: &pgp::composed::SignedSecretKey) -> Result<Archive> {
    let cache = tempfile::tempdir().unwrap();
    Archive::open(&server.url, "trixie", &keyring(key), &fetcher(cache.path()), &Silent)
}

fn item(server: &Server, path: &str, content: &[u8]) -> Item {
    Item {
        name: path.into(),
        url: format!("{}{path}", server.url),
        size: content.len() as u64,
        sha256: sha256(content),
    }
}

/// Serves one large file in some manner, fetches it, and returns the cache, the file's path and the outcome.
fn fetch_in(manner: Option<Manner>, promised: &[u8]) -> (tempfile::TempDir, Server, Result<Vec<u8>>) {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.put("/file", content());
    manner.into_iter().for_each(|manner| server.treat("/file", manner));
    // A server that hangs is waited for; others have all the time that a busy host takes.
    let silence = if manner == Some(Manner::Hangs) { Duration::from_millis(300) } else { quick().silence };
    let fetcher = Fetcher::new(cache.path(), FetchOptions { silence, ..quick() }).unwrap();
    let paths = fetcher.fetch("test", &[item(&server, "/file", promised)], &Silent);
    let result = paths.map(|paths| std::fs::read(&paths[0]).unwrap());
    (cache, server, result)
}

fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn one_line(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn signed_archive_is_resolved_and_fetched() {
    let (server, key) = archive(&[
        ("app", b"application", "Depends: lib (>= 1)\n"),
        ("lib", b"library", ""),
        ("other", b"not wanted", ""),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(cache.path());
    let archive = Archive::open(&server.url, "trixie", &keyring(&key), &fetcher, &Silent).unwrap();
    let selection = resolve(&archive.index, false, &["app".to_owned()]).unwrap();
    let items: Vec<_> = selection.packages.iter().map(|package| archive.item(package)).collect();
    let paths = fetcher.fetch("test", &items, &Silent).unwrap();
    let contents: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(contents, [&b"library"[..], b"application"]);
    assert!(server.requests("/pool/other").is_empty());
    fetcher.fetch("again", &items, &Silent).unwrap();
    assert_eq!(server.requests("/pool/app").len(), 1, "what the cache has isn't fetched again");
}

#[test]
fn index_is_fetched_by_its_hash_where_the_archive_says_so() {
    let (server, key) = (Server::start(), key());
    let packed = xz(support::package("a", b"a", "").as_bytes());
    server.put("/dists/trixie/InRelease", sign(&key, &release(&packed, "Acquire-By-Hash: yes\n")));
    let path = format!("/dists/trixie/main/binary-riscv64/by-hash/SHA256/{}", sha256(&packed));
    server.put(&path, packed);
    assert!(open(&server, &key).unwrap().index.get("a").is_some());
}

#[test]
fn another_key_s_signature_is_refused() {
    let (server, _) = archive(&[("a", b"a", "")]);
    let error = open(&server, &key()).unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }));
    assert!(one_line(&error).contains("no valid signature"));
}

#[test]
fn altered_and_unsigned_index_is_refused() {
    let (server, key) = archive(&[("a", b"a", "")]);
    let packed = xz(b"");
    let signed = sign(&key, &release(&packed, ""));
    for text in [
        signed.replace("Version: 13.0", "Version: 13.1"),
        release(&packed, ""),
        signed.replacen("-----BEGIN", "Codename: evil\n\n-----BEGIN", 1),
        signed[..signed.len() / 2].to_owned(),
        String::new(),
    ] {
        server.put("/dists/trixie/InRelease", text);
        assert!(matches!(open(&server, &key), Err(Error::Untrusted { .. })));
    }
}

#[test]
fn expired_index_and_another_suite_s_are_refused() {
    let (server, key) = archive(&[("a", b"a", "")]);
    let packed = xz(b"");
    let expired = release(&packed, "Valid-Until: Sat, 01 Jan 2000 00:00:00 UTC\n");
    server.put("/dists/trixie/InRelease", sign(&key, &expired));
    assert!(one_line(&open(&server, &key).unwrap_err()).contains("out of date"));
    let other = release(&packed, "").replace("trixie", "buster");
    server.put("/dists/trixie/InRelease", sign(&key, &other));
    assert!(one_line(&open(&server, &key).unwrap_err()).contains("not of trixie"));
}

#[test]
fn index_with_another_hash_is_refused() {
    let (server, key) = archive(&[("a", b"a", "")]);
    let mut packed = xz(support::package("a", b"a", "").as_bytes());
    packed[20] ^= 1;
    server.put("/dists/trixie/main/binary-riscv64/Packages.xz", packed);
    assert!(matches!(open(&server, &key), Err(Error::WrongContent { .. })));
}

#[test]
fn file_with_another_hash_is_refused_at_once_and_not_kept() {
    let mut promised = content();
    promised[7] ^= 1;
    let (cache, server, result) = fetch_in(None, &promised);
    let error = result.unwrap_err();
    assert!(matches!(error, Error::WrongContent { .. }));
    assert!(one_line(&error).contains("choose another mirror"));
    assert_eq!(server.requests("/file").len(), 1);
    let kept: u64 =
        std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(kept, 0);
}

#[test]
fn file_longer_than_promised_is_refused() {
    let (_cache, _server, result) = fetch_in(None, &content()[..1000]);
    assert!(one_line(&result.unwrap_err()).contains("longer than the 1000 bytes"));
}

#[test]
fn mirror_that_stops_half_way_is_gone_on_with() {
    let (_cache, server, result) = fetch_in(Some(Manner::StopsHalfWay), &content());
    assert_eq!(result.unwrap(), content());
    let requests = server.requests("/file");
    assert_eq!(requests[0], "/file 0");
    assert_eq!(requests[1], "/file 600000");
}

#[test]
fn mirror_that_never_gets_further_returns_error_that_says_what_to_do() {
    let (_cache, _server, result) = fetch_in(Some(Manner::StopsHalfWayWithoutRanges), &content());
    let text = one_line(&result.unwrap_err());
    assert!(text.contains("the mirror stopped") && text.contains("run the same command again"), "{text}");
}

#[test]
fn silent_mirror_is_given_up_and_what_came_is_kept() {
    let before = Instant::now();
    let (cache, server, result) = fetch_in(Some(Manner::Hangs), &content());
    // Each try gets half of what is left, so it goes on for a while; then it is whole.
    assert_eq!(result.unwrap(), content());
    assert!(before.elapsed() < Duration::from_secs(60));
    assert!(server.requests("/file").len() > 1);
    assert!(cache.path().join(sha256(&content())).exists());
}

#[test]
fn interrupted_download_is_resumed_by_the_next_process() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.put("/file", content());
    let item = item(&server, "/file", &content());
    std::fs::write(cache.path().join(format!("{}.part", item.sha256)), &content()[..1000]).unwrap();
    fetcher(cache.path()).fetch("test", std::slice::from_ref(&item), &Silent).unwrap();
    assert_eq!(server.requests("/file"), ["/file 1000"]);
}

#[test]
fn damaged_leftover_is_fetched_anew() {
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start());
    server.put("/file", content());
    let item = item(&server, "/file", &content());
    std::fs::write(cache.path().join(format!("{}.part", item.sha256)), vec![0xaa; 1000]).unwrap();
    let paths = fetcher(cache.path()).fetch("test", &[item], &Silent).unwrap();
    assert_eq!(std::fs::read(&paths[0]).unwrap(), content());
}

#[test]
fn busy_mirror_is_tried_again() {
    let (_cache, server, result) = fetch_in(Some(Manner::BusyTwice), &content());
    assert_eq!(result.unwrap(), content());
    assert_eq!(server.requests("/file").len(), 3);
}

#[test]
fn missing_file_and_mirror_return_error() {
    let (_cache, server, result) = fetch_in(Some(Manner::Missing), &content());
    assert!(one_line(&result.unwrap_err()).contains("404"));
    assert_eq!(server.requests("/file").len(), 1);
    let cache = tempfile::tempdir().unwrap();
    let error = fetcher(cache.path()).text("http://127.0.0.1:1/InRelease", 10).unwrap_err();
    assert!(matches!(error, Error::Download { .. }));
    one_line(&error);
}

#[test]
fn archive_on_disk_is_read() {
    let (directory, key) = (tempfile::tempdir().unwrap(), key());
    let packed = xz(support::package("a", b"a", "").as_bytes());
    let folder = directory.path().join("dists/trixie/main/binary-riscv64");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(directory.path().join("dists/trixie/InRelease"), sign(&key, &release(&packed, "")))
        .unwrap();
    std::fs::write(folder.join("Packages.xz"), packed).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    let archive = Archive::open(&url, "trixie", &keyring(&key), &fetcher(cache.path()), &Silent).unwrap();
    assert!(archive.index.get("a").is_some());
}

struct NoBuilder;

impl Builder for NoBuilder {
    fn boot(&self, _vm: BuildVm<'_>) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("no machine here".into())
    }
}

#[test]
fn failed_pull_leaves_no_image_and_no_draft() {
    let (server, key) =
        archive(&[("base", b"not a package", "Essential: yes\n"), ("linux-image-riscv64", b"x", "")]);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let options = Options {
        mirror: Some(server.url.clone()),
        keyring: Some(keyring(&key)),
        fetch: quick(),
        ..Options::default()
    };
    for name in ["busybox", "debian", "debian:sid", "plan9"] {
        one_line(&pull(&store, name, &options, &NoBuilder, &Silent).unwrap_err());
    }
    assert!(store.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(directory.path().join("drafts")).unwrap().count(), 0);
}
