//! What source and target say to each other: messages of a kind (a byte), a length (32 bits, little-endian as all
//! numbers) and so many bytes. What comes from the other side is believed in nothing.

use std::io::{self, Read, Write};

use rvisor_hosted::changes::{MOST_BYTES, MOST_PAGES};
use rvisor_waist::{PAGE_SIZE, SECTOR_SIZE};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Version of the protocol.
pub(super) const VERSION: u32 = 1;
/// Longest message.
pub(super) const LONGEST: usize = 1 << 20;
/// Bytes of a file in one.
pub(super) const MOST_BLOB: usize = 512 << 10;
const PAGE: usize = PAGE_SIZE as usize;

/// Bytes that a migration is known by.
pub(super) type Token = [u8; 16];

macro_rules! kinds {
    ($($name:ident = $number:literal)*) => {
        mod kind {
            $(pub const $name: u8 = $number;)*
        }
    };
}
kinds! {
    HELLO = 1 BLOB = 2 BLOB_DATA = 3 MEMORY = 4 ZERO_MEMORY = 5 DISK = 6 ZERO_DISK = 7 ROUND = 8 STATE = 9 HOST = 10
    PREPARE = 11 COMMIT = 12 DONE = 13 ASK = 14
    NEEDS = 64 ACK = 65 READY = 66 RUNNING = 67 GONE = 68 FAILED = 69 SENT = 70
}

/// What a source says first.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub version: u32,
    /// By which the source asks for the migration later.
    pub token: Token,
    /// The machine's name.
    pub name: String,
    /// What it is.
    pub config: Config,
    /// Bytes of each disk, as the guest sees it.
    pub disks: Vec<u64>,
}

/// What a machine's process has sent, and what has changed meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Sent {
    pub pages: u64,
    pub disk: u64,
    pub left_pages: u64,
    pub left_disk: u64,
}

/// A message.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Message {
    /// A machine is coming. Answered by what is needed of its image's files.
    Hello(Box<Hello>),
    /// Digests of files that the target doesn't have.
    Needs(Vec<String>),
    /// So many bytes of this file follow.
    Blob(String, u64),
    /// The next of them.
    BlobData(Vec<u8>),
    /// Pages of memory that follow each other, by the number of the first.
    Memory(u64, Vec<u8>),
    /// So many pages of zeros.
    ZeroMemory(u64, u64),
    /// Bytes of a disk at an offset.
    Disk(u8, u64, Vec<u8>),
    /// Zeros of a disk: from there to there.
    ZeroDisk(u8, u64, u64),
    /// All of a round was sent. Answered once it is written down.
    Round,
    /// It is.
    Ack,
    /// Harts and devices.
    State(Vec<u8>),
    /// What the host's end of the agent's port has to know.
    Host(Vec<u8>),
    /// All was sent; the source stands still. Answered once the machine could go on.
    Prepare,
    /// It could.
    Ready,
    /// The machine is the target's now.
    Commit,
    /// It goes on there.
    Running,
    /// The source knows that.
    Done,
    /// What has become of this migration?
    Ask(Token),
    /// It was given up after it was committed; nothing runs.
    Gone,
    /// It can't be, for this reason; nothing is left of it.
    Failed(String),
    /// On the control socket: what was sent.
    Sent(Sent),
}

/// Whether messages of this kind are passed on as they are: they have what a machine is.
pub(super) fn is_content(kind: u8) -> bool {
    matches!(kind, kind::MEMORY | kind::ZERO_MEMORY | kind::DISK | kind::ZERO_DISK | kind::STATE | kind::HOST)
}

/// Bytes behind their own length, compressed if that makes them fewer.
fn pack(payload: &mut Vec<u8>, bytes: &[u8]) {
    let packed = lz4_flex::block::compress(bytes);
    payload.extend((bytes.len() as u32).to_le_bytes());
    payload.extend(if packed.len() < bytes.len() { &packed } else { bytes });
}

fn unpack(payload: &[u8], most: usize) -> Option<Vec<u8>> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > most || rest.len() > length {
        return None;
    }
    if rest.len() == length {
        return Some(rest.to_vec());
    }
    let mut bytes = vec![0; length];
    let unpacked = lz4_flex::block::decompress_into(rest, &mut bytes).ok()?;
    (unpacked == length).then_some(bytes)
}

fn number(payload: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Of what these are nothing can't be written.
    serde_json::to_vec(value).unwrap_or_default()
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Message {
    /// Its kind and payload.
    pub fn encode(&self) -> (u8, Vec<u8>) {
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        match self {
            Self::Hello(hello) => (kind::HELLO, json(hello)),
            Self::Needs(digests) => (kind::NEEDS, json(digests)),
            Self::Blob(digest, size) => (kind::BLOB, [&size.to_le_bytes()[..], digest.as_bytes()].concat()),
            Self::BlobData(bytes) => {
                let mut payload = Vec::new();
                pack(&mut payload, bytes);
                (kind::BLOB_DATA, payload)
            }
            Self::Memory(first, bytes) => Self::memory(*first, bytes),
            Self::ZeroMemory(first, pages) => (kind::ZERO_MEMORY, numbers(&[*first, *pages])),
            Self::Disk(disk, offset, bytes) => Self::disk(*disk, *offset, bytes),
            Self::ZeroDisk(disk, start, end) => {
                (kind::ZERO_DISK, [numbers(&[*start, *end]), vec![*disk]].concat())
            }
            Self::Round => (kind::ROUND, Vec::new()),
            Self::Ack => (kind::ACK, Vec::new()),
            Self::State(bytes) => (kind::STATE, bytes.clone()),
            Self::Host(bytes) => (kind::HOST, bytes.clone()),
            Self::Prepare => (kind::PREPARE, Vec::new()),
            Self::Ready => (kind::READY, Vec::new()),
            Self::Commit => (kind::COMMIT, Vec::new()),
            Self::Running => (kind::RUNNING, Vec::new()),
            Self::Done => (kind::DONE, Vec::new()),
            Self::Ask(token) => (kind::ASK, token.to_vec()),
            Self::Gone => (kind::GONE, Vec::new()),
            Self::Failed(reason) => (kind::FAILED, reason.bytes().take(4096).collect()),
            Self::Sent(sent) => (kind::SENT, json(sent)),
        }
    }

    /// Pages of memory, without a copy of them being made first.
    pub fn memory(first: u64, bytes: &[u8]) -> (u8, Vec<u8>) {
        let mut payload = first.to_le_bytes().to_vec();
        pack(&mut payload, bytes);
        (kind::MEMORY, payload)
    }

    /// The same of a disk.
    pub fn disk(disk: u8, offset: u64, bytes: &[u8]) -> (u8, Vec<u8>) {
        let mut payload = offset.to_le_bytes().to_vec();
        payload.push(disk);
        pack(&mut payload, bytes);
        (kind::DISK, payload)
    }

    /// The message of this kind and payload, if they make one.
    pub fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            kind::HELLO => Self::Hello(serde_json::from_slice(payload).ok()?),
            kind::NEEDS => Self::Needs(serde_json::from_slice(payload).ok()?),
            kind::BLOB => {
                Self::Blob(String::from_utf8(payload.get(8..)?.to_vec()).ok()?, number(payload, 0)?)
            }
            kind::BLOB_DATA => Self::BlobData(unpack(payload, MOST_BLOB)?),
            kind::MEMORY => {
                let bytes = unpack(payload.get(8..)?, MOST_PAGES * PAGE)?;
                bytes.len().is_multiple_of(PAGE).then_some(Self::Memory(number(payload, 0)?, bytes))?
            }
            kind::ZERO_MEMORY => Self::ZeroMemory(number(payload, 0)?, number(payload, 8)?),
            kind::DISK => {
                let bytes = unpack(payload.get(9..)?, MOST_BYTES as usize)?;
                let is_whole = bytes.len().is_multiple_of(SECTOR_SIZE as usize);
                is_whole.then_some(Self::Disk(payload[8], number(payload, 0)?, bytes))?
            }
            kind::ZERO_DISK => Self::ZeroDisk(*payload.get(16)?, number(payload, 0)?, number(payload, 8)?),
            kind::ROUND => Self::Round,
            kind::ACK => Self::Ack,
            kind::STATE => Self::State(payload.to_vec()),
            kind::HOST => Self::Host(payload.to_vec()),
            kind::PREPARE => Self::Prepare,
            kind::READY => Self::Ready,
            kind::COMMIT => Self::Commit,
            kind::RUNNING => Self::Running,
            kind::DONE => Self::Done,
            kind::ASK => Self::Ask(payload.try_into().ok()?),
            kind::GONE => Self::Gone,
            kind::FAILED => Self::Failed(text(payload)),
            kind::SENT => Self::Sent(serde_json::from_slice(payload).ok()?),
            _ => return None,
        })
    }

    /// Sends it; returns how many bytes that were.
    pub fn write_to(&self, stream: &mut dyn Write) -> io::Result<u64> {
        let (kind, payload) = self.encode();
        write(kind, &payload, stream)
    }

    /// Receives one.
    pub fn read_from(stream: &mut dyn Read) -> io::Result<Self> {
        let (kind, payload) = read(stream)?;
        Self::decode(kind, &payload).ok_or_else(|| nonsense(kind, &payload))
    }
}

/// Sends a message as it is.
pub(super) fn write(kind: u8, payload: &[u8], stream: &mut dyn Write) -> io::Result<u64> {
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(kind);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

/// Receives a message as it is.
pub(crate) fn read(stream: &mut dyn Read) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends a message that is too long"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((header[0], payload))
}

/// What a message is that can't be understood: one of another version, or nonsense.
fn nonsense(kind: u8, payload: &[u8]) -> io::Error {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let other = serde_json::from_slice::<Versioned>(payload).ok().filter(|_| kind == kind::HELLO);
    let text = match other {
        Some(other) if other.version != VERSION => {
            format!("it speaks version {} of the protocol, not {VERSION}; use the same Rvisor", other.version)
        }
        Some(_) => "it describes a machine that this Rvisor doesn't know; use the same Rvisor".into(),
        None => "it sends what makes no sense".into(),
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::tests::config;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let hello = Hello {
            version: VERSION,
            token: [7; 16],
            name: "web".into(),
            config: config(),
            disks: vec![512],
        };
        let noise: Vec<u8> =
            (0..2 * PAGE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let messages = [
            Message::Hello(Box::new(hello)),
            Message::Needs(vec!["0".repeat(64)]),
            Message::Blob("1".repeat(64), u64::MAX),
            Message::BlobData(vec![1; MOST_BLOB]),
            Message::Memory(5, noise),
            Message::Memory(6, vec![1; MOST_PAGES * PAGE]),
            Message::ZeroMemory(1, 2),
            Message::Disk(3, 512, vec![9; MOST_BYTES as usize]),
            Message::ZeroDisk(1, 2, 3),
            Message::Round,
            Message::State(vec![1, 2]),
            Message::Host(Vec::new()),
            Message::Ask([1; 16]),
            Message::Failed("no".into()),
            Message::Sent(Sent { pages: 1, disk: 2, left_pages: 3, left_disk: 4 }),
        ];
        let mut bytes = Vec::new();
        for message in &messages {
            message.write_to(&mut bytes).unwrap();
        }
        let mut stream = bytes.as_slice();
        for message in messages {
            assert_eq!(Message::read_from(&mut stream).unwrap(), message);
        }
        assert!(Message::read_from(&mut stream).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong: &[(u8, &[u8])] = &[
            (0, b""),
            (kind::MEMORY, b"12345678"),
            (kind::MEMORY, b"12345678\0\x10\0\0x"),
            (kind::MEMORY, b"12345678\xff\xff\xff\xffx"),
            (kind::DISK, b"123456789\x01\0\0\0x"),
            (kind::ZERO_DISK, b"12345678"),
            (kind::ASK, b"short"),
            (kind::BLOB, b"1234567"),
            (kind::HELLO, b"{}"),
        ];
        for (kind, payload) in wrong {
            assert_eq!(Message::decode(*kind, payload), None, "{kind}");
        }
        assert!(read(&mut &b"\x01\xff\xff\xff\xff"[..]).is_err());
        let told = |payload: &[u8]| nonsense(kind::HELLO, payload).to_string();
        assert!(told(b"{\"version\": 9}").contains("version 9"));
        assert!(told(b"{\"version\": 1}").contains("doesn't know"));
        assert_eq!(Message::decode(kind::FAILED, b"a\nb"), Some(Message::Failed("a b".into())));
    }
}
