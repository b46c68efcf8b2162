//! One command: its process, its streams, and how much the host is ready to take.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::ptr;

use crate::frames::{Port, from_guest, to_guest};
use crate::sys::{self, Fd, PollFd};

/// Commands at a time.
pub const SESSIONS: usize = 24;
/// Input that waits for a command, at most; the host hears of it at the start. A host that is slow to wake up has more to
/// do each time if it is large. What is never used takes no memory.
pub const INPUT: usize = 1 << 20;
/// Output that may be under way to the host before it says that it has taken some.
const WINDOW: u32 = 256 << 10;
/// Most words of a command, and of its environment.
const WORDS: usize = 4096;
/// Bytes read from a command at a time.
const CHUNK: usize = 32 << 10;

/// A command that runs, or room for one.
pub struct Session {
    /// Zero: none.
    channel: u32,
    process: i32,
    /// Readable when the process has ended.
    watch: Fd,
    input: Fd,
    /// Standard output or the terminal; standard error.
    outputs: [Fd; 2],
    is_terminal: bool,
    /// What it has written is to be on the disks before its end is told.
    is_durable: bool,
    credit: u32,
    exited: Option<u8>,
    input_ended: bool,
    waiting: [u8; INPUT],
    waiting_start: usize,
    waiting_length: usize,
}

impl Session {
    /// All zeros, so that the table takes no room in the program's file; see [`table`].
    const ZERO: Self = Self {
        channel: 0,
        process: 0,
        watch: Fd(0),
        input: Fd(0),
        outputs: [Fd(0); 2],
        is_terminal: false,
        is_durable: false,
        credit: 0,
        exited: None,
        input_ended: false,
        waiting: [0; INPUT],
        waiting_start: 0,
        waiting_length: 0,
    };
}

struct Table(UnsafeCell<[Session; SESSIONS]>);

// SAFETY: the agent has one thread.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([const { Session::ZERO }; SESSIONS]));

/// The one table of sessions. To be called once.
pub fn table() -> &'static mut [Session; SESSIONS] {
    // SAFETY: it is called once, so there is one reference; see `main`.
    let table = unsafe { &mut *TABLE.0.get() };
    for session in &mut *table {
        (session.watch, session.input, session.outputs) = (Fd(-1), Fd(-1), [Fd(-1); 2]);
    }
    table
}

/// What the host wants to be run.
pub struct Request<'a> {
    terminal: Option<(u16, u16)>,
    is_durable: bool,
    /// Environment words, then the command's, each with its NUL.
    directory: &'a CStr,
    environment: usize,
    words: &'a [u8],
}

impl<'a> Request<'a> {
    /// Flags (1: terminal, 2: durable), rows, columns, number of environment words; then, each with a NUL behind it, the
    /// directory, the environment, the command's words.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (head, rest) = payload.split_first_chunk::<7>()?;
        let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let terminal = (head[0] & 1 != 0).then(|| (number(1), number(3)));
        let directory = CStr::from_bytes_until_nul(rest).ok()?;
        let words = &rest[directory.count_bytes() + 1..];
        let environment = usize::from(number(5));
        let count = words.iter().filter(|byte| **byte == 0).count();
        (words.ends_with(&[0]) && count > environment && count < WORDS).then_some(Self {
            terminal,
            is_durable: head[0] & 2 != 0,
            directory,
            environment,
            words,
        })
    }
}

impl Session {
    /// Whether this is the session of a channel; channel 0 asks for a free one.
    pub fn is(&self, channel: u32) -> bool {
        self.channel == channel
    }

    /// Runs the command.
    pub fn start(&mut self, channel: u32, request: &mut Request<'_>, port: Port) {
        match self.spawn(request) {
            Ok(()) => {
                (self.channel, self.credit, self.exited) = (channel, WINDOW, None);
                self.is_durable = request.is_durable;
                (self.waiting_start, self.waiting_length, self.input_ended) = (0, 0, false);
                port.send(channel, from_guest::STARTED, &[]);
            }
            Err(Failure::NotFound) => port.refuse(channel, 127, b"there is no such command"),
            Err(Failure::NotExecutable) => port.refuse(channel, 126, b"it can't be executed"),
            Err(Failure::NoDirectory) => port.refuse(channel, 126, b"there is no such directory"),
            Err(Failure::Guest) => port.refuse(channel, 125, b"the guest has no process or terminal to give"),
        }
    }

    fn spawn(&mut self, request: &Request<'_>) -> Result<(), Failure> {
        let (ours, theirs) = Streams::open(request.terminal)?;
        let (report, reporter) = sys::pipe().map_err(|_| Failure::Guest)?;
        let process = match sys::fork() {
            Ok(Some(process)) => process,
            Ok(None) => {
                let failure = become_command(request, &theirs);
                sys::write_all(reporter, &[failure as u8]);
                sys::exit(127);
            }
            Err(_) => return Err(Failure::Guest),
        };
        theirs.close();
        sys::close(reporter);
        let mut failure = [0];
        let failed = matches!(sys::read_all(report, &mut failure), Ok(1));
        sys::close(report);
        let watch = sys::watch(process);
        if failed || watch.is_err() {
            sys::kill(process, sys::SIGKILL);
            sys::wait(process);
            ours.close();
            return Err(Failure::from_byte(failure[0]));
        }
        self.process = process;
        self.watch = watch.unwrap_or(Fd(-1));
        (self.input, self.outputs, self.is_terminal) =
            (ours.input, [ours.output, ours.error], request.terminal.is_some());
        for fd in [ours.input, ours.output, ours.error] {
            sys::set_non_blocking(fd);
        }
        Ok(())
    }

    /// A frame from the host.
    pub fn take(&mut self, kind: u8, payload: &[u8], port: Port) {
        let number =
            |at: usize| payload.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        match kind {
            to_guest::DATA => {
                self.keep(&payload[..payload.len().min(INPUT - self.waiting_length)]);
                self.feed(port);
            }
            to_guest::END => {
                self.input_ended = true;
                self.feed(port);
            }
            to_guest::RESIZE if self.is_terminal => sys::set_window(self.outputs[0], number(0), number(2)),
            to_guest::SIGNAL if self.exited.is_none() => {
                sys::kill(self.process, payload.first().copied().unwrap_or(0).into());
            }
            to_guest::CREDIT => {
                let credit = payload.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                self.credit = self.credit.saturating_add(credit);
            }
            to_guest::CLOSE => {
                if self.exited.is_none() {
                    // Its whole session: it is the leader of one.
                    sys::kill(-self.process, sys::SIGHUP);
                    sys::kill(-self.process, sys::SIGKILL);
                    sys::wait(self.process);
                }
                self.free();
            }
            _ => {}
        }
    }

    /// Adds to what waits; there is room.
    fn keep(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = (self.waiting_start + self.waiting_length) % INPUT;
            let length = bytes.len().min(INPUT - end);
            self.waiting[end..end + length].copy_from_slice(&bytes[..length]);
            self.waiting_length += length;
            bytes = &bytes[length..];
        }
    }

    /// What to wait for: four entries.
    pub fn poll(&self, polled: &mut [PollFd]) {
        if self.channel == 0 {
            return;
        }
        if self.exited.is_none() {
            polled[0] = PollFd::reading(self.watch);
        }
        if self.credit > 0 {
            polled[1] = PollFd::reading(self.outputs[0]);
            polled[2] = PollFd::reading(self.outputs[1]);
        }
        if self.waiting_length > 0 {
            polled[3] = PollFd::writing(self.input);
        }
    }

    /// Does what can be done now.
    pub fn work(&mut self, polled: &[PollFd], port: Port) {
        if self.channel == 0 {
            return;
        }
        if polled[0].is_ready() && self.exited.is_none() {
            self.exited = Some(sys::wait(self.process));
        }
        if polled[3].is_ready() {
            self.feed(port);
        }
        let mut is_quiet = true;
        for number in 0..self.outputs.len() {
            if polled[1 + number].is_ready() || self.exited.is_some() {
                is_quiet &= self.forward(number, port);
            }
        }
        if let (Some(code), true) = (self.exited, is_quiet) {
            if self.is_durable {
                sys::sync();
            }
            port.send(self.channel, from_guest::EXIT, &[code]);
            self.free();
        }
    }

    /// Sends output on; true if there is no more for now.
    fn forward(&mut self, number: usize, port: Port) -> bool {
        let kind = [from_guest::STDOUT, from_guest::STDERR][number];
        let mut chunk = [0; CHUNK];
        while self.outputs[number].is_open() {
            if self.credit == 0 {
                return false;
            }
            let most = CHUNK.min(self.credit as usize);
            match sys::read(self.outputs[number], &mut chunk[..most]) {
                Ok(length @ 1..) => {
                    self.credit -= length as u32;
                    port.send(self.channel, kind, &chunk[..length]);
                }
                Err(sys::EAGAIN) => return true,
                _ => self.close_output(number),
            }
        }
        true
    }

    fn close_output(&mut self, number: usize) {
        if self.input == self.outputs[number] {
            self.input = Fd(-1);
        }
        sys::close(self.outputs[number]);
        self.outputs[number] = Fd(-1);
    }

    /// Gives the command what waits for it.
    fn feed(&mut self, port: Port) {
        let mut taken = 0;
        while self.waiting_length > 0 {
            let end = (self.waiting_start + self.waiting_length).min(INPUT);
            let length = match sys::write(self.input, &self.waiting[self.waiting_start..end]) {
                Ok(length) => length,
                Err(sys::EAGAIN) => break,
                // Nobody reads it any more.
                Err(_) => end - self.waiting_start,
            };
            self.waiting_start = (self.waiting_start + length) % INPUT;
            self.waiting_length -= length;
            taken += length as u32;
        }
        if taken > 0 {
            port.send(self.channel, from_guest::CREDIT, &taken.to_le_bytes());
        }
        if self.input_ended && self.waiting_length == 0 && !self.is_terminal {
            sys::close(self.input);
            self.input = Fd(-1);
        }
    }

    fn free(&mut self) {
        if self.input != self.outputs[0] {
            sys::close(self.input);
        }
        sys::close(self.outputs[0]);
        sys::close(self.outputs[1]);
        sys::close(self.watch);
        (self.input, self.outputs, self.watch) = (Fd(-1), [Fd(-1); 2], Fd(-1));
        self.channel = 0;
    }
}

/// Why a command can't be run.
#[derive(Clone, Copy)]
enum Failure {
    NotFound = 1,
    NotExecutable,
    NoDirectory,
    Guest,
}

impl Failure {
    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::NotFound,
            2 => Self::NotExecutable,
            3 => Self::NoDirectory,
            _ => Self::Guest,
        }
    }
}

/// One end of a command's streams.
#[derive(Clone, Copy)]
struct Streams {
    input: Fd,
    output: Fd,
    error: Fd,
}

impl Streams {
    /// The agent's end and the command's: a terminal with these rows and columns, or pipes.
    fn open(terminal: Option<(u16, u16)>) -> Result<(Self, Self), Failure> {
        let failed = |_| Failure::Guest;
        if let Some((rows, columns)) = terminal {
            let (ours, theirs) = sys::terminal().map_err(failed)?;
            sys::set_window(ours, rows, columns);
            let ours = Self { input: ours, output: ours, error: Fd(-1) };
            return Ok((ours, Self { input: theirs, output: theirs, error: theirs }));
        }
        let (their_input, input) = sys::pipe().map_err(failed)?;
        sys::enlarge_pipe(input);
        let (output, their_output) = sys::pipe().map_err(failed)?;
        let (error, their_error) = sys::pipe().map_err(failed)?;
        let theirs = Self { input: their_input, output: their_output, error: their_error };
        Ok((Self { input, output, error }, theirs))
    }

    fn close(self) {
        sys::close(self.input);
        if self.output != self.input {
            sys::close(self.output);
            sys::close(self.error);
        }
    }
}

/// Becomes the command; comes back only if that fails.
fn become_command(request: &Request<'_>, streams: &Streams) -> Failure {
    sys::new_session();
    sys::default_signals();
    if request.terminal.is_some() {
        sys::control_terminal(streams.input);
    }
    for (fd, number) in [(streams.input, 0), (streams.output, 1), (streams.error, 2)] {
        sys::duplicate(fd, number);
    }
    if sys::change_directory(request.directory).is_err() {
        return Failure::NoDirectory;
    }
    // Pointers to each word, a null pointer behind the environment and behind the command.
    let mut words: [*const c_char; WORDS + 2] = [ptr::null(); WORDS + 2];
    let (mut rest, mut number, mut search) = (request.words, 0, c"/usr/bin:/bin");
    let mut command = c"";
    while let Ok(word) = CStr::from_bytes_until_nul(rest) {
        rest = &rest[word.count_bytes() + 1..];
        if number < request.environment {
            words[number] = word.as_ptr();
            if word.to_bytes().starts_with(b"PATH=") {
                search = &word[5..];
            }
        } else {
            words[number + 1] = word.as_ptr();
            if number == request.environment {
                command = word;
            }
        }
        number += 1;
    }
    let (environment, arguments) = words.split_at(request.environment + 1);
    execute(command, search, arguments, environment)
}

/// Executes a command, found in the directories of `search` if its name has no slash.
fn execute(
    command: &CStr,
    search: &CStr,
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> Failure {
    let name = command.to_bytes_with_nul();
    if name.contains(&b'/') {
        return failure_of(sys::execute(command, arguments, environment));
    }
    let mut failure = Failure::NotFound;
    for directory in search.to_bytes().split(|byte| *byte == b':') {
        let mut path = [0; 1024];
        let length = directory.len() + 1 + name.len();
        if length > path.len() || name.len() == 1 {
            continue;
        }
        path[..directory.len()].copy_from_slice(directory);
        path[directory.len()] = b'/';
        path[directory.len() + 1..length].copy_from_slice(name);
        let Ok(path) = CStr::from_bytes_with_nul(&path[..length]) else { continue };
        if let Failure::NotExecutable = failure_of(sys::execute(path, arguments, environment)) {
            failure = Failure::NotExecutable;
        }
    }
    failure
}

fn failure_of(error: sys::Error) -> Failure {
    if error == sys::ENOENT || error == sys::ENOTDIR { Failure::NotFound } else { Failure::NotExecutable }
}

/// Runs a program to its end, and returns its code.
pub fn run(command: &[&CStr]) -> u8 {
    match sys::fork() {
        Ok(Some(process)) => return sys::wait(process),
        Ok(None) => {}
        Err(_) => return 1,
    }
    sys::new_session();
    sys::default_signals();
    let mut words = [ptr::null(); 8];
    for (place, word) in words[..7].iter_mut().zip(command) {
        *place = word.as_ptr();
    }
    let path = c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".as_ptr();
    sys::execute(command[0], &words, &[path, ptr::null()]);
    sys::exit(127)
}
