//! From the firmware's entry to harts that run guests.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use rvisor_machine::bundle;
use rvisor_waist::Clock;
use spin::{Mutex, Once};

use super::assembly as asm;
use super::context::HartContext;
use super::frames::Frames;
use super::layout::{self, DIRECT_MAP, DIRECT_MAP_SIZE, HART_STACK, IMAGE_BASE};
use super::mmio::Registers;
use super::paging::{AddressSpace, TablePages};
use super::processor::{Features, PhysicalHart, probe};
use super::virtio::Device;
use super::{console, heap, hypervisor, sbi};
use crate::address::MachineAddress;
use crate::driver::plic::Plic;
use crate::hardware::Found;
use crate::home::{self, Home, say};
use crate::options::{Failure, Options};
use crate::platform::{Platform, PlatformError};
use crate::pte::Pte;
use crate::setup;

const MIB: u64 = 1 << 20;
/// For the monitor's own page tables, with 4 KiB pages in the worst case.
const TABLES: u64 = 2 * MIB;

/// What a hart that is started finds at its argument.
#[repr(C)]
struct SecondaryEntry {
    satp: u64,
    stack: u64,
    index: u64,
}

/// What harts started later take from the first.
struct Harts {
    features: Features,
    failure: Option<Failure>,
    contexts: Mutex<Vec<Option<Box<HartContext>>>>,
    ids: Vec<u64>,
    home: &'static Home,
}

static HARTS: Once<Harts> = Once::new();

/// Id of the physical hart with this index, once they are known.
pub fn hart_id(index: usize) -> Option<u64> {
    HARTS.get()?.ids.get(index).copied()
}

/// Time as the hardware counts it.
struct HardwareClock {
    /// Nanoseconds since 1970 at `time` 0.
    epoch: u64,
}

impl Clock for HardwareClock {
    fn ticks(&self) -> u64 {
        asm::read_time()
    }

    fn wall_nanoseconds(&self) -> u64 {
        self.epoch.wrapping_add(asm::read_time().wrapping_mul(NANOSECONDS_A_TICK))
    }
}

const NANOSECONDS_A_TICK: u64 = 1_000_000_000 / rvisor_waist::TIMEBASE_FREQUENCY;

/// The first hart, translation just switched on with the boot tables.
#[unsafe(no_mangle)]
extern "C" fn start_boot_hart(hart_id: u64, tree: MachineAddress, loaded_at: MachineAddress) -> ! {
    console::init(loaded_at);
    match start(hart_id, tree, loaded_at) {
        Ok((mut hart, home)) => home::run(&mut hart, home),
        Err(error) => {
            say(format_args!("error: {error}"));
            sbi::shut_down(true)
        }
    }
}

/// Apart from who calls it, so that guests don't run on top of what it has on the stack.
#[inline(never)]
fn start(
    hart_id: u64,
    tree: MachineAddress,
    loaded_at: MachineAddress,
) -> Result<(PhysicalHart, &'static Home), setup::SetupError> {
    let tree_bytes = device_tree(tree)?;
    let mut platform = Platform::read(tree_bytes, tree)?;
    let image_end = loaded_at.offset(&raw const asm::__image_end as u64 - IMAGE_BASE);
    // To a whole large page: the direct map leaves the image out.
    let image = loaded_at..MachineAddress(image_end.0.next_multiple_of(2 * MIB));
    platform.memory.remove(image.clone());
    platform.memory.remove(MachineAddress(DIRECT_MAP_SIZE)..MachineAddress(u64::MAX));

    let heap_size = (platform.memory.total() / 8).clamp(8 * MIB, 256 * MIB) & !(2 * MIB - 1);
    let lacks = || PlatformError::Lacks("enough memory");
    let heap = platform.memory.take(heap_size, 2 * MIB).ok_or_else(lacks)?;
    let tables = platform.memory.take(TABLES, 4096).ok_or_else(lacks)?;
    // SAFETY: taken from the free memory, which the boot tables map.
    unsafe { heap::init(heap.start, heap_size as usize) };
    // SAFETY: taken from the free memory.
    let tables = unsafe { TablePages::new(tables) };

    let mut ids: Vec<u64> = platform.harts().filter(|id| *id != hart_id).collect();
    ids.insert(0, hart_id);
    let stacks = match (ids.len() - 1) * HART_STACK {
        0 => MachineAddress(0)..MachineAddress(0),
        size => platform.memory.take(size as u64, 4096).ok_or_else(lacks)?,
    };
    let contexts: Vec<_> = ids.iter().map(|_| Box::<HartContext>::default()).collect();
    let (satp, window) = build_tables(&platform, loaded_at, &image, tables, &contexts, hart_id, stacks);
    // SAFETY: the tables map the image where it is, and everything the monitor has used so far.
    unsafe { asm::write_satp(satp) };
    asm::fence_all();
    let mut features = probe(|name| platform.has_extension(name));
    let options = Options::read(platform.command_line(), |word| {
        say(format_args!("the command line's {word:?} says nothing to the monitor; leave it out"));
    });
    if features.hypervisor && !hypervisor::has_stage(options.stage) {
        return Err(setup::SetupError::NoStage(options.stage));
    }
    features.sequences = features.shortcuts && options.sequences;
    // Where it isn't said, copies are worth their while if illegal instructions go by way of the firmware. Without sequences, each
    // breakpoint would lead to the monitor.
    let patches = features.sequences && !features.hypervisor && options.patching.unwrap_or(features.detour);
    describe(&platform, &features, patches, ids.len());

    let clock = Arc::new(HardwareClock { epoch: read_clock(&platform) });
    let bundle = platform.initrd.clone().ok_or(setup::SetupError::NoBundle)?;
    // SAFETY: taken out of the free memory; nobody writes to it.
    let bundle = bundle::read(unsafe { bytes(&bundle) })?;
    // SAFETY: what is left of the free memory; the direct map has it.
    let frames = unsafe { Frames::new(&mut platform.memory, DIRECT_MAP) };
    let resources = setup::Resources {
        stage: options.stage,
        harts: ids.len(),
        frames,
        found: find_devices(&platform, &ids),
        hypervisor: features.hypervisor.then(hypervisor::largest_mode),
        isa: &|name| platform.has_extension(name),
        heap: heap::left(),
        clock,
        moves_time: features.hypervisor || sbi::leaves_time(),
        window,
        locate: |tables| heap::machine_address(tables),
        copies: patches.then_some(setup::CopyPlaces {
            locate: |texts| heap::machine_address(texts),
            interrupt: super::interrupt,
        }),
        output: console::write,
    };
    let home = setup::home(bundle, resources)?;
    let mut words = String::new();
    // A string takes everything.
    let _ = home.hardware.describe(&mut words);
    say(format_args!("{words}"));
    let home = home::open(home);

    let mut contexts: Vec<_> = contexts.into_iter().map(Some).collect();
    let first = contexts[0].take().ok_or_else(lacks)?;
    let contexts = Mutex::new(contexts);
    HARTS.call_once(|| Harts { features, failure: options.failure, contexts, ids, home });
    if !home.start_guests() {
        return Err(setup::SetupError::NoGuest);
    }
    start_others(satp, loaded_at);
    fail_if_asked(0);
    Ok((PhysicalHart::new(0, first, features), home))
}

fn device_tree(at: MachineAddress) -> Result<&'static [u8], PlatformError> {
    const SIZE_FIELD: u64 = 4;
    const LARGEST: u64 = 2 * MIB;
    if at.0 == 0 || !at.is_aligned(4) || at.0 > DIRECT_MAP_SIZE - LARGEST {
        return Err(PlatformError::DeviceTree);
    }
    // SAFETY: the firmware says that there is a device tree; the boot tables map it.
    let size = unsafe { *(layout::direct(at.offset(SIZE_FIELD)) as *const u32) };
    let size = u64::from(u32::from_be(size)).min(LARGEST);
    // SAFETY: as above; it is taken out of the free memory before anything is written there.
    Ok(unsafe { bytes(&(at..at.offset(size))) })
}

/// # Safety
/// The memory is mapped in the direct map, and nobody writes to it any more.
unsafe fn bytes(memory: &Range<MachineAddress>) -> &'static [u8] {
    let length = (memory.end.0 - memory.start.0) as usize;
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts(layout::direct(memory.start) as *const u8, length) }
}

/// The monitor's final tables: `satp` and the window's entry.
fn build_tables(
    platform: &Platform<'_>,
    loaded_at: MachineAddress,
    image: &Range<MachineAddress>,
    pages: TablePages,
    contexts: &[Box<HartContext>],
    hart_id: u64,
    stacks: Range<MachineAddress>,
) -> (u64, Pte) {
    let mut space = AddressSpace::new(pages);
    space.map_stacks(stacks);
    space.map_image(loaded_at);
    let mut memory = platform.all_memory.clone();
    memory.remove(image.clone());
    memory.iter().for_each(|range| space.map_direct(range));
    let rtc = platform.rtc.map(|rtc| rtc..rtc.offset(4096));
    let plic = platform.plic(hart_id).map(|(range, _)| range);
    for device in rtc.into_iter().chain(plic).chain(platform.virtio().map(|(range, _)| range)) {
        let start = MachineAddress(device.start.0 & !4095);
        space.map_direct(start..MachineAddress(device.end.0.next_multiple_of(4096)));
    }
    let code = loaded_at.offset(&raw const asm::trampoline as u64 - IMAGE_BASE);
    let contexts: Vec<_> = contexts.iter().map(|context| heap::machine_address(&**context)).collect();
    let window = space.map_window(code, &contexts);
    let (satp, _) = space.finish();
    (satp, window)
}

fn describe(platform: &Platform<'_>, features: &Features, patches: bool, harts: usize) {
    let Features { asid_bits, sstc, hypervisor, svadu, .. } = *features;
    let has = |is_there, name: &'static str| if is_there { name } else { "" };
    let (firmware, version) = sbi::implementation();
    let memory = platform.all_memory.total() / MIB;
    say(format_args!(
        "{} on {harts} harts, {memory} MiB, {asid_bits} ASID bits{}{}{}; firmware {firmware:#x} version {version:#x}; \
         engine {}{}",
        env!("CARGO_PKG_VERSION"),
        has(sstc, ", Sstc"),
        has(svadu, ", Svadu"),
        has(hypervisor, ", H"),
        if hypervisor { "vs" } else { "deprivileged" },
        has(patches, ", patching"),
    ));
}

/// Nanoseconds since 1970 at `time` 0, by the hardware's clock; 0 without one.
fn read_clock(platform: &Platform<'_>) -> u64 {
    const TIME_LOW: u64 = 0;
    const TIME_HIGH: u64 = 4;
    let Some(rtc) = platform.rtc else { return 0 };
    let register = |offset| {
        // SAFETY: the device tree says that this clock is there; `build_tables` has mapped it. Reading the low half
        // latches the high one.
        u64::from(unsafe { core::ptr::read_volatile(layout::direct(rtc.offset(offset)) as *const u32) })
    };
    let low = register(TIME_LOW);
    let now = register(TIME_HIGH) << 32 | low;
    now.wrapping_sub(asm::read_time().wrapping_mul(NANOSECONDS_A_TICK))
}

/// The devices of the device tree that there are drivers for. Interrupts go to these harts, of which the first is this one.
fn find_devices(platform: &Platform<'_>, harts: &[u64]) -> Found {
    let plic = harts.first().and_then(|first| platform.plic(*first)).map(|(range, _)| {
        // SAFETY: the device tree says that it is there; `build_tables` has mapped it; it touches no memory.
        let registers = unsafe { Registers::new(range.start, range.end.0 - range.start.0) };
        Plic::new(registers, harts.iter().map(|hart| Some(platform.plic(*hart)?.1)))
    });
    let virtio = platform.virtio().filter_map(|(range, source)| {
        // SAFETY: the same; nobody else drives it.
        let device = unsafe { Device::open(range.start, range.end.0 - range.start.0) };
        Some((device?, source))
    });
    Found { plic, virtio: virtio.collect(), seed: platform.seed() }
}

/// Fails on the last hart if the command line asks for that.
fn fail_if_asked(index: usize) {
    /// More than any stack has room for.
    fn overrun(depth: usize) -> usize {
        let frame = core::hint::black_box([depth; 128]);
        if depth == 0 { frame[0] } else { overrun(depth - 1) + frame[1] }
    }
    let Some(harts) = HARTS.get().filter(|harts| index + 1 == harts.ids.len()) else { return };
    match harts.failure {
        Some(Failure::Panic) => panic!("fail=panic on the command line"),
        Some(Failure::Overrun) => say(format_args!("{} is no depth", overrun(1 << 20))),
        None => {}
    }
}

/// Starts every other hart; one that the firmware refuses stays off.
fn start_others(satp: u64, loaded_at: MachineAddress) {
    let Some(harts) = HARTS.get() else { return };
    let entry = loaded_at.offset(&raw const asm::start_secondary as u64 - IMAGE_BASE);
    for (index, id) in harts.ids.iter().enumerate().skip(1) {
        let stack = layout::stack(index).end;
        let argument = Box::leak(Box::new(SecondaryEntry { satp, stack, index: index as u64 }));
        // SAFETY: the entry and its argument are made for it, and stay.
        if let Err(error) = unsafe { sbi::start_hart(*id, entry, heap::machine_address(argument)) } {
            say(format_args!("hart {id} stays off: the firmware says {error}"));
            harts.home.hardware.leave_out(index);
        }
    }
}

/// The other harts, on the monitor's tables.
#[unsafe(no_mangle)]
extern "C" fn start_secondary_hart(index: usize) -> ! {
    asm::fence_all();
    let context = HARTS.get().and_then(|harts| {
        let context = harts.contexts.lock().get_mut(index)?.take()?;
        Some((harts, context))
    });
    let Some((harts, context)) = context else { panic!("hart {index} was not to be started") };
    let mut hart = PhysicalHart::new(index, context, harts.features);
    harts.home.hardware.attach(index);
    fail_if_asked(index);
    home::run(&mut hart, harts.home)
}
