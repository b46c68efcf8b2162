//! The command that takes a machine over.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rvisor_hosted::disk::{DiskOptions, Format, create_empty, create_overlay, resize};
use rvisor_images::Store;
use rvisor_machine::persist::SavedState;
use rvisor_waist::{PAGE_SIZE, SECTOR_SIZE};

use super::incoming::{Files, Incoming};
use super::keys::{Identity, Trust};
use super::link::{Address, Link, Listener};
use super::wire::{Hello, Message, Token};
use super::{DOUBT, HOLD};
use crate::config::Config;
use crate::daemon::Arrival;
use crate::directory::{Directory, Machines};
use crate::error::{Context, Error, Result};
use crate::export;
use crate::saved::{self, SavedHost};
use crate::snapshot::RESUME;

/// Under this name keys are kept of those whose machines are taken.
const SOURCES: &str = "source";
/// Disks of a machine, at most: there are no more places on the board.
const MOST_DISKS: usize = 8;

/// How a machine is taken over.
pub struct ReceiveOptions<'a> {
    /// Where to listen.
    pub listen: Address,
    /// What it is called here, if not as there.
    pub name: Option<String>,
    /// Keys of those whose machines are taken.
    pub peer_keys: Vec<String>,
    /// Bytes of memory that it may have.
    pub max_memory: u64,
    /// Whether its ports are forwarded here.
    pub forward_ports: bool,
    /// Where translated code is kept.
    pub code_cache: Option<PathBuf>,
    /// Asks about keys that aren't known.
    pub trust: Trust<'a>,
    /// Starts the process of a machine that has arrived.
    pub start: &'a dyn Fn(&Directory) -> Result<Arrival>,
}

/// What becomes known on the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Announced {
    /// It listens at this address, with this key if it needs one.
    Listening(String, Option<String>),
    /// Somebody came, and nothing came of it.
    Refused(String),
}

/// Takes one machine over; returns its name.
///
/// # Errors
/// If it can't be; nothing is left of it then.
pub fn receive(
    machines: &Machines,
    store: &Store,
    options: &ReceiveOptions<'_>,
    announce: &dyn Fn(&Announced),
) -> Result<String> {
    if let Some(name) = &options.name {
        machines.check_unused(name)?;
    }
    let identity = Identity::open(machines.store())?;
    let listener = Listener::open(&options.listen)?;
    let key = matches!(options.listen, Address::Tcp(_)).then(|| identity.fingerprint());
    announce(&Announced::Listening(listener.address.to_string(), key));
    loop {
        let Some(link) = listener.accept(&identity, HOLD) else { continue };
        match link.and_then(|mut link| greet(&mut link, options, &identity).map(|hello| (link, hello))) {
            Ok((link, Some(hello))) => {
                let target = Target { machines, store, options, identity: &identity, listener: &listener };
                return target.take(link, &hello);
            }
            Ok((link, None)) => link.fail("this machine isn't known here"),
            Err(error) => announce(&Announced::Refused(error.to_string())),
        }
    }
}

/// Hears who comes with what. `None` if somebody asks for a machine of which nothing is known.
fn greet(link: &mut Link, options: &ReceiveOptions<'_>, identity: &Identity) -> Result<Option<Box<Hello>>> {
    /// Nobody holds up those who come behind him.
    const GREETING: Duration = Duration::from_secs(10);
    let peer = link.peer.clone();
    let message = link
        .receive_within(GREETING)
        .map_err(|error| Error::Refused(format!("{peer} was refused: {error}")))?;
    let hello = match message {
        Message::Hello(hello) => hello,
        Message::Ask(_) => return Ok(None),
        _ => return Err(Error::Refused(format!("{peer} was refused: it says what makes no sense"))),
    };
    let Some(key) = link.key.clone() else { return Ok(Some(hello)) };
    let is_known =
        options.peer_keys.contains(&key) || options.peer_keys.is_empty() && identity.knows(SOURCES, &key);
    let question = || format!("machine {} comes from {peer}, whose key is {key}. Take it?", hello.name);
    let is_taken = is_known || options.peer_keys.is_empty() && (options.trust)(&question());
    if !is_taken {
        let text =
            format!("the key of the source isn't known: {key}; start `rvisor receive --peer-key {key}`");
        // Said here, since the link stays the caller's.
        let _ = link.send(&Message::Failed(text.clone()));
        return Err(Error::Refused(format!("{peer} was refused: {text}")));
    }
    identity.remember(SOURCES, &key)?;
    Ok(Some(hello))
}

struct Target<'a> {
    machines: &'a Machines,
    store: &'a Store,
    options: &'a ReceiveOptions<'a>,
    identity: &'a Identity,
    listener: &'a Listener,
}

fn refused(text: impl Into<String>) -> Error {
    Error::Refused(text.into())
}

impl Target<'_> {
    /// Takes the machine that this connection brings.
    fn take(&self, mut link: Link, hello: &Hello) -> Result<String> {
        match self.prepare(&mut link, hello) {
            Ok((directory, arrival)) => self.hold(link, hello, directory, arrival),
            Err(error) => {
                let text = error.to_string();
                link.fail(&text);
                Err(refused(format!("machine {} wasn't taken over: {text}", hello.name)))
            }
        }
    }

    /// Writes the machine down, and starts its process, which waits.
    fn prepare(&self, link: &mut Link, hello: &Hello) -> Result<(Directory, Arrival)> {
        let name = self.options.name.as_deref().unwrap_or(&hello.name);
        self.machines.check_unused(name)?;
        let config = self.config(hello)?;
        let (directory, lock) =
            self.machines.create(name, &config, |path| self.fill(link, hello, &config, path))?;
        drop(lock);
        match (self.options.start)(&directory) {
            Ok(arrival) => Ok((directory, arrival)),
            Err(error) => {
                // Mostly it has removed itself.
                let _ = directory.remove();
                Err(error)
            }
        }
    }

    /// What the machine is here.
    fn config(&self, hello: &Hello) -> Result<Config> {
        let most = self.options.max_memory;
        if hello.config.memory > most {
            let (has, most) = (hello.config.memory >> 20, most >> 20);
            return Err(refused(format!(
                "it has {has} MiB of memory, and may have {most}; see --max-memory"
            )));
        }
        let count = hello.config.disks.len() + usize::from(hello.config.base_disk.is_some());
        let is_size = |size: &u64| *size > 0 && size.is_multiple_of(SECTOR_SIZE);
        if hello.disks.len() != count || count > MOST_DISKS || !hello.disks.iter().all(is_size) {
            return Err(refused("its disks make no sense"));
        }
        let config = &hello.config;
        if !config.volumes.is_empty() || config.private_network.is_some() || config.tap.is_some() {
            return Err(refused("it has what can't be moved"));
        }
        let config = export::local(hello.config.clone(), self.options.code_cache.clone());
        let publish = if self.options.forward_ports { hello.config.publish.clone() } else { Vec::new() };
        Ok(Config { created: hello.config.created, publish, remove: hello.config.remove, ..config })
    }

    /// Fills the machine's directory until all has come.
    fn fill(&self, link: &mut Link, hello: &Hello, config: &Config, path: &Path) -> Result<()> {
        self.fetch_blobs(link, config, path)?;
        let files = self.make_files(hello, config, path)?;
        let pages = config.memory.div_ceil(PAGE_SIZE);
        let mut incoming = Incoming::new(pages, hello.disks.clone(), files);
        let broken = |error: io::Error| refused(format!("the source: {error}"));
        loop {
            match link.receive().map_err(broken)? {
                Message::Round => {
                    incoming.files().sync().context("write", path)?;
                    link.send(&Message::Ack).map_err(broken)?;
                }
                Message::Prepare => break,
                message => incoming.take(message).map_err(broken)?,
            }
        }
        incoming.files().sync().context("write", path)?;
        let resume = path.join(RESUME);
        let state = SavedState::new(std::mem::take(&mut incoming.state));
        let state = state.map_err(|error| refused(error.to_string()))?;
        serde_json::from_slice::<SavedHost>(&incoming.host).map_err(|error| refused(error.to_string()))?;
        let write = |name: &str, bytes: &[u8]| {
            let path = resume.join(name);
            fs::write(&path, bytes).context("write", &path)
        };
        write(saved::HOST, &incoming.host)?;
        write(saved::STATE, state.as_bytes())?;
        Directory::note_arriving(path)
    }

    /// Gets the files of the image that aren't here.
    fn fetch_blobs(&self, link: &mut Link, config: &Config, path: &Path) -> Result<()> {
        let broken = |error: io::Error| refused(format!("the source: {error}"));
        let nonsense = || refused("the source sends what makes no sense");
        let digests = [Some(&config.kernel), Some(&config.run_initrd), config.base_disk.as_ref()];
        let digests: Vec<_> = digests.into_iter().flatten().collect();
        if !digests.iter().all(|digest| rvisor_images::archive::is_sha256(digest)) {
            return Err(nonsense());
        }
        let blobs = self.machines.store().join("blobs/sha256");
        let missing = digests.iter().filter(|digest| !blobs.join(digest).exists());
        let mut missing: Vec<String> = missing.map(|digest| (*digest).clone()).collect();
        missing.dedup();
        link.send(&Message::Needs(missing.clone())).map_err(broken)?;
        for digest in missing {
            let Message::Blob(sent, size) = link.receive().map_err(broken)? else { return Err(nonsense()) };
            if sent != digest {
                return Err(nonsense());
            }
            let place = path.join(format!("blob-{digest}"));
            let file = File::create_new(&place).context("create", &place)?;
            let mut left = size;
            while left > 0 {
                let Message::BlobData(bytes) = link.receive().map_err(broken)? else {
                    return Err(nonsense());
                };
                let offset = size - left;
                left = left.checked_sub(bytes.len() as u64).ok_or_else(nonsense)?;
                if bytes.iter().any(|&byte| byte != 0) {
                    file.write_all_at(&bytes, offset).context("write", &place)?;
                }
            }
            // What is zero stays a hole.
            file.set_len(size).context("write", &place)?;
            drop(file);
            let adopted = self.store.adopt_blob(&place, &digest);
            adopted.map_err(|error| refused(error.to_string()))?;
            let _ = fs::remove_file(&place);
            link.send(&Message::Ack).map_err(broken)?;
        }
        Ok(())
    }

    /// Makes memory and disks, empty but for what the image has.
    fn make_files(&self, hello: &Hello, config: &Config, path: &Path) -> Result<Files> {
        let resume = path.join(RESUME);
        fs::create_dir(&resume).context("create", &resume)?;
        let memory_path = resume.join(saved::MEMORY);
        let memory = File::options().read(true).write(true).create_new(true).open(&memory_path);
        let memory = memory.context("create", &memory_path)?;
        memory.set_len(config.memory).context("create", &memory_path)?;
        let mut paths = Vec::new();
        if let Some(digest) = &config.base_disk {
            let base = self.machines.store().join("blobs/sha256").join(digest);
            let disk = Directory::disk_in(path);
            create_overlay(&disk, &base, Some(Format::Raw))?;
            // The user may have made it larger.
            if hello.disks[0] > fs::metadata(&base).context("read", &base)?.len() {
                resize(&disk, Some(Format::Qcow2), hello.disks[0], false)?;
            }
            paths.push(disk);
        }
        for number in 0..config.disks.len() {
            let disk = Directory::other_disk_in(path, number);
            create_empty(&disk, Format::Qcow2, hello.disks[paths.len()])?;
            paths.push(disk);
        }
        let mut disks = Vec::new();
        for (disk, size) in paths.iter().zip(&hello.disks) {
            let image = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::new(disk) }.open()?;
            if image.size() != *size {
                return Err(refused("its disk is smaller than its image's"));
            }
            disks.push(Arc::clone(&image));
        }
        Ok(Files { memory, disks })
    }

    /// The machine could go on: waits until the source says that it shall.
    fn hold(&self, mut link: Link, hello: &Hello, directory: Directory, arrival: Arrival) -> Result<String> {
        let deadline = Instant::now() + HOLD;
        let name = directory.name().to_owned();
        let mut said = link.send(&Message::Ready).and_then(|_| link.receive());
        loop {
            match said {
                Ok(Message::Commit) => break,
                Ok(_) | Err(_) if Instant::now() >= deadline => {
                    arrival.give_up();
                    let _ = directory.remove();
                    return Err(refused(format!("machine {name} wasn't taken over: the source has gone")));
                }
                _ => {}
            }
            if let Some(next) = self.asks_again(hello, deadline) {
                link = next;
                said = link.send(&Message::Ready).and_then(|_| link.receive());
            }
        }
        match arrival.go() {
            Ok(()) => {
                self.tell(link, &Message::Running, hello);
                Ok(name)
            }
            Err(error) => {
                let _ = directory.remove();
                self.tell(link, &Message::Gone, hello);
                Err(error)
            }
        }
    }

    /// The source's next connection, if there is one before that time.
    fn asks_again(&self, hello: &Hello, deadline: Instant) -> Option<Link> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut link = self.listener.accept(self.identity, left.min(Duration::from_secs(1)))?.ok()?;
        self.is_about(&mut link, hello.token).then_some(link)
    }

    fn is_about(&self, link: &mut Link, token: Token) -> bool {
        matches!(link.receive_within(Duration::from_secs(5)), Ok(Message::Ask(asked)) if asked == token)
    }

    /// Tells the source what has become of the machine, until it knows or doesn't ask any more.
    fn tell(&self, mut link: Link, message: &Message, hello: &Hello) {
        let deadline = Instant::now() + DOUBT;
        loop {
            if link.send(message).and_then(|_| link.receive()).is_ok_and(|said| said == Message::Done) {
                return;
            }
            loop {
                if Instant::now() >= deadline {
                    return;
                }
                if let Some(next) = self.asks_again(hello, deadline) {
                    link = next;
                    break;
                }
            }
        }
    }
}
