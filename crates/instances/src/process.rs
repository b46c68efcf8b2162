//! A machine running in this process, and what others may ask of it meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rvisor_hosted::disk::{DiskOptions, Format};
use rvisor_hosted::gdb::{GdbListener, GdbSession, Listening};
use rvisor_hosted::machine::{DiskFailure, Hold, Machine, MachineConfig, Origin};
use rvisor_hosted::net::{BadTapName, Forward, Member, NetOptions, Place, Ports, Tap};
use rvisor_hosted::runner::{Ending, HostedVm, OnReset, end_on_signals};
use rvisor_hosted::sandbox::Sandbox;
use rvisor_hosted::share::ShareOptions;
use rvisor_hosted::stream::Filter;
use rvisor_hosted::translator;
use rvisor_hosted::{HostMemory, Stream};
use rvisor_machine::persist::SavedState;
use rvisor_machine::{PowerRequest, VirtualHart};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;

use crate::agent::{AgentLink, Channel, ExecRequest};
use crate::boot_files::{Boot, BootFiles};
use crate::command::{CommandPorts, Outcome};
use crate::config::{Config, Paging, State, Status, now};
use crate::confinement;
use crate::console::Console;
use crate::directory::{Directory, Lock};
use crate::drive::Drive;
use crate::error::{Context, Error, Result};
use crate::events::Events;
use crate::exec_command::{self, ExecCommand};
use crate::identity;
use crate::log_file::{LogWriter, Source};
use crate::networks::Networks;
use crate::protocol::{HartStats, Live, Stats, TraceRequest, Transfer};
use crate::saved::SavedHost;
use crate::saving::wall_clock;
use crate::server;
use crate::settle::settle;
use crate::terminal::TerminalCommand;
use crate::trace::Recording;
use crate::usage::Meter;

/// How long output may take to reach a slow reader after the machine ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long clients may take to hear of it.
const FAREWELL: Duration = Duration::from_secs(3);
/// Exit code of a machine that was ended without being asked.
const KILLED: u8 = 128 + 9;
/// Exit code of a command that ended with its machine, which was asked to end.
const TERMINATED: u8 = 128 + 15;

/// Where the machine's streams are, beside its log.
pub enum Front {
    /// On this process's standard streams; the filter sees what is typed on the console.
    Foreground(Option<Filter>),
    /// Nowhere.
    Detached,
}

/// How a machine ended.
#[derive(Debug)]
pub struct End {
    /// Its exit code.
    pub code: u8,
    /// Why it couldn't do what it was made for, if it couldn't.
    pub error: Option<String>,
    /// The last lines of its console, if they may say more about that.
    pub last_lines: Vec<String>,
}

/// A machine that is ready to run in this process.
pub struct VmProcess {
    control: Arc<Control>,
    /// Whether the machine comes from elsewhere, and is nobody's before it goes on.
    arrives: bool,
    /// The connections of the machine that it goes on from, if it doesn't begin with power-on.
    saved: Option<(SavedHost, bool)>,
    /// Where it is on a named network.
    place: Option<Place>,
    /// It goes when the process does, and not before: threads hold ports, disks and the like for as long.
    lock: ManuallyDrop<Lock>,
    sandbox: Option<Sandbox>,
}

impl VmProcess {
    /// Makes the machine of a directory whose lock is held, and listens on its control socket.
    ///
    /// # Errors
    /// If the machine can't be made.
    pub fn new(directory: Directory, lock: Lock, rest: translator::Options) -> Result<Self> {
        Self::with_hold(directory, lock, rest, None)
    }

    /// The same of a machine that arrives from elsewhere: all is made, and it is as it was there; then `hold` waits until
    /// it may go on. If it may not, or anything fails before, nothing is left of it.
    ///
    /// # Errors
    /// If the machine can't be made.
    pub fn arriving(directory: Directory, lock: Lock, rest: translator::Options, hold: Hold) -> Result<Self> {
        Self::with_hold(directory, lock, rest, Some(hold))
    }

    fn with_hold(
        directory: Directory,
        lock: Lock,
        rest: translator::Options,
        hold: Option<Hold>,
    ) -> Result<Self> {
        let config = directory.config()?;
        directory.check_here()?;
        let arrives = hold.is_some();
        if !arrives && directory.arriving_note().exists() {
            return Err(Error::Refused(format!("machine {} hasn't arrived yet", directory.name())));
        }
        directory.finish_restore(&lock)?;
        let (serial, agent) = (Stream::new(), AgentLink::new());
        let clock = agent.clone();
        let hold = hold.map(|hold| -> Hold {
            Box::new(move || {
                hold()?;
                clock.set_clock(wall_clock());
                Ok(())
            })
        });
        let command = config.is_for_command().then(CommandPorts::new);
        let (origin, saved) = match directory.saved()? {
            Some(saved) => (Some(Origin { hold, ..saved.origin }), Some((saved.host, saved.is_fresh))),
            None => (None, None),
        };
        let mut ports = command.as_ref().map(CommandPorts::ports).unwrap_or_default();
        ports.push(agent.port());
        let on_power_on = agent.clone();
        let network = network(&directory, &config)?;
        let place = network.as_ref().and_then(|network| network.member.as_ref()).map(|member| member.place());
        let machine = MachineConfig {
            harts: config.cpus as usize,
            memory: config.memory,
            cpu_limit: config.cpu_limit,
            machine_mode: false,
            hypervisor: config.hypervisor,
            portable: config.portable,
            translation: config.paging.map(Paging::mode),
            disks: disks(&directory, &config),
            network,
            tap: tap(&directory, &config)?,
            shares: shares(&config)?,
            tagged_shares: Vec::new(),
            ports,
            serial: serial.clone(),
            engine: config.engine.kind(),
            translator: config.engine.translator(rest),
            on_power_on: Some(Box::new(move || on_power_on.reset())),
            on_disk_error: on_disk_error(&directory, &config)?,
            origin,
            page_map: HostMemory::page_map(),
        };
        // The process can't open them any more once it is confined.
        let files = BootFiles::open(&directory, &config)?;
        let meter = Meter::new().context("open", Path::new("/proc/self"))?;
        let sandbox = confinement::sandbox(&directory, &config, &machine)?;
        if let Some(sandbox) = &sandbox {
            sandbox.confine_files()?;
        }
        let machine = Machine::new(machine)?;
        if saved.is_some() {
            // From here on memory and disks go apart.
            directory.forget_saved()?;
        }
        let console = Console::new(LogWriter::open(directory.log())?);
        let events = Events::new(directory.store());
        let control = Arc::new(Control {
            directory,
            config,
            machine,
            agent,
            terminal: TerminalCommand::default(),
            console,
            serial,
            events,
            command,
            exec: ExecCommand::default(),
            files,
            phase: Mutex::default(),
            changed: Condvar::new(),
            started: Instant::now(),
            meter,
        });
        Ok(Self { control, arrives, saved, place, lock: ManuallyDrop::new(lock), sandbox })
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &Arc<HostedVm> {
        self.control.machine.vm()
    }

    /// Lets gdb connect to the machine; if `wait` says so, it doesn't begin before.
    ///
    /// # Errors
    /// If the host has no thread for it.
    pub fn accept_gdb(&self, listener: GdbListener, wait: bool) -> Result<Listening> {
        if wait {
            self.control.machine.wait_for_debugger();
        }
        let control = Arc::clone(&self.control);
        listener
            .start(move || GdbSession::attach(&control.machine))
            .context("use", Path::new("the host's threads"))
    }

    /// Runs the machine to its end; `ready` is called once it runs and listens.
    ///
    /// # Errors
    /// If it can't be started. Its end, good or bad, is no error.
    pub fn run(self, front: Front, ready: impl FnOnce()) -> Result<End> {
        let control = &self.control;
        // Read now if it is needed at once, else when the guest reboots.
        let mut boot = if self.saved.is_none() { Some(control.boot()?) } else { None };
        if let Some(boot) = &boot {
            control.machine.place(&boot.program())?;
        }
        let mut load = |vm: &HostedVm, harts: &mut [VirtualHart]| {
            let boot = match &mut boot {
                Some(boot) => boot,
                none => none.insert(control.boot().map_err(std::io::Error::other)?),
            };
            let placed = control.machine.place(&boot.program()).map_err(std::io::Error::other)?;
            placed.load(vm, harts).map_err(std::io::Error::other)
        };
        let listener = server::listen(&control.directory)?;
        let host = |result: std::io::Result<()>| result.context("use", Path::new("the host's threads"));
        let signals = end_on_signals(control.machine.vm()).context("use", Path::new("signals"))?;
        let channel = self.take_over()?;
        self.connect(front, channel).or_else(|error| host(Err(error)))?;
        let clients = server::serve(listener, control).context("use", Path::new("the host's threads"))?;
        keep_clock(control.agent.clone()).context("use", Path::new("the host's threads"))?;
        control.directory.set_state(&Directory::started())?;
        control.tell("start", None);
        if let Some(sandbox) = &self.sandbox {
            sandbox.confine_calls()?;
        }
        ready();
        let on_reset = if control.config.is_for_command() { OnReset::Stop } else { OnReset::Reboot };
        let ending = control.machine.run_with(&mut load, on_reset, None);
        let never_ran = self.arrives && ending.is_err();
        control.agent.close();
        control.serial.drain(PATIENCE);
        control.exec.drain(PATIENCE);
        if let Some(command) = &control.command {
            command.drain(PATIENCE);
        }
        let end = self.end(ending.map_err(|error| error.to_string()), signals.get());
        control.finish(&end);
        let deadline = Instant::now() + FAREWELL;
        while clients.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = fs::remove_file(control.directory.socket());
        if control.config.remove || never_ran {
            control.directory.remove_own(&self.lock)?;
            control.tell("destroy", None);
        }
        Ok(end)
    }

    /// Where the translator's time went, if that was asked for.
    pub fn profiler(&self) -> impl Fn() -> Option<String> + 'static {
        let control = Arc::clone(&self.control);
        move || control.machine.profile()
    }

    /// Goes on with the agent of the machine that this one goes on from. Returns the channel of its command, if it runs
    /// one there.
    fn take_over(&self) -> Result<Option<Channel>> {
        let Some((host, is_fresh)) = &self.saved else { return Ok(None) };
        let control = &self.control;
        let channel = control.agent.restore(host.agent.clone(), host.command);
        if *is_fresh {
            // On a network with places it gets its hardware address with its place, and not twice: each time the guest would
            // make its IPv6 addresses anew.
            let keeps_address = self.place.is_some();
            control.agent.identify(&identity::fresh(control.directory.name(), keeps_address)?);
            if !control.config.volumes.is_empty() {
                control.agent.put_shares();
            }
        } else {
            control.agent.set_clock(wall_clock());
        }
        if let Some(place) = &self.place {
            settle(&control.agent, place).context("use", Path::new("the host's threads"))?;
        }
        // A command on a terminal is run when there is one.
        if !*is_fresh || control.config.command.is_empty() || control.config.terminal || channel.is_some() {
            return Ok(channel);
        }
        let (command, environment) = (control.config.words(), &control.config.environment);
        let request = exec_command::request(&command, environment, !control.config.remove);
        control.agent.exec(&request).map(Some).map_err(Error::Refused)
    }

    /// Connects the machine's streams.
    fn connect(&self, front: Front, channel: Option<Channel>) -> std::io::Result<()> {
        let control = &self.control;
        let (filter, foreground) = match front {
            Front::Foreground(filter) => (filter, true),
            Front::Detached => (None, false),
        };
        let stdout = || foreground.then(|| Box::new(std::io::stdout()) as _);
        let Some(command) = &control.command else {
            control.serial.write_to(control.console.sink(Source::Console, stdout()))?;
            if foreground {
                control.serial.read_from(std::io::stdin(), filter)?;
            }
            return Ok(());
        };
        control.serial.write_to(control.console.sink(Source::Console, None))?;
        let stdin = foreground.then(|| Box::new(std::io::stdin()) as Box<dyn Read + Send>);
        let stderr = foreground.then(|| Box::new(std::io::stderr()) as _);
        let sinks =
            (control.console.sink(Source::Stdout, stdout()), control.console.sink(Source::Stderr, stderr));
        let vm = Arc::downgrade(control.machine.vm());
        // The guest has written everything back when it tells the outcome: nothing is lost by not waiting for its
        // power-off.
        let ended = move || {
            if let Some(vm) = vm.upgrade() {
                vm.request_power(PowerRequest::PowerOff);
            }
        };
        if control.config.terminal && !control.config.command.is_empty() {
            let nobody = (std::io::sink(), std::io::sink());
            command.connect(None, nobody, ended.clone())?;
            return self.on_terminal(channel, sinks.0, foreground.then_some(filter), ended);
        }
        if let Some(channel) = channel {
            return control.exec.start(channel, stdin, sinks, ended);
        }
        if control.config.command.is_empty() {
            return command.listen();
        }
        command.connect(stdin, sinks, ended)?;
        // One that goes on has been given it before it was saved.
        if self.saved.is_none() {
            command.give(&control.config.environment, &control.config.words());
        }
        Ok(())
    }

    /// Has the agent run the command, on a terminal that shows on `output`, or goes on with the one that runs on `channel`.
    /// `keys`: it is this process's terminal, and what sees its keys first. `ended` is called once the outcome is known.
    fn on_terminal(
        &self,
        channel: Option<Channel>,
        mut output: impl Write + Send + 'static,
        keys: Option<Option<Filter>>,
        ended: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        let control = &self.control;
        if let Some(filter) = keys {
            if let Some((rows, columns)) = Drive::window() {
                control.terminal.resize(rows, columns);
            }
            let (typed, sized) = (control.terminal.clone(), control.terminal.clone());
            read_keys(filter, move |bytes| typed.type_in(bytes))?;
            on_new_size(move |rows, columns| sized.resize(rows, columns))?;
        }
        let request = ExecRequest {
            directory: "/root".into(),
            terminal: Some((24, 80)),
            is_durable: !control.config.remove,
            ..ExecRequest::new(control.config.words(), control.config.environment.iter().cloned())
        };
        let (terminal, agent, exec) = (control.terminal.clone(), control.agent.clone(), control.exec.clone());
        std::thread::Builder::new().name("terminal".into()).spawn(move || {
            let code = match channel {
                Some(channel) => terminal.go_on(channel, &mut output),
                None => terminal.run(&agent, request, &mut output),
            };
            if let Some(code) = code {
                exec.tell(Outcome::Exit(code));
                ended();
            }
        })?;
        Ok(())
    }

    /// What the machine's end means.
    fn end(&self, ending: Result<Ending, String>, signal: Option<i32>) -> End {
        let end = |code| End { code, error: None, last_lines: Vec::new() };
        let failed = |error: String| End { error: Some(error), ..end(125) };
        let phase = self.control.phase();
        let told = |ports: &CommandPorts| self.control.exec.outcome().or_else(|| ports.outcome());
        let outcome = self.control.command.as_ref().map(told);
        match (ending, signal, outcome) {
            (Err(error), ..) => failed(error),
            (..) if phase.moved && self.control.command.is_none() => end(0),
            (..) if phase.moved => failed("the machine was migrated; its command goes on there".into()),
            (_, Some(signal), _) => end(128_u8.saturating_add(signal as u8)),
            (_, _, Some(Some(Outcome::Exit(code)))) if !phase.forced => end(code),
            _ if phase.forced => end(KILLED),
            (_, _, Some(Some(Outcome::Failed(reason)))) => {
                failed(format!("the guest couldn't run the command: {reason}"))
            }
            (_, _, Some(_)) if phase.stopping => end(TERMINATED),
            (_, _, Some(_)) => {
                let text = "the guest ended before the command did; its last lines on the console are above";
                End { last_lines: self.control.console.last_lines(), ..failed(text.into()) }
            }
            (Ok(Ending::Fail(code)), ..) => end(u8::try_from(code).unwrap_or(u8::MAX).max(1)),
            (Ok(Ending::PowerOff | Ending::TimedOut), ..) => end(0),
        }
    }
}

/// Reads this process's standard input on a thread.
fn read_keys(mut filter: Option<Filter>, take: impl Fn(&[u8]) + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("input".into()).spawn(move || {
        let (mut buffer, mut kept) = ([0; 4096], Vec::new());
        while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
            kept.clear();
            match &mut filter {
                Some(filter) => filter(&buffer[..length], &mut kept),
                None => kept.extend(&buffer[..length]),
            }
            take(&kept);
        }
    })?;
    Ok(())
}

/// Tells each new size of this process's terminal: rows and columns.
fn on_new_size(tell: impl Fn(u16, u16) + Send + 'static) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGWINCH])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if let Some((rows, columns)) = Drive::window() {
                tell(rows, columns);
            }
        }
    })?;
    Ok(())
}

/// Sets the guest's clock each time its agent starts. The kernel took it from the RTC, in whole seconds: what it makes of
/// files that the host has just written would lie in its future.
fn keep_clock(agent: AgentLink) -> std::io::Result<()> {
    /// What a frame may take to arrive. A clock that is early does no harm.
    const TRANSIT: Duration = Duration::from_millis(5);
    std::thread::Builder::new().name("clock".into()).spawn(move || {
        let mut seen = 0;
        while let Some(starts) = agent.wait_start(seen) {
            seen = starts;
            agent.set_clock(wall_clock() + TRANSIT);
        }
    })?;
    Ok(())
}

/// Tells of a disk that fails. The guest only knows that there is an error.
fn on_disk_error(directory: &Directory, config: &Config) -> Result<Option<Arc<DiskFailure>>> {
    if config.template {
        return Ok(None);
    }
    let (events, directory) = (Events::new(directory.store()), directory.try_clone()?);
    Ok(Some(Arc::new(move |path, error| {
        // Its name may be another by now.
        let path = directory.current_path().join(path.file_name().unwrap_or_default());
        let detail = format!("{}: {error}", path.display());
        events.add(&directory.current_name(), "disk-error", Some(detail));
    })))
}

/// The machine's own copy-on-write disk if its image has one, and those beside it.
fn disks(directory: &Directory, config: &Config) -> Vec<DiskOptions> {
    let name = |number| if number == 0 { "root".into() } else { format!("disk-{number}") };
    let qcow2 = |path: PathBuf, number: usize| DiskOptions {
        format: Some(Format::Qcow2),
        serial: Some(name(number)),
        ..DiskOptions::new(path)
    };
    let own = config.base_disk.iter().map(|_| qcow2(directory.disk(), 0));
    let others = (0..config.disks.len()).map(|number| qcow2(directory.other_disk(number), number + 1));
    own.chain(others).collect()
}

fn network(directory: &Directory, config: &Config) -> Result<Option<NetOptions>> {
    let forwards = config
        .publish
        .iter()
        .map(|text| text.parse().map_err(|error| Error::Refused(format!("--publish {text}: {error}"))));
    let forwards = forwards.collect::<Result<_>>()?;
    let hostname = Some(directory.name().to_owned());
    let member = match &config.private_network {
        Some(network) => {
            let network = Networks::new(directory.store()).open(network)?;
            let joined = Member::join(&network, directory.name()).context("join", &network.path)?;
            Some(Arc::new(joined))
        }
        None => None,
    };
    let is_own = config.network && config.tap.is_none();
    Ok(is_own.then(|| NetOptions { forwards, hostname, member, ..NetOptions::default() }))
}

fn tap(directory: &Directory, config: &Config) -> Result<Option<Tap>> {
    let Some(name) = &config.tap else { return Ok(None) };
    let refused = |text: String| Error::Refused(format!("--network tap: {text}"));
    let name = name.parse().map_err(|error: BadTapName| refused(error.to_string()))?;
    let mac = identity::hardware_address(directory.store(), directory.name(), config.created);
    Tap::open(&name, mac).map(Some).map_err(|error| refused(error.to_string()))
}

fn shares(config: &Config) -> Result<Option<Vec<ShareOptions>>> {
    if config.volumes.is_empty() && !config.takes_shares {
        return Ok(None);
    }
    let share = |text: &String| text.parse().map_err(|error| Error::Refused(format!("--volume {error}")));
    config.volumes.iter().map(share).collect::<Result<_>>().map(Some)
}

fn forward(port: &str) -> Result<Forward, String> {
    port.parse().map_err(|error| format!("{port}: {error}"))
}

/// What has been asked of a machine, and whether it has ended.
#[derive(Default)]
pub(crate) struct Phase {
    /// The guest was asked to power off.
    stopping: bool,
    /// The machine was ended without asking.
    forced: bool,
    /// Its harts are stopped.
    pub paused: bool,
    /// Somebody is saving the machine, who decides when it goes on.
    pub saving: bool,
    /// What was forwarded to a machine that stands still to be handed over.
    pub moving: Option<Vec<Forward>>,
    /// The machine was handed over: it doesn't go on here unless somebody says that it doesn't elsewhere.
    pub handed_over: bool,
    /// It goes on elsewhere.
    pub moved: bool,
    ended: Option<u8>,
}

/// A machine that runs in this process, as its clients see it.
pub(crate) struct Control {
    directory: Directory,
    config: Config,
    machine: Machine,
    agent: AgentLink,
    terminal: TerminalCommand,
    console: Console,
    serial: Stream,
    /// Ports of a machine for one command, and the command where the agent runs it.
    command: Option<CommandPorts>,
    exec: ExecCommand,
    files: BootFiles,
    events: Events,
    phase: Mutex<Phase>,
    changed: Condvar,
    started: Instant,
    meter: Meter,
}

impl Control {
    pub(crate) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, action: &str, detail: Option<String>) {
        if !self.config.template {
            self.events.add(&self.directory.current_name(), action, detail);
        }
    }

    fn command_line(&self) -> String {
        let append = &self.config.append;
        // Who begins as a copy of a template gets a name of its own.
        let name = if self.config.template { "rvisor" } else { self.directory.name() };
        let common = format!("{append} quiet rvisor.agent=1 rvisor.hostname={name}");
        if !self.config.is_for_command() {
            // The second name is for the image's own init (kernel-command-line(7) of systemd).
            format!("{common} systemd.hostname={name}")
        } else {
            format!("{common} panic=-1 rvisor.mode=command")
        }
    }

    /// Where the machine's output goes.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Types on the console, if it is anybody's: a command's machine has none to type on.
    pub fn type_in(&self, bytes: &[u8]) {
        if self.config.terminal {
            self.terminal.type_in(bytes);
        } else if !self.config.is_for_command() {
            self.serial.feed(bytes);
        }
    }

    /// How the machine is.
    pub fn live(&self) -> Live {
        let agent = self.agent.is_ready();
        let ready = agent && self.command.as_ref().is_none_or(CommandPorts::is_ready);
        Live { pid: std::process::id(), paused: self.phase().paused, agent, ready }
    }

    /// What it uses and has done.
    pub fn stats(&self) -> Stats {
        let transfer = |counted: &rvisor_hosted::counters::Transfers| Transfer {
            incoming_bytes: counted.incoming.bytes.get(),
            incoming: counted.incoming.operations.get(),
            outgoing_bytes: counted.outgoing.bytes.get(),
            outgoing: counted.outgoing.operations.get(),
        };
        let counters = self.machine.counters();
        let harts = self.machine.vm().harts().iter().map(|hart| {
            let exits = hart.exits();
            let (budget, device, sbi, wait) = (exits.budget(), exits.device(), exits.sbi(), exits.wait());
            HartStats { budget, device, sbi, wait }
        });
        let used = self.meter.read();
        Stats {
            time: self.started.elapsed().as_nanos() as u64,
            processor: processor_time(),
            memory: used.resident,
            memory_proportional: used.proportional,
            memory_private: used.private,
            wakeups: used.wakeups,
            memory_limit: self.config.memory,
            threads: used.threads,
            harts: harts.collect(),
            disks: counters.disks.iter().map(|disk| transfer(disk)).collect(),
            network: counters.network.as_ref().map(|network| transfer(network)),
        }
    }

    /// Waits for the machine's end.
    pub fn wait(&self) -> u8 {
        self.wait_until(None).unwrap_or_default()
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<u8> {
        let mut phase = self.phase();
        while phase.ended.is_none() {
            phase = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    self.changed.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        phase.ended
    }

    /// Ends the machine: asks, and after `patience` doesn't.
    pub fn stop(&self, patience: Duration) -> u8 {
        let deadline = Instant::now().checked_add(patience);
        self.phase().stopping = true;
        self.tell("stop", None);
        if self.phase().handed_over {
            // Not even to be asked may it go on.
            return self.force();
        }
        let _ = self.resume();
        if self.agent.wait_ready(patience) {
            self.agent.power_off();
        }
        self.wait_until(deadline).unwrap_or_else(|| self.force())
    }

    /// Ends the machine without asking.
    pub fn kill(&self) -> u8 {
        self.tell("kill", None);
        self.force()
    }

    /// Asks the guest to end the machine, and leaves it at that.
    pub fn power_off(&self) -> Result<(), String> {
        if self.phase().paused {
            return Err(self.is_paused());
        }
        if !self.agent.is_ready() {
            return Err(self.is_silent());
        }
        self.phase().stopping = true;
        self.tell("kill", Some("TERM".into()));
        self.agent.power_off();
        Ok(())
    }

    pub(crate) fn force(&self) -> u8 {
        self.phase().forced = true;
        self.machine.vm().request_power(PowerRequest::PowerOff);
        self.wait()
    }

    /// Stops the harts.
    pub fn pause(&self) -> Result<(), String> {
        let mut phase = self.phase();
        self.check_saving(&phase)?;
        if phase.paused {
            return Err(format!("machine {} is paused already", self.directory.current_name()));
        }
        if !self.machine.pause() {
            return Err("the machine is ending".into());
        }
        phase.paused = true;
        drop(phase);
        self.note(Status::Paused);
        self.tell("pause", None);
        Ok(())
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), String> {
        let mut phase = self.phase();
        if phase.handed_over && !phase.saving {
            drop(phase);
            self.resume_handed_over();
            return Ok(());
        }
        self.check_saving(&phase)?;
        if !phase.paused {
            return Err(format!("machine {} isn't paused", self.directory.current_name()));
        }
        phase.paused = false;
        self.machine.resume();
        drop(phase);
        self.agent.set_clock(wall_clock());
        self.note(Status::Running);
        self.tell("unpause", None);
        Ok(())
    }

    /// Begins to record what the harts do.
    pub fn trace(&self, request: &TraceRequest) -> Result<Recording, String> {
        if self.phase().paused {
            return Err(self.is_paused());
        }
        let recording = Recording::start(&self.machine, &self.directory.current_name(), request)?;
        self.tell("trace", None);
        Ok(recording)
    }

    pub(crate) fn is_paused(&self) -> String {
        let name = self.directory.current_name();
        format!("machine {name} is paused; let it go on with `rvisor resume {name}`")
    }

    fn is_silent(&self) -> String {
        let name = self.directory.current_name();
        format!(
            "the guest of machine {name} doesn't answer: it is still starting, or stopping; see `rvisor logs {name}`"
        )
    }

    /// Attaches a gdb stub.
    pub fn debug(&self) -> Result<GdbSession, String> {
        if self.phase().paused {
            return Err(self.is_paused());
        }
        let session = GdbSession::attach(&self.machine).map_err(|error| error.to_string())?;
        self.tell("debug", None);
        Ok(session)
    }

    fn check_saving(&self, phase: &Phase) -> Result<(), String> {
        if phase.saving {
            let name = self.directory.current_name();
            return Err(format!("machine {name} is being saved; try again when that is done"));
        }
        Ok(())
    }

    /// The machine's directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The machine.
    pub fn vm(&self) -> &HostedVm {
        self.machine.vm()
    }

    /// One client at a time saves the machine; nobody else pauses it or lets it go on meanwhile.
    pub fn begin_saving(&self) -> Result<(), String> {
        let mut phase = self.phase();
        self.check_saving(&phase)?;
        if phase.handed_over {
            return Err(self.is_paused());
        }
        if !self.config.volumes.is_empty() {
            let name = self.directory.current_name();
            return Err(format!(
                "machine {name} has shared directories (--volume), which are the host's: it can't be saved"
            ));
        }
        phase.saving = true;
        Ok(())
    }

    /// The client is done.
    pub fn end_saving(&self) {
        self.phase().saving = false;
    }

    /// Has the disks' files tell all that the guest has been told is written.
    pub fn flush_disks(&self) -> std::io::Result<()> {
        self.machine.flush_disks()
    }

    /// Stops the harts. Returns whether they were stopped before.
    pub fn freeze(&self) -> Result<bool, String> {
        let was_paused = self.phase().paused;
        if !was_paused && !self.machine.pause() {
            return Err("the machine is ending".into());
        }
        Ok(was_paused)
    }

    /// The state of the machine, whose harts are stopped; nothing changes in it until it is thawed.
    pub fn saved_state(&self) -> Result<SavedState, String> {
        self.machine.freeze().map_err(|error| error.to_string())
    }

    /// What the host's end has to know to go on.
    pub fn saved_host(&self) -> SavedHost {
        SavedHost {
            agent: self.agent.save(),
            command: self.exec.channel().or_else(|| self.terminal.channel()),
        }
    }

    /// Lets everything go on as before [`freeze`](Self::freeze).
    pub fn thaw(&self, was_paused: bool) {
        self.machine.thaw();
        if !was_paused {
            self.machine.resume();
            self.agent.set_clock(wall_clock());
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the guest is booted from.
    fn boot(&self) -> Result<Boot> {
        self.files.read(self.command_line())
    }

    fn forwards(&self) -> Result<&Ports, String> {
        let name = self.directory.current_name();
        self.machine
            .forwards()
            .ok_or_else(|| format!("machine {name} has no network of Rvisor's (--net none, --network tap)"))
    }

    /// What is forwarded to the guest.
    pub fn ports(&self) -> Result<Vec<String>, String> {
        Ok(self.forwards()?.list().iter().map(ToString::to_string).collect())
    }

    /// Forwards one more port.
    pub fn add_port(&self, port: &str) -> Result<(), String> {
        self.forwards()?.add(forward(port)?).map_err(|error| error.to_string())
    }

    /// Forwards a port no longer.
    pub fn remove_port(&self, port: &str) -> Result<(), String> {
        let name = self.directory.current_name();
        match self.forwards()?.remove(forward(port)?) {
            true => Ok(()),
            false => Err(format!("{port} isn't forwarded; `rvisor port ls {name}` lists what is")),
        }
    }

    pub(crate) fn note(&self, status: Status) {
        let noted = self.directory.state().and_then(|mut state| {
            state.status = status;
            self.directory.set_state(&state)
        });
        if let Err(error) = noted {
            log::warn!("{error}");
        }
    }

    /// Runs a command in the guest.
    pub fn exec(&self, request: &ExecRequest) -> Result<Channel, String> {
        if self.phase().paused {
            return Err(self.is_paused());
        }
        if !self.agent.wait_ready(Duration::try_from_secs_f64(request.patience).unwrap_or_default()) {
            return Err(self.is_silent());
        }
        let channel = self.agent.exec(request)?;
        self.tell("exec", request.command.first().cloned());
        Ok(channel)
    }

    /// Tells everybody that the machine has ended.
    fn finish(&self, end: &End) {
        self.agent.close();
        self.console.close(end.code);
        let mut state = self.directory.state().unwrap_or_else(|_| State::created());
        (state.status, state.ended) = (Status::Exited, now());
        (state.exit_code, state.error) = (Some(end.code), end.error.clone());
        if let Err(error) = self.directory.set_state(&state) {
            log::error!("{error}");
        }
        self.tell("die", Some(end.code.to_string()));
        self.phase().ended = Some(end.code);
        self.changed.notify_all();
    }
}

/// Nanoseconds of the host's processors that this process has used.
fn processor_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
