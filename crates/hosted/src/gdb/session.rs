//! One gdb at work: what it sends and what the harts do come to one thread, which talks to both.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use rvisor_hart::DebugHit;
use rvisor_machine::{DebugStop, PowerRequest};

use super::target::{GdbTarget, tid};
use crate::machine::{Machine, MachineError};
use crate::runner::HostedVm;

/// How often the machine's end is looked for.
const PERIOD: Duration = Duration::from_millis(50);
/// Longest packet: room for the registers and a few pages of memory in hexadecimal.
const LONGEST_PACKET: usize = 1 << 15;

/// What gdb is connected through.
pub trait Link: Read + Write + Send {
    /// A second handle on it, to read from.
    ///
    /// # Errors
    /// If the host has none.
    fn reader(&self) -> io::Result<Box<dyn Read + Send>>;

    /// Ends it, for all handles.
    fn close(&self);
}

impl Link for std::net::TcpStream {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        self.set_nodelay(true)?;
        Ok(Box::new(self.try_clone()?))
    }

    fn close(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Link for std::os::unix::net::UnixStream {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.try_clone()?))
    }

    fn close(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

enum Event {
    Bytes(Vec<u8>),
    Closed,
    Stopped(usize, DebugStop),
}

struct Writer<'a> {
    link: &'a mut dyn Link,
    pending: Vec<u8>,
}

impl Connection for Writer<'_> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.pending.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.link.write_all(&self.pending)?;
        self.pending.clear();
        self.link.flush()
    }
}

type State<'a> = GdbStubStateMachine<'static, GdbTarget, Writer<'a>>;

/// A stub that is attached to a machine, which stands still.
pub struct GdbSession {
    vm: Arc<HostedVm>,
    target: GdbTarget,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl GdbSession {
    /// Attaches to a machine.
    ///
    /// # Errors
    /// If the machine can't be debugged now.
    pub fn attach(machine: &Machine) -> Result<Self, MachineError> {
        let (sender, events) = channel();
        let stops = sender.clone();
        let debugger = machine.debug(move |hart, stop| drop(stops.send(Event::Stopped(hart, stop))))?;
        let target = GdbTarget::new(debugger).ok_or(MachineError::NotDebuggable)?;
        Ok(Self { vm: Arc::clone(machine.vm()), target, sender, events })
    }

    /// Serves a gdb until it leaves or the machine ends; then the machine goes on.
    ///
    /// # Errors
    /// If the connection breaks, or gdb says what makes no sense.
    pub fn serve(mut self, link: &mut dyn Link) -> Result<(), String> {
        let sender = self.sender.clone();
        let reader = link.reader().map_err(|error| error.to_string())?;
        let spawned = thread::Builder::new().name("gdb-input".into()).spawn(move || read(reader, &sender));
        let talked = spawned
            .map_err(|error| error.to_string())
            .and_then(|_| talk(&self.vm, &mut self.target, link, &self.events));
        link.close();
        talked
    }
}

fn read(mut reader: Box<dyn Read + Send>, sender: &Sender<Event>) {
    let mut buffer = [0; 4096];
    loop {
        let event = match reader.read(&mut buffer) {
            Ok(0) => Event::Closed,
            Ok(length) => Event::Bytes(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => Event::Closed,
        };
        let is_end = matches!(event, Event::Closed);
        if sender.send(event).is_err() || is_end {
            return;
        }
    }
}

fn talk(
    vm: &HostedVm,
    target: &mut GdbTarget,
    link: &mut dyn Link,
    events: &Receiver<Event>,
) -> Result<(), String> {
    let writer = Writer { link, pending: Vec::new() };
    let stub = GdbStub::builder(writer).packet_buffer_size(LONGEST_PACKET).build();
    let mut state = stub
        .map_err(|error| error.to_string())?
        .run_state_machine(target)
        .map_err(|error| error.to_string())?;
    loop {
        let event = events.recv_timeout(PERIOD);
        state = match event {
            Ok(Event::Bytes(bytes)) => {
                for byte in bytes {
                    state = give(target, state, byte)?;
                }
                state
            }
            Ok(Event::Closed) => return Ok(()),
            Ok(Event::Stopped(hart, stop)) => stopped(target, state, hart, stop)?,
            Err(RecvTimeoutError::Timeout) => state,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        if target.ends {
            vm.request_power(PowerRequest::PowerOff);
        }
        if let GdbStubStateMachine::Disconnected(gone) = &state {
            if gone.get_reason() == DisconnectReason::Kill {
                vm.request_power(PowerRequest::PowerOff);
            }
            return Ok(());
        }
        if let Some(code) = ended(vm) {
            let GdbStubStateMachine::Running(running) = state else { return Ok(()) };
            let told = running.report_stop(target, MultiThreadStopReason::Exited(code));
            return told.map(drop).map_err(|error| error.to_string());
        }
    }
}

/// The exit code of a machine that is to end.
fn ended(vm: &HostedVm) -> Option<u8> {
    match vm.power_requested()? {
        PowerRequest::PowerOff => Some(0),
        PowerRequest::Fail(code) => Some(u8::try_from(code).unwrap_or(u8::MAX).max(1)),
        PowerRequest::Reset => None,
    }
}

/// Hands a byte to the stub.
fn give<'a>(target: &mut GdbTarget, state: State<'a>, byte: u8) -> Result<State<'a>, String> {
    let state = match state {
        GdbStubStateMachine::Idle(idle) => idle.incoming_data(target, byte),
        GdbStubStateMachine::Running(running) => running.incoming_data(target, byte),
        other => return Ok(other),
    };
    let state = state.map_err(|error| error.to_string())?;
    let GdbStubStateMachine::CtrlCInterrupt(interrupt) = state else { return Ok(state) };
    target.debugger.stop();
    let reason = MultiThreadStopReason::SignalWithThread { tid: tid(0), signal: Signal::SIGINT };
    interrupt.interrupt_handled(target, Some(reason)).map_err(|error| error.to_string())
}

/// Tells gdb that a hart has stopped, and with it all others. A second hart that stopped at the same moment stands
/// before the same instruction still, and stops again when it goes on.
fn stopped<'a>(
    target: &mut GdbTarget,
    state: State<'a>,
    hart: usize,
    stop: DebugStop,
) -> Result<State<'a>, String> {
    let GdbStubStateMachine::Running(running) = state else { return Ok(state) };
    target.debugger.stop();
    let tid = tid(hart);
    let reason = match stop {
        DebugStop::Step => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP },
        DebugStop::Hit(DebugHit::Watchpoint { start, kind }) => {
            let kind = match kind {
                rvisor_hart::WatchKind::Read => WatchKind::Read,
                rvisor_hart::WatchKind::Write => WatchKind::Write,
                rvisor_hart::WatchKind::Access => WatchKind::ReadWrite,
            };
            MultiThreadStopReason::Watch { tid, kind, addr: start }
        }
        DebugStop::Hit(DebugHit::Breakpoint) => {
            let pc = target.debugger.hart(hart, |hart, _| hart.hart.pc);
            if pc.is_some_and(|pc| target.is_software(pc)) {
                MultiThreadStopReason::SwBreak(tid)
            } else {
                MultiThreadStopReason::HwBreak(tid)
            }
        }
    };
    running.report_stop(target, reason).map_err(|error| error.to_string())
}
