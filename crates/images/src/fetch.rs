//! Downloads: several at a time, resumed where they stopped, checked while they stream.
//!
//! Files end up in a cache named by their digest, so that whatever is there under a name is right. One that is
//! under way stands beside them as `<digest>.part`, locked by the process that writes it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, IoContext, Result};
use crate::hex;
use crate::progress::{Progress, Unit};

/// A file to fetch, and what it must turn out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// A short name for progress.
    pub name: String,
    /// Where it is: `http://`, `https://` or `file://`.
    pub url: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in lowercase hexadecimal.
    pub sha256: String,
}

/// How a [`Fetcher`] behaves.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Downloads at a time.
    pub parallel: usize,
    /// Tries without getting further before a download is given up.
    pub tries: u32,
    /// The wait before the second try; doubles with each.
    pub backoff: Duration,
    /// How long a mirror may be silent.
    pub silence: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        let (backoff, silence) = (Duration::from_millis(500), Duration::from_secs(30));
        Self { parallel: 6, tries: 5, backoff, silence }
    }
}

/// Fetches files into a cache.
#[derive(Debug)]
pub struct Fetcher {
    agent: ureq::Agent,
    options: FetchOptions,
    cache: PathBuf,
}

/// Why one try ended.
enum Failure {
    /// Another try may help.
    Passing(String),
    /// No other try can help.
    Lasting(Error),
}

/// An open answer: its bytes start at `offset`.
struct Answer {
    offset: u64,
    body: Box<dyn Read + Send>,
}

impl Fetcher {
    /// A fetcher whose files are kept in the directory `cache`, made if missing.
    pub fn new(cache: &Path, options: FetchOptions) -> Result<Self> {
        fs::create_dir_all(cache).context("create", cache)?;
        let config = ureq::Agent::config_builder()
            .user_agent(concat!("rvisor/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_resolve(Some(options.silence))
            .timeout_connect(Some(options.silence))
            .timeout_recv_response(Some(options.silence))
            .timeout_per_read(Some(options.silence))
            .build();
        Ok(Self { agent: config.into(), options, cache: cache.to_owned() })
    }

    /// Where the cache keeps, or would keep, a file.
    #[must_use]
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.cache.join(sha256)
    }

    /// A small text of unknown digest, at most `limit` bytes.
    pub fn text(&self, url: &str, limit: u64) -> Result<String> {
        let mut text = String::new();
        self.persist(url, || {
            text.clear();
            let answer = self.open(url, 0)?;
            match answer.body.take(limit + 1).read_to_string(&mut text) {
                Ok(length) if length as u64 > limit => Err(Failure::Lasting(Error::WrongContent {
                    url: url.to_owned(),
                    reason: format!("it is longer than {limit} bytes"),
                })),
                Ok(_) => Ok(false),
                Err(error) => Err(Failure::Passing(error.to_string())),
            }
        })?;
        Ok(text)
    }

    /// Fetches what the cache doesn't have yet; returns the paths in the order of `items`.
    pub fn fetch(&self, step: &str, items: &[Item], progress: &dyn Progress) -> Result<Vec<PathBuf>> {
        let paths: Vec<PathBuf> = items.iter().map(|item| self.path(&item.sha256)).collect();
        let mut missing: Vec<&Item> =
            items.iter().zip(&paths).filter(|(_, path)| !path.exists()).map(|(item, _)| item).collect();
        if missing.is_empty() {
            return Ok(paths);
        }
        // The largest first, so that no long one is left over at the end.
        missing.sort_by_key(|item| std::cmp::Reverse(item.size));
        progress.begin(step, missing.iter().map(|item| item.size).sum(), Unit::Bytes);
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        thread::scope(|scope| {
            for _ in 0..self.options.parallel.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(item) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        progress.detail(&item.name);
                        if let Err(error) = self.fetch_one(item, progress) {
                            next.store(missing.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        progress.end();
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(paths),
        }
    }

    fn fetch_one(&self, item: &Item, progress: &dyn Progress) -> Result<()> {
        let path = self.path(&item.sha256);
        let part = self.cache.join(format!("{}.part", item.sha256));
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(&part).context("create", &part)?;
        file.lock().context("lock", &part)?;
        if path.exists() {
            return Ok(()); // Another process was faster.
        }
        let (mut furthest, mut reported) = (0, 0);
        self.persist(&item.url, || {
            let reached = self.try_once(item, &mut file, &part, &mut |have: u64| {
                progress.advance(have.saturating_sub(reported));
                reported = reported.max(have);
            });
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let got_further = length > furthest;
            furthest = furthest.max(length);
            match reached {
                Ok(()) => Ok(false),
                Err(Failure::Passing(reason)) if !got_further => Err(Failure::Passing(format!(
                    "{reason} after {length} of {} bytes; what has come is kept: run the same command again, \
                     or choose another mirror with --mirror URL",
                    item.size
                ))),
                Err(Failure::Passing(_)) => Ok(true),
                Err(lasting) => Err(lasting),
            }
        })?;
        file.sync_all().context("write", &part)?;
        fs::rename(&part, &path).context("create", &path)
    }

    /// Appends to the partial file until it is whole and right.
    fn try_once(
        &self,
        item: &Item,
        file: &mut File,
        part: &Path,
        reached: &mut dyn FnMut(u64),
    ) -> std::result::Result<(), Failure> {
        let host = |error: io::Error| {
            Failure::Lasting(Error::Io { action: "write", path: part.to_owned(), source: error })
        };
        file.seek(SeekFrom::Start(0)).map_err(host)?;
        let (mut digest, mut have) = digest_of(&mut (&*file).take(item.size)).map_err(host)?;
        let resumed = have;
        if have < item.size {
            let answer = self.open(&item.url, have)?;
            if answer.offset != have {
                digest = Sha256::new();
                have = 0;
            }
            file.set_len(have).map_err(host)?;
            file.seek(SeekFrom::Start(have)).map_err(host)?;
            reached(have);
            let mut body = answer.body.take(item.size - have + 1);
            let mut buffer = vec![0; 64 << 10];
            loop {
                let length = match body.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => length,
                    Err(error) => {
                        return Err(Failure::Passing(format!("the mirror stopped ({error})")));
                    }
                };
                file.write_all(&buffer[..length]).map_err(host)?;
                digest.update(&buffer[..length]);
                have += length as u64;
                reached(have);
            }
            if have < item.size {
                return Err(Failure::Passing("the mirror stopped".to_owned()));
            }
        }
        let actual = hex(&digest.finalize());
        if have == item.size && actual == item.sha256 {
            return Ok(());
        }
        file.set_len(0).map_err(host)?;
        if resumed > 0 {
            return Err(Failure::Passing("what was kept of an earlier download was wrong".to_owned()));
        }
        let reason = if have == item.size {
            format!("its SHA256 is {actual}, the signed index says {}", item.sha256)
        } else {
            format!("it is longer than the {} bytes that the signed index says", item.size)
        };
        Err(Failure::Lasting(Error::WrongContent { url: item.url.clone(), reason }))
    }

    /// Tries until it succeeds, fails for good, or has failed too often in a row. An attempt says with `Ok(true)`
    /// that it failed but got further.
    fn persist(
        &self,
        url: &str,
        mut attempt: impl FnMut() -> std::result::Result<bool, Failure>,
    ) -> Result<()> {
        let mut wait = self.options.backoff;
        let mut left = self.options.tries;
        loop {
            match attempt() {
                Ok(false) => return Ok(()),
                Ok(true) => (wait, left) = (self.options.backoff, self.options.tries),
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(reason)) => {
                    left = left.saturating_sub(1);
                    if left == 0 {
                        return Err(Error::Download { url: url.to_owned(), reason });
                    }
                    log::info!("{url}: {reason}; trying again in {wait:?}");
                }
            }
            thread::sleep(wait);
            wait *= 2;
        }
    }

    fn open(&self, url: &str, offset: u64) -> std::result::Result<Answer, Failure> {
        if let Some(path) = url.strip_prefix("file://") {
            let mut file = File::open(path).map_err(|source| {
                Failure::Lasting(Error::Io { action: "read", path: path.into(), source })
            })?;
            let offset = if file.seek(SeekFrom::Start(offset)).is_ok() { offset } else { 0 };
            return Ok(Answer { offset, body: Box::new(file) });
        }
        let mut request = self.agent.get(url);
        if offset > 0 {
            request = request.header("Range", format!("bytes={offset}-"));
        }
        let response = request.call().map_err(|error| Failure::Passing(error.to_string()))?;
        let status = response.status().as_u16();
        let offset = match status {
            200 => 0,
            206 => {
                let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
                let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
                match start.and_then(|(start, _)| start.parse::<u64>().ok()) {
                    Some(start) if start == offset => offset,
                    _ => return Err(Failure::Passing("the mirror sent another part than asked for".into())),
                }
            }
            416 => return self.open(url, 0),
            408 | 429 | 500..=599 => return Err(Failure::Passing(format!("the mirror answered {status}"))),
            _ => {
                let reason = format!(
                    "the mirror answered {status}; try again later or choose another mirror with --mirror URL"
                );
                return Err(Failure::Lasting(Error::Download { url: url.to_owned(), reason }));
            }
        };
        Ok(Answer { offset, body: Box::new(response.into_body().into_reader()) })
    }
}

/// The running SHA-256 of everything that `reader` gives, and its length.
fn digest_of(reader: &mut dyn Read) -> io::Result<(Sha256, u64)> {
    let (mut digest, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 64 << 10]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok((digest, length)),
            count => {
                digest.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

/// The SHA-256 of a file in lowercase hexadecimal, and its size in bytes.
pub(crate) fn file_digest(path: &Path) -> Result<(String, u64)> {
    let digest = File::open(path).and_then(|mut file| digest_of(&mut file));
    let (digest, length) = digest.context("read", path)?;
    Ok((hex(&digest.finalize()), length))
}
