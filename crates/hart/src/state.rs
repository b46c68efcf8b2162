//! The state of one hart and how it is configured and reset.

use alloc::boxed::Box;
use rvisor_isa::Privilege;

use rvisor_waist::{AtomicWidth, GuestPhysical};

use crate::csr::Csrs;
use crate::debug::Debug;
use crate::interpreter::Interpreter;
use crate::mmu::{TableCache, TranslationMode};
use crate::observe::Observer;
use crate::tlb::Tlb;

/// What kind of hart it is; fixed for its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Value of `mhartid`.
    pub hart_id: u64,
    /// Whether the monitor is the SBI implementation: no software in M-mode, the hart starts in S-mode with
    /// everything delegated, and `ecall` from S-mode is [`Exit::SbiCall`](crate::Exit::SbiCall).
    pub supervisor_only: bool,
    /// Largest translation mode of `satp`.
    pub translation: TranslationMode,
    /// Number of PMP entries: 0, 16 or 64.
    pub pmp_entries: usize,
    /// Whether there is the hypervisor extension, H.
    pub hypervisor: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hart_id: 0,
            supervisor_only: false,
            translation: TranslationMode::Sv57,
            pmp_entries: 16,
            hypervisor: false,
        }
    }
}

/// Memory that `lr` reserved, until `sc` or anything that breaks the reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Where.
    pub address: GuestPhysical,
    /// What `lr` found there, zero-extended.
    pub value: u64,
    /// How wide `lr` was.
    pub width: AtomicWidth,
}

/// One hart.
pub struct Hart {
    /// Integer registers; `x[0]` is always zero.
    pub x: [u64; 32],
    /// Floating-point registers, NaN-boxed.
    pub f: [u64; 32],
    /// Program counter.
    pub pc: u64,
    /// Current privilege mode. Whoever sets it from outside calls [`fence_vma`](Self::fence_vma) afterwards.
    pub privilege: Privilege,
    /// The virtualization mode, V: whether S- and U-mode are a virtual machine's. False in M-mode. Whoever sets it
    /// from outside calls [`fence_vma`](Self::fence_vma) afterwards.
    pub virtualized: bool,
    /// Control and status registers.
    pub csr: Csrs,
    /// Instructions retired since reset. Whatever executes instructions adds to it; `mcycle` and `minstret`
    /// are views of it, so it must be exact whenever a CSR is read or written.
    pub retired: u64,
    /// What `lr` reserved.
    pub reservation: Option<Reservation>,
    pub(crate) config: Config,
    pub(crate) tlb: Tlb,
    pub(crate) tables: TableCache,
    /// The supervisor timers (bits of `mip`) that were pending at the last look.
    pub(crate) timers_seen: u64,
    /// Whether walks may set A and D in page tables; not while they only peek.
    pub(crate) may_update_tables: bool,
    /// Counts `fence.i`.
    pub(crate) code_epoch: u64,
    /// Absent while it runs.
    pub(crate) interpreter: Option<Box<Interpreter>>,
    pub(crate) debug: Debug,
    pub(crate) observer: Option<Box<dyn Observer>>,
}

impl Hart {
    /// A hart after reset.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            x: [0; 32],
            f: [0; 32],
            pc: 0,
            privilege: Self::reset_privilege(&config),
            virtualized: false,
            csr: Csrs::new(&config),
            retired: 0,
            reservation: None,
            config,
            tlb: Tlb::new(),
            tables: TableCache::new(),
            timers_seen: 0,
            may_update_tables: true,
            code_epoch: 0,
            interpreter: None,
            debug: Debug::default(),
            observer: None,
        }
    }

    /// Returns to the state after power-on. The home sets `pc` and the boot protocol's registers afterwards.
    pub fn reset(&mut self) {
        let observer = self.observer.take();
        *self = Self { observer, ..Self::new(self.config) };
    }

    /// What kind of hart it is.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn reset_privilege(config: &Config) -> Privilege {
        if config.supervisor_only { Privilege::Supervisor } else { Privilege::Machine }
    }
}
