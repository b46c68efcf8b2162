//! The host's end of the agent's port: commands in the guest, each a channel (the book, "The guest protocol").
//!
//! The guest isn't trusted: what it sends is bounded by what the host has said that it will take, and what makes no
//! sense is ignored.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rvisor_hosted::Wake;
use rvisor_hosted::machine::Port;
use rvisor_waist::ConsoleBackend;
use serde::{Deserialize, Serialize};

use crate::protocol::{Frame, LONGEST_FRAME, kind};

/// The port's name in the guest.
const NAME: &str = rvisor_machine::slots::AGENT_PORT;
/// Version of the protocol that this end speaks.
const VERSION: u32 = 1;
/// Bytes before a frame's payload.
const HEADER: usize = 8;
/// Input that an agent takes before it says that the command has taken some, if it says nothing else when it starts.
const LEAST_WINDOW: usize = 64 << 10;
/// The most that it may say.
const MOST_WINDOW: usize = 16 << 20;
/// Output that the agent sends before it hears that somebody has taken some.
const OUTPUT_WINDOW: usize = 256 << 10;
/// Frames of a channel that wait, at most: the window's bytes one by one would be more than it sends.
const FRAMES: usize = 1 << 16;
/// Input is sent in pieces of this size.
const PIECE: usize = 64 << 10;

/// A command for the guest.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Name and arguments.
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Where it runs.
    pub directory: String,
    /// Rows and columns of its terminal, if it is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Seconds to wait for a guest that is still starting.
    pub patience: f64,
    /// Whether it goes on without anybody who listens. The answer comes when it runs.
    #[serde(default)]
    pub detach: bool,
    /// Whether what it has written is to be on the disks before its end is told.
    #[serde(default)]
    pub is_durable: bool,
}

/// What the host has to know of an agent to go on with it later.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedLink {
    ready: bool,
    /// Bytes under way to the guest, and from it.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Input that it takes for a command.
    window: usize,
    /// The latest channel, and those that are in use.
    latest: u32,
    channels: Vec<u32>,
    /// Those of commands that are left to themselves.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    left: Vec<u32>,
}

impl ExecRequest {
    /// A command in the guest's root directory, without a terminal. It finds the programs of an administrator, and
    /// knows nothing else of where it runs but what `environment` says.
    pub fn new(command: Vec<String>, environment: impl IntoIterator<Item = String>) -> Self {
        const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let environment = [PATH.to_owned()].into_iter().chain(environment).collect();
        Self { command, environment, directory: "/".into(), ..Self::default() }
    }

    /// As the agent reads it, or why it can't be.
    fn encode(&self) -> Result<Vec<u8>, String> {
        let words = || self.environment.iter().chain(&self.command);
        if self.command.is_empty() || words().chain([&self.directory]).any(|word| word.contains('\0')) {
            return Err("a command is one word or more, without NUL characters".into());
        }
        let (rows, columns) = self.terminal.unwrap_or_default();
        let mut payload = vec![u8::from(self.terminal.is_some()) | u8::from(self.is_durable) << 1];
        for number in [rows, columns, self.environment.len() as u16] {
            payload.extend(number.to_le_bytes());
        }
        for word in [&self.directory].into_iter().chain(words()) {
            payload.extend(word.as_bytes());
            payload.push(0);
        }
        if payload.len() > LONGEST_FRAME || words().count() >= 4000 {
            return Err("the command is too long; copy its data with `rvisor cp`".into());
        }
        Ok(payload)
    }
}

/// The agent of a machine's guest.
#[derive(Clone)]
pub struct AgentLink {
    shared: Arc<(Mutex<Link>, Condvar)>,
    wake: Wake,
}

#[derive(Default)]
struct Link {
    /// What goes to the guest.
    outgoing: VecDeque<u8>,
    /// What came from it and isn't a whole frame yet.
    incoming: Vec<u8>,
    channels: HashMap<u32, ChannelState>,
    next: u32,
    /// Input that the agent takes for a command.
    window: usize,
    /// The command that runs before all others, and what is sent for those meanwhile.
    first: Option<u32>,
    held: Vec<u8>,
    /// It has said hello since the machine was powered on.
    ready: bool,
    /// How often one has.
    starts: u64,
    /// The machine has ended.
    over: bool,
}

struct ChannelState {
    frames: VecDeque<Frame>,
    /// Bytes of output in `frames`.
    waiting: usize,
    /// Bytes of input that the agent takes now.
    credit: usize,
    ended: bool,
    /// Nobody wants to hear of it any more.
    left: bool,
}

impl AgentLink {
    /// An agent of which nothing has been heard.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default(), wake: Wake::new() }
    }

    /// The port, for the machine.
    #[must_use]
    pub fn port(&self) -> Port {
        let backend = Box::new(GuestEnd(Arc::clone(&self.shared)));
        Port { name: NAME.into(), backend, wake: self.wake.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine is powered on: an agent there may have been is gone.
    pub fn reset(&self) {
        let mut link = self.lock();
        link.forget("the guest was restarted");
        link.outgoing.clear();
        link.incoming.clear();
        link.first = None;
        link.held.clear();
        self.shared.1.notify_all();
    }

    /// The machine has ended.
    pub fn close(&self) {
        let mut link = self.lock();
        link.over = true;
        link.forget("the machine has ended");
        self.shared.1.notify_all();
    }

    /// Whether the agent has answered since the machine was powered on.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Waits for that; false if it doesn't come in time.
    #[must_use]
    pub fn wait_ready(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        let mut link = self.lock();
        while !link.ready && !link.over {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return false;
            }
            link = self.shared.1.wait_timeout(link, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        link.ready
    }

    /// Waits until agents have started more often than `seen` times; returns how often, or `None` at the machine's end.
    #[must_use]
    pub fn wait_start(&self, seen: u64) -> Option<u64> {
        let waiting = |link: &mut Link| link.starts == seen && !link.over;
        let link = self.shared.1.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        (!link.over).then_some(link.starts)
    }

    fn send(&self, mut link: MutexGuard<'_, Link>, channel: u32, kind: u8, payload: &[u8]) {
        link.add(channel, kind, payload);
        drop(link);
        // Not under the lock: the device asks for it.
        self.wake.wake();
    }

    /// Asks the guest to power off; false without an agent.
    pub fn power_off(&self) -> bool {
        let link = self.lock();
        let ready = link.ready;
        if ready {
            self.send(link, 0, kind::POWER_OFF, &[]);
        }
        ready
    }

    /// Sets the guest's clock, if there is an agent.
    pub fn set_clock(&self, since_1970: Duration) {
        let link = self.lock();
        if link.ready {
            let seconds = (since_1970.as_secs() as i64).to_le_bytes();
            let nanoseconds = i64::from(since_1970.subsec_nanos()).to_le_bytes();
            self.send(link, 0, kind::CLOCK, &[seconds, nanoseconds].concat());
        }
    }

    /// Makes the guest another machine than the one that it is a copy of.
    pub(crate) fn identify(&self, identity: &[u8]) {
        let link = self.lock();
        if link.ready {
            self.send(link, 0, kind::IDENTITY, identity);
        }
    }

    /// Has the guest put the shared directories in their places; commands that it is given later find them there.
    pub(crate) fn put_shares(&self) {
        let link = self.lock();
        if link.ready {
            self.send(link, 0, kind::SHARES, &[]);
        }
    }

    /// What has to be known to go on with the agent later.
    pub(crate) fn save(&self) -> SavedLink {
        let link = self.lock();
        let open = link.channels.iter().filter(|(_, channel)| !channel.ended);
        SavedLink {
            ready: link.ready,
            outgoing: link.outgoing.iter().chain(&link.held).copied().collect(),
            incoming: link.incoming.clone(),
            window: link.window,
            latest: link.next,
            channels: open.clone().map(|(id, _)| *id).collect(),
            left: open.filter(|(_, channel)| channel.left).map(|(id, _)| *id).collect(),
        }
    }

    /// Goes on with an agent of which this was known: with one of its commands, if that is there, and those that are left to
    /// themselves; without the others, of which nobody is at the other end any more.
    pub(crate) fn restore(&self, saved: SavedLink, command: Option<u32>) -> Option<Channel> {
        let mut link = self.lock();
        link.ready = saved.ready;
        link.outgoing = saved.outgoing.into();
        link.incoming = saved.incoming;
        link.window = saved.window.clamp(1, MOST_WINDOW);
        link.next = saved.latest;
        // Each takes a thread, and what was saved may have come from anywhere.
        const MOST_LEFT: usize = 128;
        let wanted = &saved.left[..saved.left.len().min(MOST_LEFT)];
        let (left, channels): (Vec<_>, Vec<_>) =
            saved.channels.into_iter().partition(|id| wanted.contains(id) && Some(*id) != command);
        let mut alone = Vec::new();
        for id in left {
            let window = link.window;
            link.channels.insert(id, ChannelState::new(window));
            alone.push(Channel { link: self.clone(), id });
        }
        let (kept, ended): (Vec<_>, Vec<_>) = channels.into_iter().partition(|id| Some(*id) == command);
        let channel = kept.first().map(|&id| {
            let window = link.window;
            link.channels.insert(id, ChannelState::new(window));
            Channel { link: self.clone(), id }
        });
        for id in ended {
            link.add(id, kind::CLOSE, &[]);
        }
        drop(link);
        for channel in alone {
            let spawned = std::thread::Builder::new().name("client".into()).spawn(move || channel.leave());
            if let Err(error) = spawned {
                log::warn!("a command in the background is ended: {error}");
            }
        }
        channel
    }

    /// Runs a command.
    ///
    /// # Errors
    /// If there is no agent, or the command can't be sent.
    pub fn exec(&self, request: &ExecRequest) -> Result<Channel, String> {
        self.start(request, false)
    }

    /// The same; others wait until [`let_others`](Self::let_others) is called.
    pub(crate) fn exec_first(&self, request: &ExecRequest) -> Result<Channel, String> {
        self.start(request, true)
    }

    /// Runs the commands that have been waiting.
    pub(crate) fn let_others(&self) {
        let mut link = self.lock();
        link.first = None;
        let held = std::mem::take(&mut link.held);
        link.outgoing.extend(held);
        drop(link);
        self.wake.wake();
    }

    fn start(&self, request: &ExecRequest, is_first: bool) -> Result<Channel, String> {
        let payload = request.encode()?;
        let mut link = self.lock();
        if !link.ready {
            return Err("the guest's agent doesn't answer".into());
        }
        link.next = link.next.wrapping_add(1).max(1);
        let id = link.next;
        if is_first {
            link.first = Some(id);
        }
        let window = link.window;
        link.channels.insert(id, ChannelState::new(window));
        self.send(link, id, kind::EXEC, &payload);
        Ok(Channel { link: self.clone(), id })
    }
}

impl Default for AgentLink {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    fn add(&mut self, channel: u32, kind: u8, payload: &[u8]) {
        let header = [channel, u32::from(kind) << 24 | payload.len() as u32].map(u32::to_le_bytes);
        // Channel 0 is the machine's own.
        let waits = channel != 0 && self.first.is_some_and(|first| first != channel);
        for part in [&header[0][..], &header[1], payload] {
            match waits {
                true => self.held.extend(part),
                false => self.outgoing.extend(part),
            }
        }
    }

    /// Ends every channel.
    fn forget(&mut self, reason: &str) {
        self.ready = false;
        for channel in self.channels.values_mut().filter(|channel| !channel.ended) {
            channel.end(Frame::Failed(137, reason.into()));
        }
    }

    /// Takes whole frames out of what came.
    fn parse(&mut self) {
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        while let Some((header, more)) = rest.split_first_chunk::<HEADER>() {
            let word = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            let length = (word & 0xff_ffff) as usize;
            if length > LONGEST_FRAME {
                log::warn!("the guest's agent sends nonsense; it isn't listened to any more");
                self.forget("the guest's agent sends nonsense");
                return;
            }
            let Some((payload, more)) = more.split_at_checked(length) else { break };
            let channel = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            self.take(channel, (word >> 24) as u8, payload);
            rest = more;
        }
        let done = incoming.len() - rest.len();
        self.incoming = incoming;
        self.incoming.drain(..done);
    }

    fn take(&mut self, channel: u32, kind: u8, payload: &[u8]) {
        if kind == kind::HELLO {
            let version = payload.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            self.forget("the guest's agent was restarted");
            self.ready = version == VERSION;
            self.starts += u64::from(self.ready);
            let window = payload.get(5..9).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
            self.window = window.map_or(LEAST_WINDOW, |window| (window as usize).clamp(1, MOST_WINDOW));
            return;
        }
        let Some(channel) = self.channels.get_mut(&channel).filter(|channel| !channel.ended) else { return };
        if kind == kind::CREDIT_TO_HOST {
            let credit = payload.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            channel.credit = channel.credit.saturating_add(credit as usize).min(self.window);
            return;
        }
        match Frame::decode(kind, payload.to_vec()) {
            Some(frame @ (Frame::Stdout(_) | Frame::Stderr(_))) => {
                channel.waiting += payload.len();
                channel.frames.push_back(frame);
                if channel.waiting > OUTPUT_WINDOW || channel.frames.len() > FRAMES {
                    channel.end(Frame::Failed(125, "the guest's agent sends more than it may".into()));
                }
            }
            Some(Frame::Started) if channel.frames.is_empty() => channel.frames.push_back(Frame::Started),
            Some(frame @ (Frame::Exit(_) | Frame::Failed(..))) => channel.end(frame),
            _ => {}
        }
    }
}

impl ChannelState {
    fn new(credit: usize) -> Self {
        Self { frames: VecDeque::new(), waiting: 0, credit, ended: false, left: false }
    }

    fn end(&mut self, last: Frame) {
        self.frames.push_back(last);
        self.ended = true;
    }
}

/// A command in the guest. Dropping it ends the command.
pub struct Channel {
    link: AgentLink,
    id: u32,
}

impl Channel {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The next frame from the command; none come behind its end.
    #[must_use]
    pub fn receive(&self) -> Option<Frame> {
        let mut link = self.link.lock();
        loop {
            let channel = link.channels.get_mut(&self.id)?;
            if let Some(frame) = channel.frames.pop_front() {
                if let Frame::Stdout(bytes) | Frame::Stderr(bytes) = &frame {
                    channel.waiting -= bytes.len();
                }
                return Some(frame);
            }
            if channel.ended {
                return None;
            }
            link = self.link.shared.1.wait(link).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Leaves the command to itself until it ends. What it says is lost.
    pub(crate) fn leave(&self) {
        if let Some(channel) = self.link.lock().channels.get_mut(&self.id) {
            channel.left = true;
        }
        while let Some(frame) = self.receive() {
            if let Frame::Stdout(bytes) | Frame::Stderr(bytes) = frame {
                self.credit(bytes.len());
            }
        }
    }

    /// Lets the command send as many bytes more.
    pub fn credit(&self, bytes: usize) {
        let link = self.link.lock();
        if link.channels.get(&self.id).is_some_and(|channel| !channel.ended) {
            self.link.send(link, self.id, kind::CREDIT_TO_GUEST, &(bytes as u32).to_le_bytes());
        }
    }

    /// Sends a frame to the command, input as it takes it; false once it has ended.
    pub fn send(&self, frame: &Frame) -> bool {
        let Frame::Input(bytes) = frame else {
            let (kind, payload) = frame.encode();
            return self.send_now(kind, &payload);
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let mut link = self.link.lock();
            let room = loop {
                match link.channels.get_mut(&self.id).filter(|channel| !channel.ended) {
                    None => return false,
                    Some(channel) if channel.credit > 0 => {
                        let room = channel.credit.min(rest.len()).min(PIECE);
                        channel.credit -= room;
                        break room;
                    }
                    Some(_) => {
                        link = self.link.shared.1.wait(link).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            let (now, later) = rest.split_at(room);
            self.link.send(link, self.id, kind::DATA, now);
            rest = later;
        }
        true
    }

    fn send_now(&self, kind: u8, payload: &[u8]) -> bool {
        let link = self.link.lock();
        let goes_on = link.channels.get(&self.id).is_some_and(|channel| !channel.ended);
        if goes_on {
            self.link.send(link, self.id, kind, payload);
        }
        goes_on
    }

    /// Ends the command if it hasn't ended; what waits for it is told so.
    pub fn close(&self) {
        self.send_now(kind::CLOSE, &[]);
        if let Some(channel) = self.link.lock().channels.get_mut(&self.id) {
            channel.ended = true;
        }
        self.link.shared.1.notify_all();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
        self.link.lock().channels.remove(&self.id);
    }
}

struct GuestEnd(Arc<(Mutex<Link>, Condvar)>);

impl GuestEnd {
    fn lock(&self) -> MutexGuard<'_, Link> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsoleBackend for GuestEnd {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut link = self.lock();
        link.incoming.extend(bytes);
        link.parse();
        drop(link);
        self.0.1.notify_all();
        bytes.len()
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut link = self.lock();
        let mut done = 0;
        // The queue gives what lies in one piece, without errors.
        while let Ok(count @ 1..) = link.outgoing.read(&mut buffer[done..]) {
            done += count;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Guest {
        link: AgentLink,
        end: Box<dyn ConsoleBackend>,
    }

    impl Guest {
        fn new() -> Self {
            let link = AgentLink::new();
            let end = link.port().backend;
            Self { link, end }
        }

        fn says(&mut self, channel: u32, kind: u8, payload: &[u8]) {
            self.end.write(&channel.to_le_bytes());
            // In two pieces, as it may happen.
            self.end.write(&(u32::from(kind) << 24 | payload.len() as u32).to_le_bytes());
            self.end.write(payload);
        }

        fn hears(&mut self) -> (u32, u8, Vec<u8>) {
            let mut header = [0; 8];
            assert_eq!(self.end.read(&mut header), 8);
            let word = u32::from_le_bytes(header[4..].try_into().unwrap());
            let mut payload = vec![0; (word & 0xff_ffff) as usize];
            assert_eq!(self.end.read(&mut payload), payload.len());
            (u32::from_le_bytes(header[..4].try_into().unwrap()), (word >> 24) as u8, payload)
        }

        fn ready(&mut self) {
            self.says(0, kind::HELLO, &[1, 0, 0, 0, 0]);
            assert!(self.link.is_ready());
        }

        fn exec(&mut self, word: &str) -> Channel {
            let request = ExecRequest { command: vec![word.into()], ..ExecRequest::default() };
            let channel = self.link.exec(&request).unwrap();
            assert_eq!(self.hears().1, kind::EXEC);
            channel
        }
    }

    #[test]
    fn command_is_sent_and_its_output_and_end_are_received() {
        let mut guest = Guest::new();
        assert!(guest.link.exec(&ExecRequest::default()).is_err());
        guest.ready();
        let channel = guest.exec("true");
        guest.says(channel.id, kind::STDOUT, b"hello");
        guest.says(77, kind::STDOUT, b"nobody's");
        guest.says(channel.id, kind::EXIT, &[3]);
        assert_eq!(channel.receive(), Some(Frame::Stdout(b"hello".to_vec())));
        assert_eq!(channel.receive(), Some(Frame::Exit(3)));
        assert_eq!(channel.receive(), None);
        assert!(!channel.send(&Frame::InputEnd));
    }

    #[test]
    fn commands_wait_for_the_one_that_comes_first() {
        let mut guest = Guest::new();
        guest.ready();
        let request = |word: &str| ExecRequest { command: vec![word.into()], ..ExecRequest::default() };
        let first = guest.link.exec_first(&request("first")).unwrap();
        let second = guest.link.exec(&request("second")).unwrap();
        assert!(second.send(&Frame::InputEnd));
        assert!(guest.link.power_off());
        assert_eq!(guest.hears().0, first.id);
        assert_eq!(guest.hears().1, kind::POWER_OFF);
        assert_eq!(guest.end.read(&mut [0; 8]), 0);
        assert!(!guest.link.save().outgoing.is_empty());
        guest.link.let_others();
        assert_eq!((guest.hears().0, guest.hears().0), (second.id, second.id));
        // A guest that is restarted has nothing to wait for.
        let _first = guest.link.exec_first(&request("first")).unwrap();
        guest.link.reset();
        guest.ready();
        guest.exec("third");
    }

    #[test]
    fn input_waits_for_the_command_to_take_it() {
        let mut guest = Guest::new();
        guest.ready();
        let channel = guest.exec("cat");
        let id = channel.id;
        let sender = std::thread::spawn(move || channel.send(&Frame::Input(vec![1; LEAST_WINDOW + 1])));
        let mut taken = 0;
        while taken < LEAST_WINDOW {
            let mut header = [0; 8];
            if guest.end.read(&mut header) == 8 {
                let length = u32::from_le_bytes(header[4..].try_into().unwrap()) & 0xff_ffff;
                taken += guest.end.read(&mut vec![0; length as usize]);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.end.read(&mut [0; 8]), 0);
        guest.says(id, kind::CREDIT_TO_HOST, &5_u32.to_le_bytes());
        assert!(sender.join().unwrap());
        assert_eq!(guest.hears(), (id, kind::DATA, vec![1]));
        assert_eq!(guest.hears().1, kind::CLOSE, "dropped");
    }

    #[test]
    fn guest_that_sends_nonsense_or_too_much_ends_its_own_channels_only() {
        let mut guest = Guest::new();
        guest.ready();
        let channel = guest.exec("yes");
        for _ in 0..=OUTPUT_WINDOW / LONGEST_FRAME {
            guest.says(channel.id, kind::STDOUT, &vec![b'y'; LONGEST_FRAME]);
        }
        let mut last = None;
        while let Some(frame) = channel.receive() {
            last = Some(frame);
        }
        assert!(matches!(last, Some(Frame::Failed(125, _))));
        guest.end.write(&[0xff; 64]);
        assert!(!guest.link.is_ready());
        guest.link.reset();
        guest.ready();
    }

    #[test]
    fn restarted_guest_has_forgotten_its_commands() {
        let mut guest = Guest::new();
        guest.ready();
        let channel = guest.exec("sleep");
        guest.link.reset();
        assert!(matches!(channel.receive(), Some(Frame::Failed(137, _))));
        assert!(!guest.link.wait_ready(Duration::from_millis(1)));
    }
}
