//! What an engine needs of the physical hart it runs on. Tests have one without hardware.

use rvisor_hart::SSTATUS_WRITABLE;
use rvisor_isa::csr::{SSTATUS_MASK, mstatus, satp};

use crate::copies::SLOTS;
use crate::sequence::Step;
use crate::shadow::Guard;

/// Number of an address space in the hardware's TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asid {
    /// The number, as in `satp`.
    pub number: u64,
    /// Numbers of an earlier generation are void: they are given out again.
    pub generation: u64,
}

/// How a guest is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// `satp` without the ASID.
    pub root: u64,
    /// Address space.
    pub asid: u64,
    /// Slot of the upper half that holds the monitor's window.
    pub window: usize,
}

impl Entry {
    /// The value of `satp`.
    #[must_use]
    pub const fn satp(&self) -> u64 {
        self.root | self.asid << satp::ASID_SHIFT
    }
}

/// A sequence that the trampoline missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// From the instruction that trapped on.
    AtTrap,
    /// From where calls of programs lead.
    AtCall,
}

/// What is left of a trap of a guest once its registers are saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestTrap {
    /// `scause`.
    pub cause: u64,
    /// `stval`.
    pub value: u64,
    /// `sstatus`.
    pub status: u64,
    /// A sequence that would have been of use here.
    pub missing: Option<Missing>,
}

impl GuestTrap {
    /// No trap of the guest's: it is to go on where it is.
    pub const NONE: u64 = 1 << 62;
}

/// CSRs of a guest that are nothing but bits, by their place in [`Privileged::plain`]: numbers 0x140 to 0x143.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plain {
    /// `sscratch`.
    Scratch,
    /// `sepc`.
    Epc,
    /// `scause`.
    Cause,
    /// `stval`.
    Value,
}

/// What the trampoline did without the monitor since it was entered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Shortcuts {
    /// System calls reflected.
    pub calls: u64,
    /// Traps of privileged instructions.
    pub traps: u64,
}

/// Privileged state of a guest whose kernel runs in U-mode, as far as the trampoline changes it by itself. It knows
/// the fields by their offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Privileged {
    /// `sstatus` without FS, which is the hardware's while the guest runs, and SD.
    pub status: u64,
    /// The tag in S-mode, zero in U-mode.
    pub supervisor: u64,
    /// The virtual hart's tag: see `sequence`.
    pub tag: u64,
    /// The key of the sequence that calls of programs lead to.
    pub call_key: u64,
    /// Its entry, in bytes from the context.
    pub call_entry: u64,
    /// Where exceptions go: `stvec` without its mode.
    pub vector: u64,
    /// Not zero where an interrupt is pending that only the global enables hold back.
    pub held: u64,
    /// See [`Plain`].
    pub plain: [u64; 4],
    /// Their bits that can be written.
    pub masks: [u64; 4],
    /// `satp` for user mode, S-mode, and S-mode with SUM; zero where the monitor has to see to it.
    pub roots: [u64; 3],
    /// Not zero where the hardware's floating-point registers are the guest's.
    pub float_live: u64,
    /// Bits of `sstatus` that can be written.
    pub status_writable: u64,
    /// Of these, what only the monitor changes.
    pub status_decided: u64,
    /// Bits of `mstatus` that `sstatus` shows, SD not among them.
    pub status_visible: u64,
    /// What `sstatus` has of the hardware's: FS, SD.
    pub status_float: u64,
    /// Bits of `sstatus` whose change means more than a bit.
    pub status_watched: u64,
    /// What was done.
    pub counts: Shortcuts,
    /// The numbers of the places where copies of the guest's text are executed, by slot.
    pub places: [u64; SLOTS],
    /// What changes with them.
    pub places_version: u64,
}

impl Default for Privileged {
    fn default() -> Self {
        Self {
            status: 0,
            supervisor: 0,
            tag: 0,
            call_key: 0,
            call_entry: 0,
            vector: 0,
            held: 0,
            plain: [0; 4],
            masks: [u64::MAX, !1, u64::MAX, u64::MAX],
            roots: [0; 3],
            float_live: 0,
            status_writable: SSTATUS_WRITABLE,
            status_decided: mstatus::MXR | mstatus::VS,
            status_visible: SSTATUS_MASK & !mstatus::SD,
            status_float: mstatus::FS | mstatus::SD,
            status_watched: mstatus::SIE | mstatus::FS | mstatus::VS | mstatus::SUM | mstatus::MXR,
            counts: Shortcuts::default(),
            places: [0; SLOTS],
            places_version: 0,
        }
    }
}

/// Registers of a guest, as the hardware runs them.
pub struct Registers<'a> {
    /// Integer registers.
    pub x: &'a mut [u64; 32],
    /// Program counter.
    pub pc: &'a mut u64,
}

/// A physical hart, in the hands of the engine that runs on it.
pub trait Processor: Send {
    /// Which one: an index among the physical harts.
    fn index(&self) -> usize;
    /// `time`.
    fn now(&self) -> u64;
    /// `instret`: what the hart has retired, for guests and for the monitor.
    fn retired(&self) -> u64;
    /// Asks for a timer interrupt, or none with `u64::MAX`.
    fn set_timer(&mut self, deadline: u64);
    /// Whether guests in U-mode read `time` by themselves, or trap.
    fn show_time(&mut self, is_shown: bool);
    /// Forgets a software interrupt.
    fn clear_software_interrupt(&mut self);
    /// Generation of the ASIDs that hold now.
    fn generation(&self) -> u64;
    /// An ASID that the TLB has nothing of.
    fn new_asid(&mut self) -> Asid;
    /// Forgets what the TLB has of a page.
    fn fence_page(&mut self, address: u64, asid: u64);
    /// Whether this hart's floating-point registers are kept while the monitor runs: stores them.
    fn save_float(&mut self, registers: &mut [u64; 32]) -> u64;
    /// Loads the floating-point registers and `fcsr`.
    fn load_float(&mut self, registers: &[u64; 32], fcsr: u64);
    /// `fence.i`.
    fn fence_instructions(&mut self);
    /// Breaks a reservation that `lr` has made.
    fn break_reservation(&mut self);
    /// The guest's privileged state for the next entry, where the trampoline may serve traps by itself.
    fn privileged(&mut self) -> &mut Privileged;
    /// Has the trampoline carry out these steps at once from now on, where they begin; none, where there is nothing to be
    /// won. With a guard only as long as that place has its number: then the trampoline needn't compare the guest's code.
    fn keep(&mut self, tag: u64, pc: u64, missing: Missing, steps: &[Step], guard: Option<Guard>);
    /// Runs the guest in U-mode until it traps. `float` is `sstatus.FS`; `has_shortcuts` tells whether the trampoline
    /// may serve traps.
    fn enter(&mut self, entry: Entry, registers: Registers<'_>, float: u64, has_shortcuts: bool)
    -> GuestTrap;
}
