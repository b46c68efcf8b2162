//! A physical hart as engines use it.

use alloc::boxed::Box;

use rvisor_isa::Exception;
use rvisor_isa::csr::mstatus;

use super::assembly as asm;
use super::context::HartContext;
use super::hypervisor;
use super::layout;
use super::sbi;
use crate::processor::{Asid, Entry, GuestTrap, Missing, Privileged, Processor, Registers};
use crate::sequence::{Cache, Routines, Step};
use crate::shadow::Guard;

const SPIE: u64 = 1 << 5;
/// `sie`: software, timer and external interrupts of S-mode.
const INTERRUPTS: u64 = 1 << 1 | 1 << 5 | 1 << 9;
/// `scounteren.TM`: guests read `time` by themselves, unless theirs is another.
const TIME_COUNTER: u64 = 1 << 1;

/// What all harts have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Bits of an ASID.
    pub asid_bits: u32,
    /// `stimecmp`, enabled for S-mode.
    pub sstc: bool,
    /// The H extension.
    pub hypervisor: bool,
    /// Traps may be served in the trampoline.
    pub shortcuts: bool,
    /// Sequences are made: see `crate::sequence`.
    pub sequences: bool,
    /// Breakpoints come without the detour that illegal instructions take: see `crate::copies`.
    pub detour: bool,
    /// A and D are set by the hardware, if enabled.
    pub svadu: bool,
}

/// The hart that executes this.
pub struct PhysicalHart {
    index: usize,
    pub(super) context: Box<HartContext>,
    features: Features,
    sequences: Cache,
    /// `scounteren.TM` as it is now.
    shows_time: bool,
    next_asid: u64,
    generation: u64,
    pub(super) vmids: Vmids,
    pub(super) vmid_bits: u32,
    /// Guests have `stimecmp` of the hardware.
    pub(super) guest_timer: bool,
}

/// The next VMID, of the next generation if they are used up.
#[derive(Default)]
pub(super) struct Vmids {
    pub next: u64,
    pub generation: u64,
}

impl PhysicalHart {
    /// Takes charge of the hart with this index, on this very hart. `context` is the one that its window shows.
    pub fn new(index: usize, mut context: Box<HartContext>, features: Features) -> Self {
        context.monitor_satp = asm::read_satp();
        context.monitor_stvec = asm::read_stvec();
        context.index = index as u64;
        context.return_address = &raw const asm::guest_trapped as u64;
        context.flush = u64::from(features.asid_bits == 0);
        context.sequences = u64::from(features.sequences);
        // SAFETY: interrupts are looked for, not taken: `sstatus.SIE` stays clear in the monitor.
        unsafe {
            asm::write_sie(INTERRUPTS);
            asm::write_scounteren(TIME_COUNTER);
            asm::write_senvcfg(0);
        }
        let (vmid_bits, guest_timer) = if features.hypervisor { hypervisor::set_up() } else { (0, false) };
        let vmids = Vmids::default();
        let sequences = sequences(index);
        Self {
            index,
            context,
            features,
            sequences,
            shows_time: true,
            next_asid: 1,
            generation: 0,
            vmids,
            vmid_bits,
            guest_timer,
        }
    }

    /// Sleeps until an interrupt, or `deadline` in ticks.
    pub fn sleep(&mut self, deadline: u64) {
        self.set_timer(deadline);
        asm::wait_for_interrupt();
    }
}

impl Processor for PhysicalHart {
    fn index(&self) -> usize {
        self.index
    }

    fn now(&self) -> u64 {
        asm::read_time()
    }

    fn retired(&self) -> u64 {
        asm::read_instret()
    }

    fn set_timer(&mut self, deadline: u64) {
        if self.features.sstc {
            // SAFETY: the monitor's own timer.
            unsafe { asm::write_stimecmp(deadline) };
        } else {
            sbi::set_timer(deadline);
        }
    }

    fn show_time(&mut self, is_shown: bool) {
        if self.shows_time != is_shown {
            self.shows_time = is_shown;
            // SAFETY: it says what U-mode may read.
            unsafe { asm::write_scounteren(if is_shown { TIME_COUNTER } else { 0 }) };
        }
    }

    fn clear_software_interrupt(&mut self) {
        asm::clear_software_interrupt();
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn new_asid(&mut self) -> Asid {
        if self.features.asid_bits == 0 {
            return Asid { number: 0, generation: self.generation };
        }
        if self.next_asid >> self.features.asid_bits != 0 {
            self.generation += 1;
            self.next_asid = 1;
            asm::fence_all();
        }
        self.next_asid += 1;
        Asid { number: self.next_asid - 1, generation: self.generation }
    }

    fn fence_page(&mut self, address: u64, asid: u64) {
        asm::fence_page(address, asid);
    }

    fn save_float(&mut self, registers: &mut [u64; 32]) -> u64 {
        // SAFETY: the array has room for all registers.
        unsafe { asm::save_float(registers) }
    }

    fn load_float(&mut self, registers: &[u64; 32], fcsr: u64) {
        // SAFETY: the registers are a guest's, whichever: the monitor uses none.
        unsafe { asm::load_float(registers, fcsr) };
    }

    fn fence_instructions(&mut self) {
        asm::fence_instructions();
    }

    fn break_reservation(&mut self) {
        asm::break_reservation();
    }

    fn privileged(&mut self) -> &mut Privileged {
        &mut self.context.privileged
    }

    fn keep(&mut self, tag: u64, pc: u64, missing: Missing, steps: &[Step], guard: Option<Guard>) {
        let context = &mut *self.context;
        let is_call = missing == Missing::AtCall;
        self.sequences.add(&mut context.table.0, &mut context.code.0, (tag, pc, is_call), steps, guard);
        // The code is executed where the window shows it, and there may be a new breakpoint in a copy.
        asm::fence_instructions();
    }

    #[inline]
    fn enter(
        &mut self,
        entry: Entry,
        registers: Registers<'_>,
        float: u64,
        has_shortcuts: bool,
    ) -> GuestTrap {
        let window = layout::window(entry.window);
        let offset = |symbol: *const u8| in_window(symbol);
        let vector = if has_shortcuts && self.features.shortcuts {
            &raw const asm::trampoline_shortcuts
        } else {
            &raw const asm::trampoline_trap
        };
        let context = &mut *self.context;
        context.pc = *registers.pc;
        // SUM: in U-mode it means nothing; the trampoline reads and writes what the guest may.
        context.status = SPIE | mstatus::SUM | float;
        context.window_slot = window.cast_signed() >> 30;
        context.wanted = 0;
        context.guest_satp = entry.satp();
        context.guest_stvec = window + offset(vector);
        let enter = window + offset(&raw const asm::trampoline_enter);
        let in_window = window + layout::context_offset(self.index);
        // SAFETY: the space that `entry` names has the window in this slot, and maps nothing else that U-mode may
        // reach but the guest's partition; so have the other spaces that `privileged` names. The context is the one
        // that the window shows for this hart.
        unsafe { asm::enter_guest(in_window, enter, context, registers.x) };
        registers.x[0] = 0;
        *registers.pc = self.context.pc;
        let HartContext { cause, value, status, .. } = *self.context;
        if status & mstatus::SPP != 0 {
            return self.sequence_fault(in_window, registers, status);
        }
        let missing = match (self.context.wanted, cause == Exception::EnvironmentCallFromUser.code()) {
            (0, _) => None,
            (_, false) => Some(Missing::AtTrap),
            (_, true) => Some(Missing::AtCall),
        };
        GuestTrap { cause, value, status, missing }
    }
}

impl PhysicalHart {
    #[cold]
    #[inline(never)]
    /// A sequence's access to memory has faulted. What the guest did before is done; it is to do this access by itself.
    fn sequence_fault(&mut self, context: u64, registers: Registers<'_>, status: u64) -> GuestTrap {
        const T3: usize = 28;
        let at = self.context.pc.wrapping_sub(context).cast_signed();
        let Some((pc, compares)) = self.sequences.fault(&mut self.context.table.0, at) else {
            panic!("trap {:#x} in the trampoline at {:#x}", self.context.cause, self.context.pc);
        };
        if !compares {
            registers.x[T3] = self.context.link;
        }
        *registers.pc = pc;
        GuestTrap { cause: GuestTrap::NONE, value: 0, status, missing: None }
    }
}

/// Where the trampoline has a symbol, in bytes from the window's start.
fn in_window(symbol: *const u8) -> u64 {
    layout::TRAMPOLINE + (symbol as u64 - &raw const asm::trampoline as u64)
}

/// No sequences yet, for the hart with this index.
fn sequences(index: usize) -> Cache {
    let from_context = |symbol| in_window(symbol).wrapping_sub(layout::context_offset(index)).cast_signed();
    let routines = Routines {
        status: from_context(&raw const asm::sequence_status),
        leave: from_context(&raw const asm::sequence_return),
        refuse: from_context(&raw const asm::sequence_refused),
        stale: from_context(&raw const asm::sequence_stale),
        fault: from_context(&raw const asm::sequence_fault),
        outdated: [&raw const asm::sequence_outdated, &raw const asm::sequence_outdated_at_call]
            .map(from_context),
    };
    let nothing = [&raw const asm::sequence_nothing, &raw const asm::sequence_nothing_at_call];
    Cache::new(core::mem::offset_of!(HartContext, code) as i64, routines, nothing.map(from_context))
}

/// Asks the hart what it has, before any guest runs. `isa` tells whether the firmware says that it has an
/// extension.
pub fn probe(isa: impl Fn(&str) -> bool) -> Features {
    const STIMECMP: u16 = 0x14d;
    const HSTATUS: u16 = 0x600;
    const ASIDS: u64 = 0xffff << rvisor_isa::csr::satp::ASID_SHIFT;
    let satp = asm::read_satp();
    // SAFETY: the same tables under another ASID, and back.
    let asids = unsafe {
        asm::write_satp(satp | ASIDS);
        let found = asm::read_satp() & ASIDS;
        asm::write_satp(satp);
        asm::fence_all();
        found
    };
    Features {
        asid_bits: asids.count_ones(),
        sstc: isa("sstc") && asm::probe_csr::<STIMECMP>().is_some(),
        hypervisor: asm::probe_csr::<HSTATUS>().is_some(),
        svadu: isa("svadu"),
        sequences: false,
        detour: has_detour(),
        // Without ASIDs, each change of spaces needs more than a write of `satp`.
        shortcuts: asids != 0,
    }
}

/// Whether illegal instructions cost more than breakpoints. What `instret` counts need not be instructions, where the hardware is
/// an emulator: the least of several tells.
fn has_detour() -> bool {
    let least = |cost: fn() -> u64| (0..32).map(|_| cost()).min().unwrap_or(0);
    4 * least(asm::cost_of_illegal) > 5 * least(asm::cost_of_breakpoint)
}
