#![no_main]
//! What a guest's agent says on its port, and its script on the control port, while the host uses the agent. A model of
//! the book's "The guest protocol" says what the host must make of it.

use std::collections::{HashMap, VecDeque};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_instances::{AgentLink, ExecRequest, Frame, check_control};
use rvisor_waist::ConsoleBackend;

#[derive(Arbitrary, Debug)]
enum Event {
    /// Bytes that needn't be frames.
    Raw(Vec<u8>),
    Hello {
        version: u8,
        window: Option<u32>,
    },
    Says {
        channel: u8,
        kind: Kind,
        payload: Payload,
    },
    /// A header that promises more than comes.
    Header {
        channel: u8,
        word: u32,
    },
    Exec,
    Receive(u8),
    /// Somebody has taken output.
    Credit(u8, u16),
    Input(u8, u32),
    InputEnd(u8),
    Close(u8),
    Drop(u8),
    PowerOff,
    Reset,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Stdout,
    Stderr,
    Exit,
    Failed,
    Credit,
    Started,
    Any(u8),
}

impl Kind {
    fn number(&self) -> u8 {
        match self {
            Self::Stdout => STDOUT,
            Self::Stderr => STDERR,
            Self::Exit => EXIT,
            Self::Failed => FAILED,
            Self::Credit => CREDIT,
            Self::Started => STARTED,
            Self::Any(kind) => *kind,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Bytes(Vec<u8>),
    Long(u32),
}

impl Payload {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Long(length) => vec![b'x'; *length as usize % (LONGEST + 2)],
        }
    }
}

const HELLO: u8 = 64;
const STDOUT: u8 = 65;
const STDERR: u8 = 66;
const EXIT: u8 = 67;
const FAILED: u8 = 68;
const CREDIT: u8 = 69;
const STARTED: u8 = 70;
/// Longest payload.
const LONGEST: usize = 128 << 10;
/// Output that waits, at most.
const OUTPUT: usize = 256 << 10;
/// Input that an agent takes if it says nothing else, and the most that it may say.
const LEAST_WINDOW: usize = 64 << 10;
const MOST_WINDOW: usize = 16 << 20;
/// Commands at a time, so that most of what is said is about one that is there.
const CHANNELS: usize = 4;

/// A command as the host must see it.
struct Command {
    frames: VecDeque<Frame>,
    waiting: usize,
    /// Input that the agent takes now.
    credit: usize,
    ended: bool,
}

impl Command {
    fn end(&mut self, last: Frame) {
        if !self.ended {
            self.frames.push_back(last);
        }
        self.ended = true;
    }
}

#[derive(Default)]
struct Model {
    ready: bool,
    window: usize,
    incoming: Vec<u8>,
    commands: HashMap<u32, Command>,
}

impl Model {
    fn hear(&mut self, bytes: &[u8]) {
        self.incoming.extend(bytes);
        while let Some((header, rest)) = self.incoming.split_first_chunk::<8>() {
            let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let (channel, kind, length) = (number(0), header[7], (number(4) & 0xff_ffff) as usize);
            if length > LONGEST {
                self.forget("the guest's agent sends nonsense");
                self.incoming.clear();
                return;
            }
            let Some(payload) = rest.get(..length) else { return };
            let payload = payload.to_vec();
            self.incoming.drain(..8 + length);
            self.take(channel, kind, payload);
        }
    }

    fn take(&mut self, channel: u32, kind: u8, payload: Vec<u8>) {
        let number = |at: usize| payload.get(at..at + 4).map(|it| u32::from_le_bytes(it.try_into().unwrap()));
        if kind == HELLO {
            self.forget("the guest's agent was restarted");
            self.ready = number(0) == Some(1);
            self.window = number(5).map_or(LEAST_WINDOW, |window| (window as usize).clamp(1, MOST_WINDOW));
            return;
        }
        let window = self.window;
        let Some(command) = self.commands.get_mut(&channel).filter(|command| !command.ended) else { return };
        let credit = number(0);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match (kind, payload.split_first()) {
            (CREDIT, _) => command.credit = (command.credit + credit.unwrap_or(0) as usize).min(window),
            (EXIT, Some((code, _))) => command.end(Frame::Exit(*code)),
            (FAILED, Some((code, reason))) => command.end(Frame::Failed(*code, text(reason))),
            (STARTED, _) if command.frames.is_empty() => command.frames.push_back(Frame::Started),
            (STDOUT | STDERR, _) => {
                command.waiting += payload.len();
                let is_stdout = kind == STDOUT;
                command.frames.push_back(if is_stdout {
                    Frame::Stdout(payload)
                } else {
                    Frame::Stderr(payload)
                });
                if command.waiting > OUTPUT {
                    command.end(Frame::Failed(125, "the guest's agent sends more than it may".into()));
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, reason: &str) {
        self.ready = false;
        self.commands.values_mut().for_each(|command| command.end(Frame::Failed(137, reason.into())));
    }
}

fn frame(channel: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let word = u32::from(kind) << 24 | payload.len() as u32;
    [&channel.to_le_bytes()[..], &word.to_le_bytes(), payload].concat()
}

/// What the host has said: channel, kind and payload of each frame.
fn heard(bytes: &[u8]) -> Vec<(u32, u8, Vec<u8>)> {
    let (mut frames, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (header, more) = rest.split_first_chunk::<8>().expect("a whole header");
        let word = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
        let (payload, more) = more.split_at((word & 0xff_ffff) as usize);
        assert!(payload.len() <= LONGEST);
        let channel = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        frames.push((channel, (word >> 24) as u8, payload.to_vec()));
        rest = more;
    }
    frames
}

fn read_all(port: &mut dyn ConsoleBackend, said: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let length @ 1.. = port.read(&mut buffer) {
        said.extend_from_slice(&buffer[..length]);
    }
}

fuzz_target!(|input: (Vec<Event>, &[u8], u16)| {
    let (events, control, cut) = input;
    check_control(control, usize::from(cut));

    let link = AgentLink::new();
    let mut port = link.port().backend;
    let mut model = Model::default();
    let (mut ids, mut channels) = (Vec::new(), Vec::new());
    let mut said = Vec::new();
    for event in &events {
        let at = |at: &u8| usize::from(*at) % CHANNELS;
        let bytes = match event {
            Event::Raw(bytes) => bytes.clone(),
            Event::Hello { version, window } => {
                let mut payload = vec![*version, 0, 0, 0, 0];
                payload.extend(window.iter().flat_map(|window| window.to_le_bytes()));
                frame(0, HELLO, &payload)
            }
            Event::Says { channel, kind, payload } => {
                let channel = ids.get(at(channel)).copied().unwrap_or(u32::from(*channel));
                frame(channel, kind.number(), &payload.bytes())
            }
            Event::Header { channel, word } => {
                let channel = ids.get(at(channel)).copied().unwrap_or(u32::from(*channel));
                [channel.to_le_bytes(), word.to_le_bytes()].concat()
            }
            _ => Vec::new(),
        };
        assert_eq!(port.write(&bytes), bytes.len());
        model.hear(&bytes);
        assert_eq!(link.is_ready(), model.ready);
        match event {
            Event::Exec if channels.len() < CHANNELS => {
                let request = ExecRequest::new(vec!["true".into()], []);
                let channel = link.exec(&request);
                assert_eq!(channel.is_ok(), model.ready);
                let Ok(channel) = channel else { continue };
                read_all(&mut *port, &mut said);
                let id = heard(&said).last().expect("a frame").0;
                let credit = model.window;
                let command = Command { frames: VecDeque::new(), waiting: 0, credit, ended: false };
                assert!(model.commands.insert(id, command).is_none(), "a channel of its own");
                ids.push(id);
                channels.push((id, channel));
            }
            Event::Receive(number) => {
                let Some((id, channel)) = channels.get(at(number)) else { continue };
                let command = model.commands.get_mut(id).expect("a command");
                // Else it would wait for ever.
                if command.ended || !command.frames.is_empty() {
                    let frame = command.frames.pop_front();
                    if let Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)) = &frame {
                        command.waiting -= bytes.len();
                    }
                    assert_eq!(channel.receive(), frame);
                }
            }
            Event::Credit(number, bytes) => {
                if let Some((_, channel)) = channels.get(at(number)) {
                    channel.credit(usize::from(*bytes));
                }
            }
            Event::Input(number, length) => {
                let Some((id, channel)) = channels.get(at(number)) else { continue };
                let command = model.commands.get_mut(id).expect("a command");
                // As much as is taken: for more it would wait.
                let length = (*length as usize).min(command.credit).min(1 << 20);
                assert_eq!(channel.send(&Frame::Input(vec![b'i'; length])), length == 0 || !command.ended);
                if !command.ended {
                    command.credit -= length;
                }
            }
            Event::InputEnd(number) => {
                let Some((id, channel)) = channels.get(at(number)) else { continue };
                assert_eq!(channel.send(&Frame::InputEnd), !model.commands[id].ended);
            }
            Event::Close(number) => {
                let Some((id, channel)) = channels.get(at(number)) else { continue };
                channel.close();
                model.commands.get_mut(id).expect("a command").ended = true;
            }
            Event::Drop(number) if at(number) < channels.len() => {
                drop(channels.swap_remove(at(number)));
                model.commands.remove(&ids.swap_remove(at(number)));
            }
            Event::PowerOff => assert_eq!(link.power_off(), model.ready),
            Event::Reset => {
                link.reset();
                model.forget("the guest was restarted");
                model.incoming.clear();
                said.clear();
            }
            _ => {}
        }
    }
    // What waits is bounded, and comes in order; nothing comes behind the end.
    for (id, channel) in &channels {
        channel.close();
        let command = model.commands.remove(id).expect("a command");
        assert!(command.waiting <= OUTPUT + LONGEST);
        for frame in command.frames {
            assert_eq!(channel.receive(), Some(frame));
        }
        assert_eq!(channel.receive(), None);
    }
    read_all(&mut *port, &mut said);
    heard(&said);
});
