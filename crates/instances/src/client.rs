//! A command's end of a machine's control socket.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agent::ExecRequest;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::protocol::{
    Ended, Envelope, Frame, Live, Reply, Request, Stats, TraceRequest, VERSION, read_line, write_line,
};
use crate::saving::{self, Step};

/// How long a process that has the lock may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer that nothing has to be waited for may take.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a process may take for either before a listing goes on without it.
const HASTE: Duration = Duration::from_secs(1);

/// A machine that runs in another process.
pub struct Client<'a> {
    directory: &'a Directory,
    patience: Duration,
    answer: Duration,
}

impl<'a> Client<'a> {
    /// The machine of this directory.
    #[must_use]
    pub fn new(directory: &'a Directory) -> Self {
        Self { directory, patience: PATIENCE, answer: ANSWER }
    }

    /// The same for who has many to ask: one whose process doesn't answer at once isn't waited for.
    #[must_use]
    pub fn hasty(directory: &'a Directory) -> Self {
        Self { directory, patience: HASTE, answer: HASTE }
    }

    fn connect(&self) -> Result<UnixStream> {
        let deadline = Instant::now() + self.patience;
        loop {
            match UnixStream::connect(self.directory.socket()) {
                Ok(stream) => return Ok(stream),
                Err(_) if !self.directory.is_running()? => {
                    return Err(Error::NotRunning(self.directory.name().to_owned()));
                }
                // It is starting, or ending.
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(self.no_answer(&error)),
            }
        }
    }

    fn no_answer(&self, error: &io::Error) -> Error {
        Error::NoAnswer { name: self.directory.name().to_owned(), reason: error.to_string() }
    }

    fn send(&self, request: &Request) -> Result<UnixStream> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            version: u32,
            request: &'a Request,
        }
        let mut stream = self.connect()?;
        let sent = write_line(&mut stream, &Borrowed { version: VERSION, request });
        sent.map_err(|error| self.no_answer(&error))?;
        Ok(stream)
    }

    fn ask<T: DeserializeOwned>(&self, request: Request, limit: Option<Duration>) -> Result<(T, UnixStream)> {
        let mut stream = self.connect()?;
        let exchange = || {
            stream.set_read_timeout(limit)?;
            write_line(&mut stream, &Envelope { version: VERSION, request })?;
            let line = read_line(&mut stream)?;
            stream.set_read_timeout(None)?;
            Ok(serde_json::from_slice::<Answer<T>>(&line)?)
        };
        let answer = exchange().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Error::Refused(format!("machine {} has ended", self.directory.name()))
            }
            _ => self.no_answer(&error),
        })?;
        match answer.reply {
            Reply::Ok(value) => Ok((value, stream)),
            Reply::Error(text) => Err(Error::Refused(text)),
        }
    }

    /// How the machine is right now.
    ///
    /// # Errors
    /// If it isn't running or doesn't answer; the same for the others.
    pub fn live(&self) -> Result<Live> {
        Ok(self.ask(Request::Inspect, Some(self.answer))?.0)
    }

    /// What the machine uses and has done.
    ///
    /// # Errors
    /// See [`live`](Self::live).
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.ask(Request::Stats, Some(self.answer))?.0)
    }

    /// Ends the machine: asks the guest, and after `patience` doesn't ask. Returns its exit code.
    ///
    /// # Errors
    /// See [`live`](Self::live).
    pub fn stop(&self, patience: Duration) -> Result<u8> {
        self.end(Request::Stop { seconds: patience.as_secs_f64() })
    }

    /// Ends the machine without asking. Returns its exit code.
    ///
    /// # Errors
    /// See [`live`](Self::live).
    pub fn kill(&self) -> Result<u8> {
        match self.ask::<Ended>(Request::Kill, Some(self.answer)) {
            Ok((ended, _)) => {
                self.directory.wait()?;
                Ok(ended.exit_code)
            }
            Err(Error::NoAnswer { .. }) => self.kill_process(),
            Err(error) => Err(error),
        }
    }

    /// Ends a process that doesn't listen.
    fn kill_process(&self) -> Result<u8> {
        let pid = self.directory.state()?.pid;
        // The lock is held, so the process that has written its number there is the one that holds it.
        if self.directory.is_running()?
            && let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            self.directory.wait()?;
        }
        Ok(137)
    }

    /// Asks the guest to power off, and leaves it at that.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if the machine is paused, or its guest has no agent.
    pub fn power_off(&self) -> Result<()> {
        self.ask(Request::PowerOff, Some(self.answer)).map(|((), _)| ())
    }

    /// Waits for the machine's end. Returns its exit code.
    ///
    /// # Errors
    /// See [`live`](Self::live).
    pub fn wait(&self) -> Result<u8> {
        self.end(Request::Wait)
    }

    fn end(&self, request: Request) -> Result<u8> {
        let (ended, stream) = self.ask::<Ended>(request, None)?;
        drop(stream);
        // Now its process cleans up.
        self.directory.wait()?;
        Ok(ended.exit_code)
    }

    /// Stops the harts.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if it is paused already.
    pub fn pause(&self) -> Result<()> {
        self.ask(Request::Pause, Some(self.answer)).map(|((), _)| ())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if it isn't paused.
    pub fn resume(&self) -> Result<()> {
        self.ask(Request::Resume, Some(self.answer)).map(|((), _)| ())
    }

    /// What is forwarded to the machine, as on the command line.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if it has no network. The same for the next two.
    pub fn ports(&self) -> Result<Vec<String>> {
        Ok(self.ask(Request::Ports, Some(self.answer))?.0)
    }

    /// Forwards a port of the host until the machine ends.
    ///
    /// # Errors
    /// If it can't be listened on.
    pub fn add_port(&self, port: &str) -> Result<()> {
        self.ask(Request::AddPort(port.to_owned()), Some(self.answer)).map(|((), _)| ())
    }

    /// Forwards it no longer.
    ///
    /// # Errors
    /// If it isn't forwarded.
    pub fn remove_port(&self, port: &str) -> Result<()> {
        self.ask(Request::RemovePort(port.to_owned()), Some(self.answer)).map(|((), _)| ())
    }

    /// Has the machine's process write down its memory, for a start.
    ///
    /// # Errors
    /// If it can't.
    pub(crate) fn save(&self) -> Result<Saving> {
        let stream = self.send(&Request::Save)?;
        let mut saving = Saving { stream, name: self.directory.name().to_owned() };
        saving.step()?;
        Ok(saving)
    }

    /// Has the machine's process send the machine, a step at a time. Returns the sizes of its disks, too.
    ///
    /// # Errors
    /// If it can't be moved.
    pub(crate) fn migrate(&self) -> Result<(Moving, Vec<u64>)> {
        let (disks, stream) = self.ask(Request::Migrate, Some(self.answer))?;
        Ok((Moving { stream, name: self.directory.name().to_owned() }, disks))
    }

    /// Listens to what the machine says, and may type.
    ///
    /// # Errors
    /// See [`live`](Self::live).
    pub fn attach(&self) -> Result<Session> {
        Ok(Session { stream: self.ask::<()>(Request::Attach, Some(self.answer))?.1 })
    }

    /// Records what the machine's harts do: the session's output is the file, and the end of input ends it.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if it is paused, or being recorded already.
    pub fn trace(&self, request: TraceRequest) -> Result<Session> {
        Ok(Session { stream: self.ask::<()>(Request::Trace(request), Some(self.answer))?.1 })
    }

    /// Stops the machine for gdb, whose remote serial protocol the session's input and output are.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if it is paused, or has a debugger already.
    pub fn debug(&self) -> Result<Session> {
        Ok(Session { stream: self.ask::<()>(Request::Debug, Some(self.answer))?.1 })
    }

    /// Runs a command in the guest.
    ///
    /// # Errors
    /// See [`live`](Self::live); or if the guest has no agent.
    pub fn exec(&self, request: ExecRequest) -> Result<Session> {
        let limit = self.answer + Duration::try_from_secs_f64(request.patience).unwrap_or_default();
        Ok(Session { stream: self.ask::<()>(Request::Exec(request), Some(limit))?.1 })
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    reply: Reply<T>,
}

/// A machine that is being saved, until this is dropped.
pub(crate) struct Saving {
    stream: UnixStream,
    name: String,
}

impl Saving {
    /// Stops the machine, and has the rest written down.
    pub fn freeze(&mut self) -> Result<()> {
        self.say(saving::FREEZE).map(|_| ())
    }

    /// Lets it go on. Returns for how many microseconds it stood still.
    pub fn thaw(&mut self) -> Result<u64> {
        self.say(saving::THAW)
    }

    fn say(&mut self, word: &[u8]) -> Result<u64> {
        let sent = self.stream.write_all(word).and_then(|()| self.stream.write_all(b"\n"));
        sent.map_err(|_| self.ended())?;
        self.step()
    }

    fn step(&mut self) -> Result<u64> {
        let line = read_line(&mut self.stream).map_err(|_| self.ended())?;
        match serde_json::from_slice(&line) {
            Ok(Step::Done(time)) => Ok(time),
            Ok(Step::Failed(reason)) => Err(Error::Refused(reason)),
            // It speaks another version of the protocol, and has said so.
            Err(_) => Err(Error::Refused(String::from_utf8_lossy(&line).into_owned())),
        }
    }

    fn ended(&self) -> Error {
        Error::Refused(format!("machine {} has ended", self.name))
    }
}

/// A machine that is being moved. It goes on when this is dropped, unless it was handed over.
pub(crate) struct Moving {
    stream: UnixStream,
    name: String,
}

impl Moving {
    /// Says which step is to be done.
    pub fn say(&mut self, word: &str) -> Result<()> {
        let sent = self.stream.write_all(word.as_bytes()).and_then(|()| self.stream.write_all(b"\n"));
        sent.map_err(|_| self.ended())
    }

    /// The next message, as it is.
    pub fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        crate::migration::read_message(&mut self.stream).map_err(|_| self.ended())
    }

    /// Why nothing comes any more.
    pub fn ended(&self) -> Error {
        Error::Refused(format!("machine {} has ended", self.name))
    }
}

/// Frames to and from a machine.
pub struct Session {
    stream: UnixStream,
}

impl Session {
    /// Another handle on the same session, for another thread.
    ///
    /// # Errors
    /// If the host has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If nobody is there any more.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        frame.write_to(&mut self.stream)
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn receive(&mut self) -> io::Result<Option<Frame>> {
        Frame::read_from(&mut self.stream)
    }

    /// Ends the session, for all handles.
    pub fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
