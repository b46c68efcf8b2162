//! A small signed archive and a local HTTP server that can misbehave.
#![allow(dead_code)] // Each test binary uses its part.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pgp::composed::{CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey};
use pgp::ser::Serialize;
use pgp::types::Password;
use rand::rngs::OsRng;
use rvisor_images::archive::Keyring;
use sha2::{Digest, Sha256};

/// How the server treats a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Sends half of what is asked for, then hangs up.
    StopsHalfWay,
    /// The same, and always starts at the beginning.
    StopsHalfWayWithoutRanges,
    /// Sends nothing more after the first half, for ever.
    Hangs,
    /// Answers 503 the first two times.
    BusyTwice,
    /// Answers 404.
    Missing,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    manners: HashMap<String, Manner>,
    requests: Vec<String>,
}

/// A server on a port of its own of the loopback address.
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || answer(stream, &state));
            }
        });
        Self { url, state }
    }

    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), content.into());
    }

    pub fn treat(&self, path: &str, manner: Manner) {
        self.state.lock().unwrap().manners.insert(path.to_owned(), manner);
    }

    /// Requests for a path, with what they asked for of it.
    pub fn requests(&self, path: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|request| request.starts_with(path)).cloned().collect()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let mut start = 0;
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
    }
    let (content, manner) = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{path} {start}"));
        let count = state.requests.iter().filter(|request| request.split(' ').next() == Some(&path)).count();
        let manner = state.manners.get(&path).copied().filter(|m| *m != Manner::BusyTwice || count <= 2);
        (state.files.get(&path).cloned(), manner)
    };
    let head = |status: &str, more: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n")
    };
    if manner == Some(Manner::BusyTwice) {
        let _ = stream.write_all(head("503 Service Unavailable", "", 0).as_bytes());
        return;
    }
    let Some(content) = content.filter(|_| manner != Some(Manner::Missing)) else {
        let _ = stream.write_all(head("404 Not Found", "", 0).as_bytes());
        return;
    };
    if manner == Some(Manner::StopsHalfWayWithoutRanges) {
        start = 0;
    }
    if start > content.len() {
        let _ = stream.write_all(head("416 Range Not Satisfiable", "", 0).as_bytes());
        return;
    }
    let body = &content[start..];
    let header = match start {
        0 => head("200 OK", "", body.len()),
        _ => {
            let range = format!("Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len());
            head("206 Partial Content", &range, body.len())
        }
    };
    let _ = stream.write_all(header.as_bytes());
    let sent = if manner.is_some() { &body[..body.len().div_ceil(2)] } else { body };
    let _ = stream.write_all(sent);
    if manner == Some(Manner::Hangs) {
        thread::sleep(Duration::from_secs(20));
    }
}

/// A signing key made for the test.
pub fn key() -> SignedSecretKey {
    let mut builder = SecretKeyParamsBuilder::default();
    builder.key_type(KeyType::Ed25519Legacy).can_certify(true).can_sign(true).primary_user_id("test".into());
    builder.build().unwrap().generate(OsRng).unwrap()
}

pub fn keyring(key: &SignedSecretKey) -> Keyring {
    let bytes = key.to_public_key().to_bytes().unwrap();
    Keyring::read(bytes.as_slice()).unwrap()
}

pub fn sign(key: &SignedSecretKey, text: &str) -> String {
    let message = CleartextSignedMessage::sign(OsRng, text, &key.primary_key, &Password::empty()).unwrap();
    message.to_armored_string(Default::default()).unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of an index's table of contents.
pub fn release(packages_xz: &[u8], more: &str) -> String {
    format!(
        "Origin: Test\nCodename: trixie\nVersion: 13.0\n{more}SHA256:\n {} {} main/binary-riscv64/Packages.xz\n",
        sha256(packages_xz),
        packages_xz.len()
    )
}

pub fn package(name: &str, content: &[u8], more: &str) -> String {
    format!(
        "Package: {name}\nVersion: 1\n{more}Filename: pool/{name}.deb\nSize: {}\nSHA256: {}\n\n",
        content.len(),
        sha256(content)
    )
}

/// Packs as xz does; the blocks aren't compressed much, but they are xz.
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Serves a signed archive of these packages; returns the server and the key.
pub fn archive(packages: &[(&str, &[u8], &str)]) -> (Server, SignedSecretKey) {
    let (server, key) = (Server::start(), key());
    let index: String = packages.iter().map(|(name, content, more)| package(name, content, more)).collect();
    let packed = xz(index.as_bytes());
    server.put("/dists/trixie/InRelease", sign(&key, &release(&packed, "")));
    server.put("/dists/trixie/main/binary-riscv64/Packages.xz", packed);
    for (name, content, _) in packages {
        server.put(&format!("/pool/{name}.deb"), *content);
    }
    (server, key)
}
