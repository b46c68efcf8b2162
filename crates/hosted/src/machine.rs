//! A whole machine from its description: memory, disks, network, console ports, engine.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rvisor_machine::boot::{BootError, Placed, Program};
use rvisor_machine::memory_map::{self, RAM_BASE, VIRTIO_SLOTS};
use rvisor_machine::persist::SavedState;
use rvisor_machine::slots::{MetalSlots, SlotKind, in_order};
use rvisor_machine::{
    Backends, DebugStop, Extensions, Interpreter, MAX_HARTS, SlotBuilder, TranslationMode, VirtualHart,
    VmConfig,
};
use rvisor_translator::Translator;
use rvisor_virtio::Transport;
use rvisor_virtio::balloon::Balloon;
use rvisor_virtio::blk::Blk;
use rvisor_virtio::console::Console;
use rvisor_virtio::net::Net;
use rvisor_virtio::p9::P9;
use rvisor_virtio::rng::Rng;
use rvisor_waist::{Clock, ConsoleBackend, Device, EntropyBackend, GuestMemory, GuestPhysical, StateError};
use thiserror::Error;

use crate::counters::Counters;
use crate::debugger::{DebugGate, Debugger};
use crate::disk::{Disk, DiskError, DiskOptions, Image, Tracked};
use crate::lockstep::{Journal, Lockstep, SteppedClock};
use crate::net::{NetError, NetOptions, Ports, Tap, TapNetwork, UserNetwork};
use crate::runner::{self, Ending, HostedVm, Loader, OnReset, Pace};
use crate::share::{ShareError, ShareOptions, Shares};
use crate::throttle::Throttle;
use crate::trace::{Kinds, Tracer};
use crate::{HostClock, HostEntropy, HostMemory, Stream, Wake, random_mac};

/// What executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EngineKind {
    /// The reference interpreter.
    Interpreter,
    /// Dynamic binary translation.
    #[default]
    Translator,
    /// The translator, each slice compared with the interpreter.
    Lockstep,
}

/// Least memory of a machine, in bytes: below, not even a device tree fits.
pub const LEAST_MEMORY: u64 = 1 << 20;

/// What a guest finds the device of [`MachineConfig::shares`] by.
pub const SHARES_TAG: &str = "rvisor";

/// Why a machine can't be made or run.
#[derive(Debug, Error)]
pub enum MachineError {
    /// Too many harts, or none.
    #[error("a machine has 1 to {MAX_HARTS} harts, not {0}; choose another --cpus")]
    Harts(usize),
    /// An engine that has one hart only.
    #[error("the engine lockstep compares one hart; choose --cpus 1")]
    LockstepHarts,
    /// An engine that can't be debugged.
    #[error("the engine lockstep can't be debugged or traced; choose --engine interpreter or translator")]
    LockstepDebugger,
    /// A machine whose harts don't come to be looked at.
    #[error("the machine can't be debugged now: it is paused, or ending")]
    NotDebuggable,
    /// Somebody records it already.
    #[error("the machine is being traced already; end that first")]
    Tracer,
    /// There is a debugger already.
    #[error("the machine has a debugger already; detach that one")]
    Debugger,
    /// An engine whose machines can't be saved.
    #[error("the engine lockstep can't save machines or go on with saved ones; choose another --engine")]
    Lockstep,
    /// A machine that runs, or ends.
    #[error("the machine can't be saved: it is ending")]
    NotPaused,
    /// A state that can't be saved, or makes no sense.
    #[error(transparent)]
    State(#[from] StateError),
    /// The engines of lockstep don't agree.
    #[error("{0}; this is a defect of Rvisor, please report it")]
    Difference(String),
    /// Too little memory to start anything.
    #[error("{0} bytes of memory are too little; choose --memory 64M or more")]
    TooLittleMemory(u64),
    /// The host has no memory to give.
    #[error("the host can't give {size} MiB of memory ({error}); choose a smaller --memory")]
    Memory {
        /// MiB asked for.
        size: u64,
        /// What the host said.
        error: io::Error,
    },
    /// More devices than slots.
    #[error("{0} disks and shares are too many for the board's {VIRTIO_SLOTS} device slots; attach fewer")]
    TooManyDevices(usize),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetError),
    /// A shared directory.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The program to boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Threads, entropy and the like.
    #[error("the host refuses: {0}")]
    Host(#[from] io::Error),
}

/// Description of a machine.
#[derive(Default)]
pub struct MachineConfig {
    /// Number of harts.
    pub harts: usize,
    /// Bytes of RAM.
    pub memory: u64,
    /// Whether the guest's own firmware runs in M-mode.
    pub machine_mode: bool,
    /// Whether the harts have the hypervisor extension.
    pub hypervisor: bool,
    /// Whether the guest is told of nothing but what machines have on any hardware, in any home.
    pub portable: bool,
    /// The largest mode of translation; else [what suits the memory](TranslationMode::suiting).
    pub translation: Option<TranslationMode>,
    /// Disks, in the order in which the guest numbers them.
    pub disks: Vec<DiskOptions>,
    /// Network card, if any.
    pub network: Option<NetOptions>,
    /// Network card on a device of the host's, if any.
    pub tap: Option<Tap>,
    /// Shared directories, all behind one device with the tag [`SHARES_TAG`] that lists them: with none in the list, too.
    pub shares: Option<Vec<ShareOptions>>,
    /// Shared directories, each a device that the guest finds by the share's tag.
    pub tagged_shares: Vec<ShareOptions>,
    /// Ports of the virtio console.
    pub ports: Vec<Port>,
    /// Called at each power-on, reboots included, before the guest runs.
    pub on_power_on: Option<Box<dyn Fn() + Send + Sync>>,
    /// Called with a disk's file and the first error of the host's with it since the machine was made, from a thread of the
    /// disk's.
    pub on_disk_error: Option<Arc<DiskFailure>>,
    /// The serial line.
    pub serial: Stream,
    /// Thousandths of a host's processor that the harts may use together, if that is limited.
    pub cpu_limit: Option<u32>,
    /// What executes instructions.
    pub engine: EngineKind,
    /// What the translator is to tell about its work.
    pub translator: rvisor_translator::Options,
    /// What the machine goes on from, instead of powering on.
    pub origin: Option<Origin>,
    /// [`HostMemory::page_map`], for a machine that is to be saved.
    pub page_map: Option<File>,
}

/// See [`MachineConfig::on_disk_error`].
pub type DiskFailure = dyn Fn(&Path, &io::Error) + Send + Sync;

/// Where a machine goes on: the state and the memory of one that was saved. The disks are the ones it had then, too.
pub struct Origin {
    /// Its state.
    pub state: SavedState,
    /// Its memory, as [`MemoryCopy`](crate::MemoryCopy) has written it.
    pub memory: File,
    /// Called once the machine is as it was, before it goes on, to wait for what it has to wait for. If it fails, the
    /// machine doesn't go on, and has done nothing.
    pub hold: Option<Hold>,
}

/// See [`Origin::hold`].
pub type Hold = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A port of the virtio console that guests find by its name.
pub struct Port {
    /// The name.
    pub name: String,
    /// The host's end.
    pub backend: Box<dyn ConsoleBackend>,
    /// To be called when the host's end has something for the guest.
    pub wake: Wake,
}

impl Port {
    /// A port on a stream.
    #[must_use]
    pub fn new(name: &str, stream: &Stream) -> Self {
        Self { name: name.into(), backend: stream.backend(), wake: stream.wake().clone() }
    }
}

/// A machine that can be powered on.
pub struct Machine {
    vm: Arc<HostedVm>,
    pace: Pace,
    /// Since when the machine is paused, if it is.
    paused: Mutex<Option<Instant>>,
    on_power_on: Option<Box<dyn Fn() + Send + Sync>>,
    counters: Counters,
    forwards: Option<Ports>,
    stepped: Arc<SteppedClock>,
    engine: EngineKind,
    translator: Arc<rvisor_translator::Shared>,
    origin: Mutex<Option<(SavedState, Option<Hold>)>>,
    images: Vec<Arc<Tracked>>,
}

impl Machine {
    /// Makes the machine; its devices are ready, its harts are off.
    ///
    /// # Errors
    /// See [`MachineError`].
    pub fn new(mut config: MachineConfig) -> Result<Self, MachineError> {
        if !(1..=MAX_HARTS).contains(&config.harts) {
            return Err(MachineError::Harts(config.harts));
        }
        if config.engine == EngineKind::Lockstep && config.harts != 1 {
            return Err(MachineError::LockstepHarts);
        }
        if config.memory < LEAST_MEMORY {
            return Err(MachineError::TooLittleMemory(config.memory));
        }
        let is_compared = config.engine == EngineKind::Lockstep;
        let refused = |error| MachineError::Memory { size: config.memory >> 20, error };
        let origin = config.origin.take();
        if is_compared && origin.is_some() {
            return Err(MachineError::Lockstep);
        }
        let shape = origin.as_ref().map(|origin| origin.state.shape()).transpose()?;
        let ticks = shape.map_or(0, |shape| shape.ticks);
        let (state, memory) = origin.map(|origin| ((origin.state, origin.hold), origin.memory)).unzip();
        let map = if is_compared { HostMemory::in_file } else { HostMemory::new };
        let memory = match memory {
            Some(file) => HostMemory::copy_of(RAM_BASE, config.memory, file),
            None => map(RAM_BASE, config.memory),
        };
        let mut memory = memory.map_err(refused)?.with_page_map(config.page_map.take());
        if is_compared {
            memory.keep_journal();
        }
        let (memory, clock) = (Arc::new(memory), HostClock::starting_at(ticks));
        let asked = config.disks.len() + config.tagged_shares.len();
        let open = |options: &DiskOptions| options.open().map(|image| Arc::new(Tracked::new(image)));
        let images = config.disks.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let saved = state.as_ref().map(|(state, _)| state);
        let (slots, counters, forwards) = slots(&mut config, &images, &memory, saved)?;
        if slots.len() > VIRTIO_SLOTS as usize {
            return Err(MachineError::TooManyDevices(asked));
        }
        let (builders, wakes): (Vec<_>, Vec<_>) =
            slots.into_iter().map(|slot| (slot.build, slot.wakes)).unzip();
        let backends = Backends {
            serial: config.serial.backend(),
            sbi_console: config.serial.backend(),
            virtio: builders,
        };
        let (translation, extensions) = match shape {
            // What its guest was told holds, wherever that was.
            Some(shape) => (shape.config.translation, shape.config.extensions),
            None if config.portable => (TranslationMode::Sv39, Extensions::portable()),
            None => {
                let suiting = || TranslationMode::suiting(config.memory);
                (config.translation.unwrap_or_else(suiting), Extensions::ALL)
            }
        };
        let vm_config = VmConfig {
            harts: config.harts,
            machine_mode: config.machine_mode,
            translation,
            hypervisor: config.hypervisor,
            extensions,
        };
        let stepped = Arc::new(SteppedClock::new(clock.clone()));
        let guest_clock: Arc<dyn Clock> =
            if is_compared { Arc::clone(&stepped) as _ } else { Arc::new(clock.clone()) };
        let vm = Arc::new(HostedVm::new(vm_config, memory, guest_clock, backends));
        for (slot, wakes) in (0..).zip(wakes) {
            for wake in wakes {
                connect(&wake, &vm, memory_map::virtio(slot));
            }
        }
        connect(config.serial.wake(), &vm, memory_map::UART);
        let translator = rvisor_translator::share::<HostMemory>(config.harts, config.translator)?;
        Ok(Self {
            vm,
            pace: Pace {
                clock,
                gate: Arc::default(),
                debug: Arc::new(DebugGate::new(config.harts)),
                tracing: Arc::default(),
                throttle: config.cpu_limit.map(|limit| Arc::new(Throttle::new(limit))),
            },
            paused: Mutex::default(),
            on_power_on: config.on_power_on,
            counters,
            forwards,
            stepped,
            engine: config.engine,
            translator,
            origin: Mutex::new(state),
            images,
        })
    }

    /// Where the translator's time went, if the machine was made with
    /// [`profile`](rvisor_translator::Options::profile); after [`run`](Self::run).
    #[must_use]
    pub fn profile(&self) -> Option<String> {
        self.translator.report()
    }

    /// The machine's shared part.
    #[must_use]
    pub fn vm(&self) -> &Arc<HostedVm> {
        &self.vm
    }

    /// What its disks and network have moved.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The forwards of its network, if it has one.
    #[must_use]
    pub fn forwards(&self) -> Option<&Ports> {
        self.forwards.as_ref()
    }

    /// Stops the harts; devices finish what they were asked for. The guest's time stands still. False if the
    /// machine is paused already or ends.
    pub fn pause(&self) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.is_some() || !self.pace.gate.close(&self.vm) {
            return false;
        }
        *paused = Some(Instant::now());
        true
    }

    /// Lets the harts of a paused machine go on. False if it isn't paused.
    pub fn resume(&self) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = paused.take() else { return false };
        self.pace.clock.leave_out(since.elapsed());
        self.pace.gate.open(&self.vm);
        true
    }

    /// Attaches a debugger, which stops the machine; `on_stop` hears when a hart comes to a point or has made its
    /// step.
    ///
    /// # Errors
    /// If the machine has a debugger, or its engine can't be debugged.
    pub fn debug(
        &self,
        on_stop: impl Fn(usize, DebugStop) + Send + 'static,
    ) -> Result<Debugger, MachineError> {
        if self.engine == EngineKind::Lockstep {
            return Err(MachineError::LockstepDebugger);
        }
        Debugger::attach(&self.vm, &self.pace, on_stop).ok_or(MachineError::Debugger)
    }

    /// Begins to record what the harts do.
    ///
    /// # Errors
    /// If the machine is being recorded already, or its engine can't be.
    pub fn trace(&self, kinds: Kinds) -> Result<Tracer, MachineError> {
        if self.engine == EngineKind::Lockstep {
            return Err(MachineError::LockstepDebugger);
        }
        Tracer::start(&self.vm, &self.pace, kinds).ok_or(MachineError::Tracer)
    }

    /// What executes the guest's instructions.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    /// Makes the harts of a machine that isn't powered on yet wait for a debugger before their first instruction.
    pub fn wait_for_debugger(&self) {
        self.pace.debug.hold(&self.vm);
    }

    /// Writes down the state of a paused machine, but for its memory and its disks. Until [`thaw`](Self::thaw) nothing
    /// changes in either.
    ///
    /// # Errors
    /// If the machine isn't paused, or ends, or has something whose state can't be saved.
    pub fn freeze(&self) -> Result<SavedState, MachineError> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if self.engine == EngineKind::Lockstep {
            return Err(MachineError::Lockstep);
        }
        let since = paused.ok_or(MachineError::NotPaused)?;
        let harts = self.pace.gate.save(&self.vm).ok_or(MachineError::NotPaused)??;
        self.vm.board().freeze();
        // How long it has been paused is left out later.
        let state = self.vm.save(&harts, self.pace.clock.ticks_before(since.elapsed()));
        if state.is_err() {
            self.vm.board().thaw();
        }
        Ok(state?)
    }

    /// Has the files of the disks tell all that was written to them.
    ///
    /// # Errors
    /// What the host says.
    pub fn flush_disks(&self) -> io::Result<()> {
        self.images.iter().try_for_each(|image| image.flush())
    }

    /// Does something while no hart runs, for a moment that nobody is told of. `None` if the machine is ending.
    pub(crate) fn briefly<T>(&self, what: impl FnOnce() -> T) -> Option<T> {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.is_some() {
            return Some(what());
        }
        self.pace.gate.close(&self.vm).then(|| {
            let answer = what();
            self.pace.gate.open(&self.vm);
            answer
        })
    }

    /// Its disks.
    pub(crate) fn images(&self) -> &[Arc<Tracked>] {
        &self.images
    }

    /// Bytes of each disk, as the guest sees it.
    #[must_use]
    pub fn disk_sizes(&self) -> Vec<u64> {
        self.images.iter().map(|image| image.size()).collect()
    }

    /// Whether a debugger is attached.
    #[must_use]
    pub fn is_debugged(&self) -> bool {
        self.pace.debug.is_connected()
    }

    /// Lets devices and disks go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.vm.board().thaw();
    }

    /// Checks a program and finds its place in this machine's RAM.
    ///
    /// # Errors
    /// If a file isn't what it should be, or there is too little memory.
    pub fn place<'a>(&self, program: &Program<'a>) -> Result<Placed<'a>, MachineError> {
        let mut seed = [0; 32];
        HostEntropy::new()?.fill(&mut seed);
        Ok(program.place(self.vm.config(), &self.vm.memory().range(), &seed)?)
    }

    /// Powers on with `program` and runs until the machine ends. Each reboot starts the program afresh.
    ///
    /// # Errors
    /// If the host has no threads left, or the engines of [`EngineKind::Lockstep`] don't agree.
    pub fn run(
        &self,
        program: &Placed<'_>,
        on_reset: OnReset,
        time_limit: Option<Duration>,
    ) -> Result<Ending, MachineError> {
        let mut load =
            |vm: &HostedVm, harts: &mut [VirtualHart]| program.load(vm, harts).map_err(io::Error::other);
        self.run_with(&mut load, on_reset, time_limit)
    }

    /// The same with a program that is loaded when it is needed: a machine with an [`Origin`] goes on from there, and
    /// needs it only if it is rebooted.
    ///
    /// # Errors
    /// The same.
    pub fn run_with(
        &self,
        program: &mut Loader<'_>,
        on_reset: OnReset,
        time_limit: Option<Duration>,
    ) -> Result<Ending, MachineError> {
        let difference = Arc::new(OnceLock::new());
        let engine: Arc<runner::EngineFactory> = match self.engine {
            EngineKind::Interpreter => Arc::new(|| Ok(Box::new(Interpreter))),
            EngineKind::Translator => {
                let shared = Arc::clone(&self.translator);
                Arc::new(move || Ok(Box::new(Translator::new(&shared)?)))
            }
            EngineKind::Lockstep => {
                let (shared, vm) = (Arc::clone(&self.translator), Arc::clone(&self.vm));
                let (clock, found) = (Arc::clone(&self.stepped), Arc::clone(&difference));
                Arc::new(move || {
                    Ok(Box::new(Lockstep::new(Translator::new(&shared)?, vm.memory(), &clock, &found)?))
                })
            }
        };
        let mut load = |vm: &HostedVm, harts: &mut [VirtualHart]| {
            let origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((state, hold)) = origin {
                vm.restore(&state, harts).map_err(io::Error::other)?;
                hold.map_or(Ok(()), |hold| hold())?;
                // What their back ends have for them came before they were themselves.
                vm.board().thaw();
                return Ok(());
            }
            if let Some(on_power_on) = &self.on_power_on {
                on_power_on();
            }
            program(vm, harts)
        };
        let ending = runner::run(&self.vm, &self.pace, &engine, &mut load, on_reset, time_limit);
        self.pace.debug.bid_farewell();
        self.translator.save();
        match difference.get() {
            Some(text) => Err(MachineError::Difference(text.clone())),
            None => Ok(ending?),
        }
    }
}

/// Lets the device at `base` look at its back end, once the engine gives others a turn.
pub(crate) fn poll(vm: &HostedVm, base: GuestPhysical) {
    let _turn = vm.memory().journal().map(Journal::turn);
    // A hart that is using the device may have lost its processor to this thread.
    while vm.poll(base).is_err() {
        std::thread::yield_now();
    }
}

fn connect(wake: &Wake, vm: &Arc<HostedVm>, window: memory_map::Window) {
    let vm = Arc::downgrade(vm);
    wake.connect(move || {
        if let Some(vm) = vm.upgrade() {
            poll(&vm, window.base);
        }
    });
}

/// One virtio device to be: how to make it, and the wakes that shall poll it.
struct Slot {
    kind: SlotKind,
    build: SlotBuilder<HostMemory>,
    wakes: Vec<Wake>,
}

impl Slot {
    fn new<D: Device + 'static>(
        kind: SlotKind,
        wakes: Vec<Wake>,
        build: impl FnOnce(Arc<HostMemory>, Arc<dyn rvisor_waist::InterruptLine>) -> D + 'static,
    ) -> Self {
        Self { kind, build: Box::new(|memory, line| Box::new(build(memory, line))), wakes }
    }
}

fn slots(
    config: &mut MachineConfig,
    images: &[Arc<Tracked>],
    memory: &Arc<HostMemory>,
    saved: Option<&SavedState>,
) -> Result<(Vec<Slot>, Counters, Option<Ports>), MachineError> {
    let (mut slots, mut counters, mut forwards) = (Vec::new(), Counters::default(), None);
    for (options, image) in config.disks.iter().zip(images) {
        let wake = Wake::new();
        let (path, on_error) = (options.path.clone(), config.on_disk_error.clone());
        let failed = move |error: &io::Error| {
            if let Some(on_error) = &on_error {
                on_error(&path, error);
            }
        };
        let (image, identity) = (Arc::clone(image) as _, options.identity());
        let disk = Disk::new(image, identity, Arc::clone(memory), wake.as_closure(), failed)?;
        counters.disks.push(disk.counters());
        slots.push(Slot::new(SlotKind::Disk, vec![wake], move |memory, line| {
            Transport::new(Blk::new(Box::new(disk)), memory, line)
        }));
    }
    if let Some(options) = &config.network {
        let wake = Wake::new();
        let network = UserNetwork::new(options, wake.as_closure())?;
        counters.network = Some(network.counters());
        forwards = Some(network.ports());
        let mac = match &options.member {
            Some(member) => member.mac(),
            None => random_mac()?,
        };
        let is_assigned = options.member.is_some();
        slots.push(Slot::new(SlotKind::Network, vec![wake], move |memory, line| {
            let card = Net::new(mac, Box::new(network));
            Transport::new(if is_assigned { card.with_assigned_mac() } else { card }, memory, line)
        }));
    }
    if let Some(tap) = &config.tap {
        let wake = Wake::new();
        let network = TapNetwork::new(tap, wake.as_closure())?;
        counters.network = Some(network.counters());
        let mac = tap.mac();
        slots.push(Slot::new(SlotKind::Network, vec![wake], move |memory, line| {
            Transport::new(Net::new(mac, Box::new(network)), memory, line)
        }));
    }
    if !config.ports.is_empty() {
        let wakes = config.ports.iter().map(|port| port.wake.clone()).collect();
        let terminal = Console::unwatched();
        let console = config
            .ports
            .drain(..)
            .fold(terminal, |console, port| console.with_port(&port.name, port.backend));
        slots.push(Slot::new(SlotKind::Console, wakes, move |memory, line| {
            Transport::new(console, memory, line)
        }));
    }
    let entropy = HostEntropy::new()?;
    slots.push(Slot::new(SlotKind::Entropy, Vec::new(), move |memory, line| {
        Transport::new(Rng::new(Box::new(entropy)), memory, line)
    }));
    slots.extend(shares(config, memory)?);
    // It can be done without where disks take all slots; and machines that come from the type-1 home do without.
    let has_balloon = match saved {
        Some(state) => MetalSlots::of(&state.slots()?).map_or(true, |slots| slots.balloon),
        None => true,
    };
    if has_balloon && slots.len() < VIRTIO_SLOTS as usize {
        slots.push(Slot::new(SlotKind::Balloon, Vec::new(), |memory, line| {
            Transport::new(Balloon::new(), memory, line)
        }));
    }
    let slots = in_order(slots.into_iter().map(|slot| (slot.kind, slot)).collect());
    Ok((slots, counters, forwards))
}

fn shares(config: &MachineConfig, memory: &Arc<HostMemory>) -> Result<Vec<Slot>, MachineError> {
    let mut slots = Vec::new();
    let mut add = |wake, shares| {
        slots.push(Slot::new(SlotKind::Shares, vec![wake], move |memory, line| {
            Transport::new(P9::new(Box::new(shares)), memory, line)
        }));
    };
    if let Some(options) = &config.shares {
        let wake = Wake::new();
        let shares = Shares::listed(options, SHARES_TAG, Arc::clone(memory), wake.as_closure())?;
        add(wake, shares);
    }
    for options in &config.tagged_shares {
        let wake = Wake::new();
        let shares = Shares::single(options, Arc::clone(memory), wake.as_closure())?;
        add(wake, shares);
    }
    Ok(slots)
}
