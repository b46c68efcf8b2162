//! What an engine needs of the physical hart it runs on. Tests have one without hardware.

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

/// What is left of a trap of a guest once its registers are saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestTrap {
    /// `scause`.
    pub cause: u64,
    /// `stval`.
    pub value: u64,
    /// `sstatus`.
    pub status: u64,
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
    /// Asks for a timer interrupt, or none with `u64::MAX`.
    fn set_timer(&mut self, deadline: u64);
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
    /// Breaks a reservation that `lr` has made.
    fn break_reservation(&mut self);
    /// Runs the guest in U-mode until it traps. `float` is `sstatus.FS`.
    fn enter(&mut self, entry: Entry, registers: Registers<'_>, float: u64) -> GuestTrap;
}
