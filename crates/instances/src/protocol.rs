//! What commands and a machine's process say to each other on its control socket (the book, "The control socket").
//!
//! A client sends one line of JSON and gets one back. After the answer to some requests the connection carries
//! frames in both directions until one side closes it.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Longest line.
pub(crate) const LONGEST_LINE: usize = 1 << 20;
/// Longest payload of a frame.
pub(crate) const LONGEST_FRAME: usize = 128 << 10;

/// Kinds of frames. Those of a command in the guest are the agent's too.
pub(crate) mod kind {
    pub const EXEC: u8 = 1;
    pub const DATA: u8 = 2;
    pub const END: u8 = 3;
    pub const RESIZE: u8 = 4;
    pub const SIGNAL: u8 = 5;
    pub const CREDIT_TO_GUEST: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const POWER_OFF: u8 = 8;
    pub const CLOCK: u8 = 9;
    pub const IDENTITY: u8 = 10;
    pub const SHARES: u8 = 11;
    pub const HELLO: u8 = 64;
    pub const STDOUT: u8 = 65;
    pub const STDERR: u8 = 66;
    pub const EXIT: u8 = 67;
    pub const FAILED: u8 = 68;
    pub const CREDIT_TO_HOST: u8 = 69;
    pub const STARTED: u8 = 70;
}

/// What a client sends first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Envelope {
    pub version: u32,
    pub request: Request,
}

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the machine is right now.
    Inspect,
    /// What it uses and has done.
    Stats,
    /// End it: ask the guest, and after so many seconds don't ask. Answered when it has ended.
    Stop { seconds: f64 },
    /// End it without asking. Answered when it has ended.
    Kill,
    /// Ask the guest to end it. Answered when it was asked.
    PowerOff,
    /// Stop its harts.
    Pause,
    /// Let them go on.
    Resume,
    /// Answered when it has ended.
    Wait,
    /// What is forwarded to its network.
    Ports,
    /// Forward a port of the host, as on the command line.
    AddPort(String),
    /// Forward it no longer.
    RemovePort(String),
    /// Save it: lines, as `saving` has them.
    Save,
    /// Move it to another host: words and messages, as `migration` has them.
    Migrate,
    /// Frames: what it says on its console or its command's streams; what is typed.
    Attach,
    /// Frames: gdb's remote serial protocol, as input and output.
    Debug,
    /// Frames: a recording of what its harts do, as output; an end of input ends it.
    Trace(TraceRequest),
    /// Frames: a command in the guest.
    Exec(crate::agent::ExecRequest),
}

/// What of a machine is recorded, and what becomes of it.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Kinds of events, separated by commas; all if there are none.
    pub only: Option<String>,
    /// After how many seconds it ends; none: when the client says so.
    pub seconds: Option<f64>,
    /// A story to tell instead: `syscall` or `tlb-miss`.
    pub story: Option<String>,
}

/// The machine's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply<T> {
    Ok(T),
    Error(String),
}

/// A machine that runs, as its process knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Live {
    /// The process.
    pub pid: u32,
    /// Whether its harts are stopped.
    pub paused: bool,
    /// Whether the guest's agent has answered since it was powered on.
    pub agent: bool,
    /// Whether the guest is up and only waits for a command.
    #[serde(default)]
    pub ready: bool,
}

/// How a machine ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub exit_code: u8,
}

/// What a machine uses and has done since it was started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// When this was so: nanoseconds since the machine was started.
    pub time: u64,
    /// Nanoseconds of the host's processors that its process has used.
    pub processor: u64,
    /// Bytes of the host's memory that its process has now.
    pub memory: u64,
    /// The same, of which what it shares with other processes counts by its part.
    #[serde(default)]
    pub memory_proportional: u64,
    /// Bytes of the host's memory that only it has, and that would be free without it.
    #[serde(default)]
    pub memory_private: u64,
    /// How often its threads have waited and were woken.
    #[serde(default)]
    pub wakeups: u64,
    /// Bytes of RAM that the guest was given.
    pub memory_limit: u64,
    /// Threads of its process.
    pub threads: u64,
    /// Each hart's exits.
    pub harts: Vec<HartStats>,
    /// Each disk: `incoming` was read.
    pub disks: Vec<Transfer>,
    /// The network card, as the guest sees it.
    pub network: Option<Transfer>,
}

/// How often a hart handed control back to the monitor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HartStats {
    /// Slices used up.
    pub budget: u64,
    /// Accesses to devices.
    pub device: u64,
    /// Calls of the SBI.
    pub sbi: u64,
    /// Waits for an interrupt.
    pub wait: u64,
}

/// What a device has moved.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes to the guest.
    pub incoming_bytes: u64,
    /// In so many requests or frames.
    pub incoming: u64,
    /// Bytes from the guest.
    pub outgoing_bytes: u64,
    /// In so many requests or frames.
    pub outgoing: u64,
}

/// Reads one line, without what comes behind it.
pub(crate) fn read_line(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    // Byte by byte: frames may follow at once. Lines are short and rare.
    while line.len() < LONGEST_LINE {
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => return Ok(line),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"))
}

/// Writes a value as one line.
pub(crate) fn write_line(stream: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// A piece of a stream, or word about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Input.
    Input(Vec<u8>),
    /// No more input.
    InputEnd,
    /// The terminal has so many rows and columns.
    Resize(u16, u16),
    /// A signal for the command.
    Signal(u8),
    /// Output.
    Stdout(Vec<u8>),
    /// Output for standard error.
    Stderr(Vec<u8>),
    /// The command runs.
    Started,
    /// The end, with an exit code.
    Exit(u8),
    /// It couldn't be: an exit code and why.
    Failed(u8, String),
}

impl Frame {
    /// Its kind and payload, as they are sent.
    pub(crate) fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Input(bytes) => (kind::DATA, bytes.clone()),
            Self::InputEnd => (kind::END, Vec::new()),
            Self::Resize(rows, columns) => {
                (kind::RESIZE, [rows.to_le_bytes(), columns.to_le_bytes()].concat())
            }
            Self::Signal(signal) => (kind::SIGNAL, vec![*signal]),
            Self::Stdout(bytes) => (kind::STDOUT, bytes.clone()),
            Self::Stderr(bytes) => (kind::STDERR, bytes.clone()),
            Self::Started => (kind::STARTED, Vec::new()),
            Self::Exit(code) => (kind::EXIT, vec![*code]),
            Self::Failed(code, reason) => (kind::FAILED, [&[*code], reason.as_bytes()].concat()),
        }
    }

    /// The frame of this kind and payload, if they make one.
    pub(crate) fn decode(kind: u8, payload: Vec<u8>) -> Option<Self> {
        let number = |at: usize| Some(u16::from_le_bytes(payload.get(at..at + 2)?.try_into().ok()?));
        Some(match kind {
            kind::DATA => Self::Input(payload),
            kind::END => Self::InputEnd,
            kind::RESIZE => Self::Resize(number(0)?, number(2)?),
            kind::SIGNAL => Self::Signal(*payload.first()?),
            kind::STDOUT => Self::Stdout(payload),
            kind::STDERR => Self::Stderr(payload),
            kind::STARTED => Self::Started,
            kind::EXIT => Self::Exit(*payload.first()?),
            kind::FAILED => {
                let (code, reason) = payload.split_first()?;
                Self::Failed(*code, String::from_utf8_lossy(reason).into_owned())
            }
            _ => return None,
        })
    }

    /// Sends it: kind, length (little-endian), payload.
    pub(crate) fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.encode();
        let mut bytes = vec![kind];
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(payload);
        stream.write_all(&bytes)
    }

    /// Receives the next one; `None` at the end.
    pub(crate) fn read_from(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let wrong = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        let mut header = [0; 5];
        if stream.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut header[1..])?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > LONGEST_FRAME {
            return Err(wrong("a frame is too long"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        Self::decode(header[0], payload).map(Some).ok_or_else(|| wrong("a frame makes no sense"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let frames = [
            Frame::Input(b"in".to_vec()),
            Frame::InputEnd,
            Frame::Resize(24, 80),
            Frame::Signal(2),
            Frame::Stdout(vec![0; LONGEST_FRAME]),
            Frame::Stderr(Vec::new()),
            Frame::Started,
            Frame::Exit(7),
            Frame::Failed(127, "no".into()),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write_to(&mut bytes).unwrap());
        let mut stream = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read_from(&mut stream).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read_from(&mut stream).unwrap(), None);
    }

    #[test]
    fn wrong_frames_and_endless_lines_return_error() {
        for bytes in [&b"\x02\xff\xff\xff\xff"[..], b"\x02\x05\0\0\0ab", b"\xee\0\0\0\0", b"\x04\x01\0\0\0x"]
        {
            assert!(Frame::read_from(&mut { bytes }).is_err(), "{bytes:?}");
        }
        assert!(read_line(&mut io::repeat(b'x')).is_err());
        assert!(read_line(&mut &b"no end"[..]).is_err());
    }
}
