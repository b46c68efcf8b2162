//! From a bundle to guests that are ready to run.

use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_machine::boot::BootError;
use rvisor_machine::bundle::{BundleError, BundledGuest};
use rvisor_machine::device_tree;
use rvisor_waist::Clock;
use spin::Mutex;
use thiserror::Error;

use crate::address::MachineAddress;
use crate::arch::Partition;
use crate::engine::Statistics;
use crate::guest::{Guest, Task};
use crate::home::Home;
use crate::platform::PlatformError;
use crate::pte::Pte;
use crate::queue::Queue;
use crate::shadow::{LEAST_TABLES, Pool, Shadow, Table};
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
    /// The initrd isn't a bundle.
    #[error("the initrd: {0}")]
    Bundle(#[from] BundleError),
    /// Too little memory.
    #[error("guest {name}: no {size} MiB of memory in one piece are left")]
    Memory {
        /// Which guest.
        name: &'static str,
        /// What it wants, in MiB.
        size: u64,
    },
    /// Too little memory for the monitor itself.
    #[error("the guests' harts need {need} MiB of the monitor's memory, there are {have}; give fewer harts")]
    Heap {
        /// What there is, in MiB.
        have: u64,
        /// What is needed, in MiB.
        need: u64,
    },
    /// A guest's files.
    #[error("guest {name}: {error}")]
    Guest {
        /// Which guest.
        name: &'static str,
        /// What is wrong.
        error: BootError,
    },
}

/// Extensions that the monitor gives whatever the hardware has: by its page-table walk, or by emulation of what
/// traps.
const EMULATED: [&str; 10] =
    ["zicntr", "zicsr", "zifencei", "zihpm", "smstateen", "sstc", "svadu", "svinval", "svnapot", "svvptc"];

/// Extensions that a guest in U-mode would have at the price of a trap each time, so that it is better off
/// without.
const TOO_SLOW: [&str; 3] = ["zicbom", "zicbop", "zicboz"];

/// Extensions of the board that guests don't get here.
fn lacking(isa: impl Fn(&str) -> bool) -> &'static [&'static str] {
    let is_lacking = |name: &&'static str| TOO_SLOW.contains(name) || !EMULATED.contains(name) && !isa(name);
    let names: Vec<_> = device_tree::EXTENSIONS.into_iter().filter(is_lacking).collect();
    names.leak()
}

/// What the hardware gives for the guests.
pub struct Resources<'a> {
    /// Number of physical harts.
    pub harts: usize,
    /// Takes a guest's memory out of what is free.
    pub partition: &'a mut dyn FnMut(u64) -> Option<Partition>,
    /// Whether the hardware has an extension.
    pub isa: &'a dyn Fn(&str) -> bool,
    /// Bytes of the heap that are left.
    pub heap: u64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The entry of a shadow root that leads to the window.
    pub window: Pte,
    /// Machine address of tables on the heap.
    pub locate: fn(&[Table]) -> MachineAddress,
    /// The physical console.
    pub output: Output,
}

/// Makes the guests of a bundle and switches them on.
pub fn home(bundle: Vec<BundledGuest<'static>>, resources: Resources<'_>) -> Result<Home, SetupError> {
    check_heap(&bundle, resources.heap)?;
    let lacking = lacking(resources.isa);
    let names: Vec<_> = bundle.iter().map(|guest| guest.name).collect();
    let terminal = Terminal::new(&names, resources.output);
    let mut queue = Queue::new(resources.harts);
    let (mut guests, mut tasks) = (Vec::new(), Vec::new());
    for (index, bundled) in bundle.into_iter().enumerate() {
        let (name, size) = (bundled.name, bundled.memory);
        let memory = (resources.partition)(size).ok_or(SetupError::Memory { name, size: size >> 20 })?;
        // A guest's weight is that of all its harts together.
        let weight = (bundled.weight / bundled.harts).max(1);
        let ids: Vec<_> = (0..bundled.harts).map(|_| queue.add(weight)).collect();
        let failed = |error| SetupError::Guest { name, error };
        let clock = Arc::clone(&resources.clock);
        let guest = Guest::new(bundled, memory, clock, &terminal, index, lacking, ids).map_err(failed)?;
        for hart in guest.power_on().map_err(failed)? {
            let pool = Pool::new(tables(size), resources.locate);
            let shadow = Shadow::new(pool, resources.window);
            tasks.push((index, Mutex::new(Task { hart, shadow, statistics: Statistics::default() })));
        }
        guests.push(guest);
    }
    Ok(Home { guests, tasks, queue: Mutex::new(queue), terminal })
}

/// Refuses guests for which the heap is too small, before it runs out.
fn check_heap(bundle: &[BundledGuest<'_>], have: u64) -> Result<(), SetupError> {
    /// Of a virtual hart, beside its shadow tables: its state, software TLB and the like.
    const HART: u64 = 512 << 10;
    /// Of a guest, beside its harts: devices and device tree.
    const GUEST: u64 = 1 << 20;
    let of_hart = |guest: &BundledGuest<'_>| HART + 4096 * u64::from(tables(guest.memory));
    let need: u64 = bundle.iter().map(|guest| GUEST + u64::from(guest.harts) * of_hart(guest)).sum();
    if need <= have { Ok(()) } else { Err(SetupError::Heap { have: have >> 20, need: (need >> 20) + 1 }) }
}

/// Shadow tables of each virtual hart of a guest with so many bytes of memory: a 128th of it.
fn tables(memory: u64) -> u32 {
    const MOST: u32 = 4096;
    u32::try_from(memory / 128 / 4096).unwrap_or(MOST).clamp(LEAST_TABLES, MOST)
}
