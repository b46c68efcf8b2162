//! One virtual machine: memory, board, clock, and what its harts share.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_devices::aclint::{Comparator, Mswi, Mtimer, Sswi};
use rvisor_devices::finisher::{Finisher, PowerRequest};
use rvisor_devices::plic::Plic;
use rvisor_devices::rtc::Rtc;
use rvisor_devices::uart::Uart;
use rvisor_hart::{Environment, TranslationMode};
use rvisor_virtio::EmptySlot;
use rvisor_waist::{Clock, ConsoleBackend, Device, GuestMemory, GuestPhysical, InterruptLine};
use spin::{Mutex, MutexGuard};

use crate::board::{Board, Busy};
use crate::debug::DebugControl;
use crate::extensions::Extensions;
use crate::memory_map as map;
use crate::power::Power;
use crate::signals::{HartLine, HartSignals, HartState, SoftwareInterruptPulse, TimerChanged};

/// Bits of `mip` (Privileged ISA, "Machine Interrupt-Pending and Interrupt-Enable Registers").
mod mip {
    pub const MSIP: u64 = 1 << 3;
    pub const MTIP: u64 = 1 << 7;
    pub const SEIP: u64 = 1 << 9;
    pub const MEIP: u64 = 1 << 11;
}

/// Largest number of harts on a board.
pub const MAX_HARTS: usize = 64;

/// The processor side of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmConfig {
    /// Number of harts, 1 to [`MAX_HARTS`].
    pub harts: usize,
    /// Whether the guest's own firmware runs in M-mode. Otherwise the monitor is the SBI implementation.
    pub machine_mode: bool,
    /// Largest translation mode of `satp`.
    pub translation: TranslationMode,
    /// Whether the harts have the hypervisor extension.
    pub hypervisor: bool,
    /// The other extensions that the guest is told of.
    pub extensions: Extensions,
}

/// Makes the device of a virtio-mmio slot, given the VM's memory and the slot's interrupt line.
pub type SlotBuilder<M> = Box<dyn FnOnce(Arc<M>, Arc<dyn InterruptLine>) -> Box<dyn Device>>;

/// Back ends of the board's devices.
pub struct Backends<M> {
    /// The UART's line.
    pub serial: Box<dyn ConsoleBackend>,
    /// Where SBI console calls print; usually the same terminal as `serial`, from which they read.
    pub sbi_console: Box<dyn ConsoleBackend>,
    /// Devices of the virtio-mmio slots, at most [`VIRTIO_SLOTS`](crate::memory_map::VIRTIO_SLOTS); the rest stay empty.
    pub virtio: Vec<SlotBuilder<M>>,
}

/// A virtual machine, shared by the threads that run it.
pub struct Vm<M> {
    config: VmConfig,
    memory: Arc<M>,
    clock: Arc<dyn Clock>,
    board: Board,
    harts: Vec<Arc<HartSignals>>,
    console: Mutex<Box<dyn ConsoleBackend>>,
    power: Arc<Power>,
    host_interface: Mutex<Option<crate::HostInterface>>,
    debug: DebugControl,
}

impl<M: GuestMemory + 'static> Vm<M> {
    /// A machine that is powered off: no hart is started.
    ///
    /// # Panics
    /// If there are no harts or too many, or more virtio devices than slots: the home checks before.
    #[must_use]
    pub fn new(config: VmConfig, memory: Arc<M>, clock: Arc<dyn Clock>, backends: Backends<M>) -> Self {
        assert!((1..=MAX_HARTS).contains(&config.harts), "{} harts", config.harts);
        assert!(
            backends.virtio.len() <= map::VIRTIO_SLOTS as usize,
            "{} virtio devices",
            backends.virtio.len()
        );
        let harts: Vec<_> =
            (0..config.harts).map(|_| Arc::new(HartSignals::new(HartState::Stopped))).collect();
        let power = Arc::new(Power::new(harts.clone()));
        let board = assemble(&config, &memory, &clock, &harts, &power, backends.serial, backends.virtio);
        Self {
            config,
            memory,
            clock,
            board,
            harts,
            console: Mutex::new(backends.sbi_console),
            power,
            host_interface: Mutex::new(None),
            debug: DebugControl::default(),
        }
    }
}

/// Wires the devices of the board together.
fn assemble<M: GuestMemory + 'static>(
    config: &VmConfig,
    memory: &Arc<M>,
    clock: &Arc<dyn Clock>,
    harts: &[Arc<HartSignals>],
    power: &Arc<Power>,
    serial: Box<dyn ConsoleBackend>,
    virtio: Vec<SlotBuilder<M>>,
) -> Board {
    let lines = |mask| -> Vec<Arc<dyn InterruptLine>> {
        harts.iter().map(|hart| Arc::new(HartLine::new(hart, mask)) as _).collect()
    };
    // Contexts as the device tree lists them: M-mode and S-mode of hart 0, of hart 1, and so on; without
    // software in M-mode only those of S-mode.
    let supervisor = lines(mip::SEIP);
    let contexts = if config.machine_mode {
        lines(mip::MEIP)
            .into_iter()
            .zip(supervisor)
            .flat_map(|(machine, supervisor)| [machine, supervisor])
            .collect()
    } else {
        supervisor
    };
    let plic = Plic::new(contexts);
    let irq = |source: u32| plic.source(source).expect("the board's table names sources that the PLIC has");
    let mut board = Board::new();

    let switch = Arc::clone(power);
    board.attach(
        map::FINISHER,
        Box::new(Finisher::new(Box::new(move |request: PowerRequest| switch.request(request)))),
    );
    board.attach(map::RTC, Box::new(Rtc::new(Arc::clone(clock), irq(map::RTC_IRQ))));
    board.attach(map::UART, Box::new(Uart::new(serial, irq(map::UART_IRQ))));
    let mut virtio = virtio.into_iter();
    for slot in 0..map::VIRTIO_SLOTS {
        let device = match virtio.next() {
            Some(build) => build(Arc::clone(memory), irq(map::virtio_irq(slot))),
            None => Box::new(EmptySlot),
        };
        board.attach(map::virtio(slot), device);
    }
    if config.machine_mode {
        let comparators = harts.iter().map(|hart| Comparator {
            deadline: Arc::clone(hart.machine_timer()),
            changed: Arc::new(TimerChanged(Arc::clone(hart))),
        });
        board.attach(map::MSWI, Box::new(Mswi::new(lines(mip::MSIP))));
        board.attach(map::MTIMER, Box::new(Mtimer::new(Arc::clone(clock), comparators.collect())));
    }
    let pulses = harts.iter().map(|hart| Arc::new(SoftwareInterruptPulse(Arc::clone(hart))) as _);
    board.attach(map::SSWI, Box::new(Sswi::new(pulses.collect())));
    board.attach(map::PLIC, Box::new(plic));
    board
}

impl<M: GuestMemory> Vm<M> {
    /// The processor side.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// RAM.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Time.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The devices.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What its debugger has set.
    pub fn debug(&self) -> &DebugControl {
        &self.debug
    }

    /// Signals of each hart, by hart id.
    pub fn harts(&self) -> &[Arc<HartSignals>] {
        &self.harts
    }

    /// Where SBI console calls print.
    pub(crate) fn console(&self) -> MutexGuard<'_, Box<dyn ConsoleBackend>> {
        self.console.lock()
    }

    /// Asks for the machine to be stopped.
    pub fn request_power(&self, request: PowerRequest) {
        self.power.request(request);
    }

    /// How the machine was asked to stop, if it was.
    pub fn power_requested(&self) -> Option<PowerRequest> {
        self.power.requested()
    }

    /// Watches a test program's `tohost` and `fromhost` from now on.
    pub fn set_host_interface(&self, interface: Option<crate::HostInterface>) {
        *self.host_interface.lock() = interface;
    }

    pub(crate) fn host_interface(&self) -> Option<crate::HostInterface> {
        *self.host_interface.lock()
    }

    /// Returns devices and signals to power-on, for a reboot. RAM is the boot protocol's to fill; no hart may
    /// be running.
    pub fn reset(&self) {
        self.board.reset();
        self.harts.iter().for_each(|hart| hart.reset(HartState::Stopped));
        self.power.clear();
    }

    /// Tells the device at `base` that its back end has something for it.
    ///
    /// # Errors
    /// [`Busy`] where another thread is using the device: try again.
    pub fn poll(&self, base: GuestPhysical) -> Result<(), Busy> {
        self.board.poll(base)
    }

    /// The world around the hart with these signals.
    pub fn environment<'a>(&'a self, signals: &'a HartSignals) -> HartEnvironment<'a, M> {
        HartEnvironment { vm: self, signals }
    }
}

/// The world around one of the VM's harts.
pub struct HartEnvironment<'a, M> {
    vm: &'a Vm<M>,
    signals: &'a HartSignals,
}

impl<M: GuestMemory> Environment for HartEnvironment<'_, M> {
    type Memory = M;

    #[inline(always)]
    fn memory(&self) -> &M {
        &self.vm.memory
    }

    fn ticks(&self) -> u64 {
        self.vm.clock.ticks()
    }

    fn interrupt_lines(&self) -> u64 {
        use core::sync::atomic::Ordering;
        let lines = self.signals.lines();
        let deadline = self.signals.machine_timer().load(Ordering::Relaxed);
        if deadline != u64::MAX && deadline <= self.vm.clock.ticks() { lines | mip::MTIP } else { lines }
    }

    fn take_software_interrupt(&self) -> bool {
        self.signals.take_software_interrupt()
    }

    #[inline(always)]
    fn attention(&self) -> bool {
        self.signals.attention()
    }
}
