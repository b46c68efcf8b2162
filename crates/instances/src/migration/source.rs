//! The command that moves a machine: it stands between the machine's process and the target, and decides when what
//! happens. What it may do when is in `docs/decisions/0021-migration.md`.

use std::fs::File;
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use rvisor_waist::{EntropyBackend, PAGE_SIZE};
use serde::Serialize;

use super::keys::{Identity, Trust};
use super::link::{Address, Link};
use super::wire::{self, Hello, MOST_BLOB, Message, Sent, Token, VERSION};
use super::{DOUBT, READYING, WRITING, sending};
use crate::client::{Client, Moving};
use crate::config::Config;
use crate::directory::Directory;
use crate::error::{Context, Error, Result};

/// Rounds in which memory is sent while the guest runs, at most.
const ROUNDS: usize = 30;
/// Rounds after which it stops, if they have made nothing better.
const STUBBORN: usize = 5;
/// How long a target may take to look at what is coming: somebody may be asked there.
const QUESTION: Duration = Duration::from_secs(120);

/// How a machine is moved.
pub struct MigrateOptions<'a> {
    /// Where to.
    pub address: Address,
    /// The target's key, if it is known.
    pub peer_key: Option<String>,
    /// For how long the guest may stand still, if that can be had.
    pub max_downtime: Duration,
    /// Asks about keys that aren't known.
    pub trust: Trust<'a>,
}

/// What was moved in a round.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Amounts {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of disks.
    pub disk: u64,
    /// Bytes sent for them: they are compressed.
    pub sent: u64,
    /// How long it took.
    pub milliseconds: u64,
}

/// How a machine was moved.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: String,
    /// Where it runs now.
    pub target: String,
    /// The rounds; the guest stood still in the last.
    pub rounds: Vec<Amounts>,
    /// Bytes of the image's files that the target hadn't got.
    pub image: u64,
    /// Bytes sent in all.
    pub sent: u64,
    /// From when the guest stood still until it went on there.
    pub downtime_ms: f64,
    /// From the beginning to that moment.
    pub total_ms: f64,
}

/// Moves a running machine.
///
/// # Errors
/// If it can't be moved, or the target or the connection fails; the machine goes on here then. One error says that it isn't
/// known whether it runs there: then it stands still here.
pub fn migrate(directory: &Directory, options: &MigrateOptions<'_>) -> Result<Report> {
    let start = Instant::now();
    let identity = Identity::open(directory.store())?;
    let (process, disks) = Client::new(directory).migrate()?;
    let link = reach(options, &identity)?;
    let mut token = Token::default();
    let source = std::path::Path::new("the host");
    rvisor_hosted::HostEntropy::new().context("take random numbers from", source)?.fill(&mut token);
    let mut source = Source { directory, options, identity, process, link, token, sent: 0 };
    let config = directory.config()?;
    let image = source.introduce(&config, disks)?;
    let mut rounds = source.precopy()?;
    let stopped = Instant::now();
    rounds.push(source.freeze()?);
    source.commit()?;
    let (downtime, total) = (stopped.elapsed(), start.elapsed());
    source.finish();
    let milliseconds = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    Ok(Report {
        machine: directory.name().to_owned(),
        target: options.address.to_string(),
        rounds,
        image,
        sent: source.sent,
        downtime_ms: milliseconds(downtime),
        total_ms: milliseconds(total),
    })
}

/// Connects to the target, and checks that it is who it should be.
fn reach(options: &MigrateOptions<'_>, identity: &Identity) -> Result<Link> {
    let mut link = Link::connect(&options.address, identity)?;
    let Some(key) = link.key.clone() else { return Ok(link) };
    let key = &key;
    let name = options.address.to_string();
    let known = options.peer_key.clone().or_else(|| identity.known(&name));
    match known {
        Some(known) if known == *key => {}
        Some(known) => {
            return Err(Error::Refused(format!(
                "{name} has the key {key}, not {known}: it is somebody else, or has got a new key; if that is right, \
                 give --peer-key {key}"
            )));
        }
        None => {
            let question = format!("{name} isn't known yet; its key is {key}. Move the machine there?");
            if !(options.trust)(&question) {
                return Err(Error::Refused(format!(
                    "the key of {name} isn't known: {key}; compare it with what `rvisor receive` shows there, and give \
                     --peer-key {key}"
                )));
            }
            // It didn't wait for the answer.
            link = Link::connect(&options.address, identity)?;
            if link.key.as_ref() != Some(key) {
                return Err(Error::Refused(format!("{name} has got another key meanwhile; try again")));
            }
        }
    }
    identity.remember(&name, key)?;
    Ok(link)
}

struct Source<'a> {
    directory: &'a Directory,
    options: &'a MigrateOptions<'a>,
    identity: Identity,
    process: Moving,
    link: Link,
    token: Token,
    sent: u64,
}

impl Source<'_> {
    /// Why the machine isn't moved, in one line.
    fn failed(&self, error: &io::Error) -> Error {
        let (name, to) = (self.directory.name(), &self.options.address);
        Error::Refused(format!("machine {name} goes on here: the connection to {to} broke ({error})"))
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Refused(format!(
            "machine {} goes on here: {} says: {reason}",
            self.directory.name(),
            self.options.address
        ))
    }

    fn send(&mut self, message: &Message) -> Result<()> {
        let sent = self.link.send(message);
        self.sent += sent.map_err(|error| self.broken(error))?;
        Ok(())
    }

    /// An error of the connection; the other side may have said why.
    fn broken(&mut self, error: io::Error) -> Error {
        match self.link.is_readable().then(|| self.link.receive()) {
            Some(Ok(Message::Failed(reason))) => self.refused(&reason),
            Some(Err(error)) => self.failed(&error),
            _ => self.failed(&error),
        }
    }

    fn receive(&mut self, limit: Duration) -> Result<Message> {
        match self.link.receive_within(limit) {
            Ok(Message::Failed(reason)) => Err(self.refused(&reason)),
            Ok(message) => Ok(message),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn expect(&mut self, expected: &Message, limit: Duration) -> Result<()> {
        let message = self.receive(limit)?;
        if message == *expected { Ok(()) } else { Err(self.refused("what makes no sense")) }
    }

    /// Tells what is coming, and sends the files of the image that the target hasn't got. Returns how many bytes those are.
    fn introduce(&mut self, config: &Config, disks: Vec<u64>) -> Result<u64> {
        let hello = Hello {
            version: VERSION,
            token: self.token,
            name: self.directory.name().to_owned(),
            config: config.clone(),
            disks,
        };
        self.send(&Message::Hello(Box::new(hello)))?;
        let Message::Needs(needed) = self.receive(QUESTION)? else {
            return Err(self.refused("what makes no sense"));
        };
        let own = [Some(&config.kernel), Some(&config.run_initrd), config.base_disk.as_ref()];
        let mut bytes = 0;
        for digest in needed {
            // A target may ask for the files of this machine, and for no others.
            if !own.contains(&Some(&digest)) {
                return Err(self.refused("that it needs a file that isn't the machine's"));
            }
            bytes += self.send_blob(&digest)?;
        }
        Ok(bytes)
    }

    fn send_blob(&mut self, digest: &str) -> Result<u64> {
        let path = self.directory.store().join("blobs/sha256").join(digest);
        let mut file = File::open(&path).context("read a file of the machine's image,", &path)?;
        let size = file.metadata().context("read", &path)?.len();
        self.send(&Message::Blob(digest.to_owned(), size))?;
        let mut left = size;
        while left > 0 {
            let mut bytes = vec![0; left.min(MOST_BLOB as u64) as usize];
            file.read_exact(&mut bytes).context("read", &path)?;
            left -= bytes.len() as u64;
            self.send(&Message::BlobData(bytes))?;
        }
        self.expect(&Message::Ack, WRITING)?;
        Ok(size)
    }

    /// Has the machine's process send what it has to in a step, and passes that on.
    fn pass_on(&mut self, word: &str) -> Result<(Sent, Amounts)> {
        let (start, before) = (Instant::now(), self.sent);
        self.process.say(word)?;
        let sent = loop {
            let (kind, payload) = self.process.receive()?;
            if wire::is_content(kind) {
                if self.link.is_readable() {
                    // Nothing but a failure comes unasked.
                    return Err(self.broken(io::Error::other("it says what makes no sense")));
                }
                let sent = self.link.send_raw(kind, &payload);
                self.sent += sent.map_err(|error| self.broken(error))?;
                continue;
            }
            match Message::decode(kind, &payload) {
                Some(Message::Sent(sent)) => break sent,
                Some(Message::Failed(reason)) => return Err(Error::Refused(reason)),
                _ => return Err(self.process.ended()),
            }
        };
        let amounts = Amounts {
            memory: sent.pages * PAGE_SIZE,
            disk: sent.disk,
            sent: self.sent - before,
            milliseconds: start.elapsed().as_millis() as u64,
        };
        Ok((sent, amounts))
    }

    /// Sends all that there is, and then what has changed, until what is left can be sent in a moment.
    fn precopy(&mut self) -> Result<Vec<Amounts>> {
        let mut rounds = Vec::new();
        let (mut least, mut since) = (u64::MAX, 0);
        while rounds.len() < ROUNDS && since < STUBBORN {
            let start = Instant::now();
            let (sent, mut amounts) = self.pass_on(sending::ROUND)?;
            self.send(&Message::Round)?;
            self.expect(&Message::Ack, WRITING)?;
            let took = start.elapsed();
            amounts.milliseconds = took.as_millis() as u64;
            rounds.push(amounts);
            let left = sent.left_pages * PAGE_SIZE + sent.left_disk;
            let done = amounts.memory + amounts.disk;
            // What a small round takes is mostly its beginning and end.
            let rate = done as f64 / took.as_secs_f64().max(1e-6);
            if left == 0 || done > 0 && left as f64 / rate <= self.options.max_downtime.as_secs_f64() {
                break;
            }
            (least, since) = if left < least { (left, 0) } else { (least, since + 1) };
        }
        Ok(rounds)
    }

    /// Stops the machine, and has the target make ready with what is left.
    fn freeze(&mut self) -> Result<Amounts> {
        let start = Instant::now();
        let (_, mut amounts) = self.pass_on(sending::FREEZE)?;
        self.send(&Message::Prepare)?;
        self.expect(&Message::Ready, READYING)?;
        amounts.milliseconds = start.elapsed().as_millis() as u64;
        Ok(amounts)
    }

    /// Hands the machine over. From here on nothing but the target's word lets it go on here.
    fn commit(&mut self) -> Result<()> {
        let to = self.options.address.to_string();
        self.directory.note_moved(&to)?;
        if let Err(error) = self.pass_on(sending::COMMIT) {
            // It wasn't: the process says so.
            self.directory.forget_moved()?;
            return Err(error);
        }
        let answer = self.link.send(&Message::Commit).and_then(|_| self.link.receive());
        let answer = answer.or_else(|error| self.ask(error));
        match answer {
            Ok(Message::Running) => Ok(()),
            Ok(Message::Gone) => {
                self.directory.forget_moved()?;
                self.pass_on(sending::ABORT)?;
                Err(self.refused("the machine couldn't go on there"))
            }
            Ok(_) => Err(self.doubt("it says what makes no sense")),
            Err(error) => Err(self.doubt(&error.to_string())),
        }
    }

    /// The connection broke, and nobody here knows whether the target has heard: asks until it answers.
    fn ask(&mut self, error: io::Error) -> io::Result<Message> {
        const PAUSE: Duration = Duration::from_millis(200);
        let deadline = Instant::now() + DOUBT;
        let mut last = error;
        while Instant::now() < deadline {
            match self.ask_once() {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
            thread::sleep(PAUSE);
        }
        Err(last)
    }

    fn ask_once(&mut self) -> io::Result<Message> {
        let mut link = Link::connect(&self.options.address, &self.identity).map_err(io::Error::other)?;
        if link.key != self.link.key {
            return Err(io::Error::other("somebody else listens there"));
        }
        link.send(&Message::Ask(self.token))?;
        let mut answer = link.receive()?;
        if answer == Message::Ready {
            link.send(&Message::Commit)?;
            answer = link.receive()?;
        }
        match answer {
            Message::Running | Message::Gone => {
                self.link = link;
                Ok(answer)
            }
            _ => Err(io::Error::other("it doesn't know of the machine")),
        }
    }

    fn doubt(&self, reason: &str) -> Error {
        let (name, to) = (self.directory.name(), &self.options.address);
        Error::Refused(format!(
            "machine {name} was handed over to {to}, and the connection broke ({reason}): look there; if it runs, end it \
             here with `rvisor kill {name}`, if not, let it go on here with `rvisor resume {name}`"
        ))
    }

    /// The machine runs there: nothing that goes wrong here changes that.
    fn finish(&mut self) {
        let _ = self.link.send(&Message::Done);
        if let Err(error) = self.pass_on(sending::END).and_then(|_| self.directory.wait()) {
            log::warn!("the machine's process: {error}");
        }
    }
}
