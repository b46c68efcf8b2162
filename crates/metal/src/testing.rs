//! A physical hart without hardware, and a machine for this crate's tests.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_machine::{Backends, Extensions, TranslationMode, Vm, VmConfig};
use rvisor_waist::{Clock, ConsoleBackend};

use crate::arch::Partition;
use crate::arch::partition::tests::partition;
use crate::processor::{Asid, Entry, GuestTrap, Missing, Privileged, Processor, Registers};
use crate::sequence::Step;
use crate::shadow::Guard;
use crate::virtualization::{
    Delegation, StageEntry, VirtualCsrs, VirtualProcessor, VirtualRegisters, VirtualTrap,
};

/// What the "guest" does when it is entered next.
type Act = Box<dyn FnMut(&mut Registers<'_>) -> GuestTrap + Send>;

/// Plays prepared traps; time goes on by 1 with each entry.
#[derive(Default)]
pub struct FakeHart {
    pub acts: VecDeque<Act>,
    pub entries: Vec<Entry>,
    pub fences: Vec<(u64, u64)>,
    pub timer: u64,
    pub time: u64,
    pub shows_time: bool,
    pub retired: u64,
    /// How often it has executed `fence.i`.
    pub instruction_fences: usize,
    pub index: usize,
    pub generation: u64,
    pub next_asid: u64,
    pub float: [u64; 32],
    pub privileged: Privileged,
    /// Sequences that were recorded.
    pub kept: Vec<(u64, Missing, Vec<Step>)>,
    pub guards: Vec<Option<Guard>>,
    pub virtual_traps: VecDeque<VirtualTrap>,
    /// What each entry in a virtual mode had as `sstatus.FS`.
    pub float_entries: Vec<u64>,
    /// The guest's registers, in the hardware.
    pub csrs: VirtualCsrs,
    /// Whether the guest's own traps were to come from then on, each time.
    pub revealed: Vec<bool>,
    /// The guest's instruction, wherever it is.
    pub instruction: Option<u32>,
    /// Interrupts made pending, and those that the guest clears and sets.
    pub injected: Vec<u64>,
    pub cleared: u64,
    pub set: u64,
}

impl FakeHart {
    /// The next entry ends in this trap.
    pub fn trap(&mut self, cause: u64, value: u64) {
        self.act(move |_| GuestTrap { cause, value, status: 0, missing: None });
    }

    /// The next entry does this.
    pub fn act(&mut self, act: impl FnMut(&mut Registers<'_>) -> GuestTrap + Send + 'static) {
        self.acts.push_back(Box::new(act));
    }
}

impl Processor for FakeHart {
    fn index(&self) -> usize {
        self.index
    }

    fn now(&self) -> u64 {
        self.time
    }

    fn retired(&self) -> u64 {
        self.retired
    }

    fn set_timer(&mut self, deadline: u64) {
        self.timer = deadline;
    }

    fn show_time(&mut self, is_shown: bool) {
        self.shows_time = is_shown;
    }

    fn clear_software_interrupt(&mut self) {}

    fn generation(&self) -> u64 {
        self.generation
    }

    fn new_asid(&mut self) -> Asid {
        self.next_asid += 1;
        Asid { number: self.next_asid, generation: self.generation }
    }

    fn fence_page(&mut self, address: u64, asid: u64) {
        self.fences.push((address, asid));
    }

    fn save_float(&mut self, registers: &mut [u64; 32]) -> u64 {
        *registers = self.float;
        0
    }

    fn load_float(&mut self, registers: &[u64; 32], _fcsr: u64) {
        self.float = *registers;
    }

    fn fence_instructions(&mut self) {
        self.instruction_fences += 1;
    }

    fn break_reservation(&mut self) {}

    fn privileged(&mut self) -> &mut Privileged {
        &mut self.privileged
    }

    fn keep(&mut self, _tag: u64, pc: u64, missing: Missing, steps: &[Step], guard: Option<Guard>) {
        self.kept.push((pc, missing, steps.to_vec()));
        self.guards.push(guard);
    }

    fn enter(&mut self, entry: Entry, mut registers: Registers<'_>, float: u64, _: bool) -> GuestTrap {
        self.entries.push(entry);
        self.time += 1;
        let mut trap = match self.acts.pop_front() {
            Some(mut act) => act(&mut registers),
            // The timer, at the end of the slice.
            None => {
                self.time = self.timer;
                GuestTrap { cause: 1 << 63 | 5, value: 0, status: 0, missing: None }
            }
        };
        // Floating point stays as it was, unless the act says otherwise.
        trap.status |= float;
        trap
    }
}

impl Delegation for FakeHart {
    fn reveal(&mut self, is_revealed: bool) {
        self.revealed.push(is_revealed);
    }
}

impl VirtualProcessor for FakeHart {
    fn has_guest_timer(&self) -> bool {
        false
    }

    fn new_vmid(&mut self) -> Asid {
        self.new_asid()
    }

    fn vmid_generation(&self) -> u64 {
        self.generation
    }

    fn fence_virtual(&mut self, address: Option<u64>, asid: Option<u16>) {
        self.fences.push((address.unwrap_or(u64::MAX), asid.map_or(u64::MAX, u64::from)));
    }

    fn fence_stage(&mut self) {}

    fn load_virtual(&mut self, _entry: &StageEntry, csrs: &VirtualCsrs) {
        self.csrs = *csrs;
    }

    fn store_virtual(&mut self, csrs: &mut VirtualCsrs) {
        *csrs = self.csrs;
    }

    fn inject(&mut self, pending: u64) {
        self.injected.push(pending);
    }

    fn injected(&self) -> u64 {
        self.injected.last().copied().unwrap_or(0) & !self.cleared | self.set
    }

    fn enter_virtual(&mut self, _registers: VirtualRegisters<'_>, float: u64) -> VirtualTrap {
        self.float_entries.push(float);
        self.time += 1;
        self.virtual_traps.pop_front().unwrap_or_else(|| {
            // The timer, at the end of the slice.
            self.time = self.timer;
            VirtualTrap { cause: 1 << 63 | 5, value: 0, guest_physical: 0 }
        })
    }

    fn fetch(&mut self, _pc: u64) -> Option<u32> {
        self.instruction
    }
}

struct Silence;

impl ConsoleBackend for Silence {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn read(&mut self, _buffer: &mut [u8]) -> usize {
        0
    }
}

struct Frozen;

impl Clock for Frozen {
    fn ticks(&self) -> u64 {
        0
    }

    fn wall_nanoseconds(&self) -> u64 {
        0
    }
}

/// A machine with one hart and `size` bytes of RAM.
pub fn vm(size: usize) -> Vm<Partition> {
    vm_of(partition(size))
}

/// A machine with one hart and this RAM.
pub fn vm_of(memory: Partition) -> Vm<Partition> {
    let config = VmConfig {
        harts: 1,
        machine_mode: false,
        translation: TranslationMode::Sv39,
        hypervisor: false,
        extensions: Extensions::ALL,
    };
    let backends = Backends { serial: Box::new(Silence), sbi_console: Box::new(Silence), virtio: Vec::new() };
    Vm::new(config, Arc::new(memory), Arc::new(Frozen), backends)
}
