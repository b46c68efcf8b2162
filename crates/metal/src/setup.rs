//! From a bundle to guests that can be switched on.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;

use rvisor_machine::bundle::{Bundle, BundleError, BundledGuest, ConsoleDevice};
use rvisor_machine::fit::{FitError, Limits, fit_guest};
use rvisor_machine::memory_map::RAM_BASE;
use rvisor_machine::persist::SavedState;
use rvisor_machine::slots::MetalSlots;
use rvisor_machine::{Extensions, TranslationMode, VirtualHart, VmConfig};
use rvisor_waist::Clock;
use spin::Mutex;
use thiserror::Error;

use crate::address::MachineAddress;
use crate::arch::Frames;
use crate::backend::disk::RangeError;
use crate::clock::GuestClock;
use crate::copies::{Copies, Text};
use crate::engine::{Statistics, Tables};
use crate::guest::{Guest, Places, Task};
use crate::hardware::{Found, Hardware};
use crate::home::{self, HartState, Home};
use crate::platform::PlatformError;
use crate::pte::Pte;
use crate::queue::{Queue, Share};
use crate::shadow::{LEAST_TABLES, Pool, Shadow, Stage, StageMode, Table};
use crate::stuck::Watch;
use crate::terminal::{Output, Terminal};

/// Why no guest can run.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The hardware.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// No initrd.
    #[error("no bundle: give one to the boot loader as the initrd")]
    NoBundle,
    /// Levels that the hardware doesn't have.
    #[error("the hardware has no {0:?}; leave stage= out of the command line")]
    NoStage(StageMode),
    /// The initrd isn't a bundle.
    #[error("the initrd: {0}")]
    Bundle(#[from] BundleError),
    /// Too little memory for the monitor itself.
    #[error("the guests' harts need {need} MiB of the monitor's memory, there are {have}; give fewer harts")]
    Heap {
        /// What there is, in MiB.
        have: u64,
        /// What is needed, in MiB.
        need: u64,
    },
    /// A guest's part of the disk.
    #[error("guest {name}: {error}")]
    Disk {
        /// Which guest.
        name: &'static str,
        /// What is wrong.
        error: RangeError,
    },
    /// A guest's save area.
    #[error("guest {name}: its save area: {error}")]
    Area {
        /// Which guest.
        name: &'static str,
        /// What is wrong.
        error: RangeError,
    },
    /// A guest that was saved.
    #[error("guest {name}: it can't go on: {error}")]
    Saved {
        /// Which guest.
        name: &'static str,
        /// What is wrong.
        error: FitError,
    },
    /// A guest that may run nowhere.
    #[error("guest {0}: its affinity has none of the {1} physical harts")]
    Affinity(&'static str, usize),
    /// No guest could be switched on.
    #[error("no guest could be started")]
    NoGuest,
}

/// Extensions that the monitor gives whatever the hardware has: by its page-table walk, or by emulation of what
/// traps.
const EMULATED: [&str; 10] =
    ["zicntr", "zicsr", "zifencei", "zihpm", "smstateen", "sstc", "svadu", "svinval", "svnapot", "svvptc"];

/// Extensions that a guest in U-mode would have at the price of a trap each time, so that it is better off
/// without.
const TOO_SLOW: [&str; 3] = ["zicbom", "zicbop", "zicboz"];

/// What other extensions stand for: device trees needn't name them.
const IMPLIED: [&str; 5] = ["zmmul", "zaamo", "zalrsc", "zca", "zcd"];

/// Extensions that guests are told of. With the H extension, they have what the hardware has.
fn given(isa: impl Fn(&str) -> bool, hypervisor: bool) -> Extensions {
    const BASE: [&str; 4] = ["zicntr", "zicsr", "zifencei", "zihpm"];
    let emulated: &[&str] = if hypervisor { &BASE } else { &EMULATED };
    Extensions::of(|name| !TOO_SLOW.contains(&name) && (emulated.contains(&name) || isa(name)))
}

/// Extensions of guests that go on from elsewhere: those, and what is only slow. Without the H extension, instructions of
/// cache blocks are emulated whatever the hardware has.
fn usable(isa: impl Fn(&str) -> bool, hypervisor: bool) -> Extensions {
    let given = given(&isa, hypervisor);
    let is_slow = |name: &str| TOO_SLOW.contains(&name) && (!hypervisor || isa(name));
    Extensions::of(|name| given.contains(name) || is_slow(name) || IMPLIED.contains(&name))
}

/// What the hardware gives for the guests.
pub struct Resources<'a> {
    /// Number of physical harts.
    pub harts: usize,
    /// Memory.
    pub frames: Arc<Frames>,
    /// Devices.
    pub found: Found,
    /// Largest mode of translation of the hardware, where guests use it themselves: with the H extension.
    pub hypervisor: Option<TranslationMode>,
    /// How many levels guests' memory is translated in there.
    pub stage: StageMode,
    /// Whether the hardware has an extension.
    pub isa: &'a dyn Fn(&str) -> bool,
    /// Bytes of the heap that are left.
    pub heap: u64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Whether guests can have a time of their own.
    pub moves_time: bool,
    /// The entry of a shadow root that leads to the window.
    pub window: Pte,
    /// Machine address of tables on the heap.
    pub locate: fn(&[Table]) -> MachineAddress,
    /// Where guests' copies of their text are, if they have any.
    pub copies: Option<CopyPlaces>,
    /// The physical console.
    pub output: Output,
}

/// What copies of guests' text (`crate::copies`) need of the hardware.
pub struct CopyPlaces {
    /// Machine address of copies on the heap.
    pub locate: fn(&[Text]) -> MachineAddress,
    /// Makes a physical hart leave its guest.
    pub interrupt: fn(usize),
}

/// Makes the guests of a bundle, all of them off.
pub fn home(bundle: Bundle<'static>, resources: Resources<'_>) -> Result<Home, SetupError> {
    let Bundle { settings, guests: bundled } = bundle;
    check_heap(&bundled, resources.copies.is_some(), resources.heap)?;
    let has_hypervisor = resources.hypervisor.is_some();
    let extensions = given(resources.isa, has_hypervisor);
    // The shadow tables are Sv39.
    let translation = resources.hypervisor.unwrap_or(TranslationMode::Sv39);
    let names: Vec<_> = bundled.iter().map(|guest| guest.name).collect();
    let terminal = Terminal::new(&names, settings.prefix, resources.output);
    let hardware = Hardware::new(resources.found, settings.uplink, home::device_ready);
    let entropy = hardware.has_entropy();
    let limits = Limits { translation, extensions: usable(resources.isa, has_hypervisor), entropy };
    let mut queue = Queue::new(resources.harts, u64::from(settings.slice) * home::MILLISECOND);
    let (mut guests, mut tasks) = (Vec::new(), Vec::new());
    for (index, mut bundled) in bundled.into_iter().enumerate() {
        let name = bundled.name;
        let affinity = affinity(&bundled, resources.harts)?;
        if let Some(range) = &mut bundled.disk {
            *range = hardware.check(*range).map_err(|error| SetupError::Disk { name, error })?;
        }
        if let Some(range) = &mut bundled.save {
            *range = hardware.check(*range).map_err(|error| SetupError::Area { name, error })?;
        }
        let fresh = VmConfig {
            harts: bundled.harts as usize,
            machine_mode: false,
            translation,
            hypervisor: false,
            extensions,
        };
        let (config, devices) = match &bundled.saved {
            Some(saved) => SavedState::new(saved.state.to_vec())
                .map_err(FitError::from)
                .and_then(|state| fit_guest(&bundled, &state, &limits))
                .map_err(|error| SetupError::Saved { name, error })?,
            None => {
                let mac = bundled.network.map(|network| network.mac);
                (fresh, MetalSlots::fresh(bundled.disk.is_some(), mac, entropy))
            }
        };
        let group = queue.add_group(Share { weight: bundled.weight, cap: bundled.cap, affinity });
        let ids: Vec<_> = (0..bundled.harts).map(|_| queue.add(group)).collect();
        let mut memory = resources.frames.partition(RAM_BASE, bundled.memory);
        if let Some(CopyPlaces { locate, interrupt }) = resources.copies {
            let ram = RAM_BASE..RAM_BASE.offset(bundled.memory);
            memory = memory.with_copies(Copies::new(&ram, resources.harts, locate, interrupt));
        }
        let memory = Arc::new(memory);
        let slots = hardware.slots(index, &bundled, &memory, devices, &terminal);
        let is_serial = bundled.console == ConsoleDevice::Serial;
        let serial = if is_serial { terminal.port(index) } else { terminal.output(index) };
        let guest = Guest::new(
            bundled,
            config,
            memory,
            Arc::new(GuestClock::new(Arc::clone(&resources.clock), resources.moves_time)),
            [serial, terminal.port(index)],
            slots,
            Places { tasks: ids, group },
        );
        for hart in 0..guest.tasks.len() {
            let tables = if resources.hypervisor.is_some() {
                let ram = RAM_BASE..RAM_BASE.offset(guest.bundled.memory);
                Tables::Stage(Stage::new(&ram, resources.stage, resources.locate))
            } else {
                let pool = Pool::new(tables(guest.bundled.memory), resources.locate);
                Tables::Shadow(Shadow::new(pool, resources.window, tasks.len() as u16))
            };
            let task = Task {
                hart: VirtualHart::new(hart, &guest.vm),
                tables,
                statistics: Statistics::default(),
                watch: Watch::default(),
                trace: None,
            };
            tasks.push((index, Mutex::new(task)));
        }
        guests.push(guest);
    }
    Ok(Home {
        guests,
        tasks,
        queue: Mutex::new(queue),
        terminal,
        hardware,
        frames: resources.frames,
        harts: (0..resources.harts).map(|_| HartState::default()).collect(),
        power: Mutex::new(()),
        failed: AtomicBool::new(false),
    })
}

/// The physical harts that a guest may run on.
fn affinity(guest: &BundledGuest<'static>, harts: usize) -> Result<u64, SetupError> {
    let all = u64::MAX >> (64 - harts.clamp(1, 64));
    match guest.affinity {
        0 => Ok(0),
        mask if mask & all == 0 => Err(SetupError::Affinity(guest.name, harts)),
        mask => Ok(mask & all),
    }
}

/// Refuses guests for which the heap is too small, before it runs out.
fn check_heap(bundle: &[BundledGuest<'_>], has_copies: bool, have: u64) -> Result<(), SetupError> {
    /// Of a virtual hart, beside its shadow tables: its state, software TLB and the like.
    const HART: u64 = 512 << 10;
    /// Of a guest, beside its harts: devices, device tree, and what is on the way to disk and network.
    const GUEST: u64 = 2 << 20;
    let copies = if has_copies { Copies::SIZE } else { 0 };
    let of_hart = |guest: &BundledGuest<'_>| HART + 4096 * u64::from(tables(guest.memory));
    let need: u64 = bundle.iter().map(|guest| GUEST + copies + u64::from(guest.harts) * of_hart(guest)).sum();
    if need <= have { Ok(()) } else { Err(SetupError::Heap { have: have >> 20, need: (need >> 20) + 1 }) }
}

/// Shadow tables of each virtual hart of a guest with so many bytes of memory: a 128th of it.
fn tables(memory: u64) -> u32 {
    const MOST: u32 = 4096;
    u32::try_from(memory / 128 / 4096).unwrap_or(MOST).clamp(LEAST_TABLES, MOST)
}
