//! What a physical hart with the H extension does for the engine `vs` (Privileged ISA, "H" Extension for Hypervisor
//! Support).

use rvisor_hart::TranslationMode;
use rvisor_isa::Part;
use rvisor_isa::csr::satp;

use super::assembly as asm;
use super::processor::PhysicalHart;
use crate::processor::Asid;
use crate::shadow::StageMode;
use crate::virtualization::{StageEntry, VirtualCsrs, VirtualProcessor, VirtualRegisters, VirtualTrap};

const SPP: u64 = 1 << 8;
const SPIE: u64 = 1 << 5;
/// `hstatus`: VTW (a guest's `wfi` traps), SPVP and SPV; VSXL is 2.
const VTW: u64 = 1 << 21;
const SPVP: u64 = 1 << 8;
const SPV: u64 = 1 << 7;
const VSXL: u64 = 2 << 32;
/// `henvcfg`: STCE, PBMTE, ADUE.
const ENVIRONMENT: u64 = 1 << 63 | 1 << 62 | 1 << 61;
/// Exceptions that go to the guest without the monitor: misaligned and failed accesses, breakpoints, calls of its
/// programs, its own page faults. Illegal instructions don't: one may be the first that floats.
const DELEGATED: u64 =
    1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 15;
/// VSSIP, VSTIP and VSEIP.
const VIRTUAL_INTERRUPTS: u64 = 1 << 2 | 1 << 6 | 1 << 10;
/// `hstateen0.ENVCFG`: `senvcfg`.
const STATE_ENVCFG: u64 = 1 << 62;
/// `hcounteren.TM`.
const TIME_COUNTER: u64 = 1 << 1;
const VMID_SHIFT: u32 = 44;
const VMIDS: u64 = 0x3fff << VMID_SHIFT;

/// Sets up what is the same for all guests. Returns the number of bits of a VMID, and whether guests have
/// `stimecmp`.
pub fn set_up() -> (u32, bool) {
    const HSTATEEN0: u16 = 0x60c;
    // SAFETY: no guest runs yet; the bits that don't exist stay clear.
    unsafe {
        asm::write_hedeleg(DELEGATED);
        asm::write_hideleg(VIRTUAL_INTERRUPTS);
        asm::write_hcounteren(TIME_COUNTER);
        asm::write_henvcfg(ENVIRONMENT);
        asm::write_hvip(0);
        asm::write_vsie(0);
        asm::write_vsatp(0);
        asm::write_hgatp(VMIDS);
        if asm::probe_csr::<HSTATEEN0>().is_some() {
            // What else could be a guest's own isn't switched with it.
            asm::write_hstateen0(STATE_ENVCFG);
        }
    }
    let bits = (asm::read_hgatp() & VMIDS).count_ones();
    // SAFETY: as above.
    unsafe { asm::write_hgatp(0) };
    asm::fence_all_virtual();
    (bits, asm::read_henvcfg() >> 63 != 0)
}

/// Whether the hardware can translate guests' memory in so many levels.
pub fn has_stage(mode: StageMode) -> bool {
    // SAFETY: no guest runs.
    takes(mode.bits(), |value| unsafe { asm::write_hgatp(value) }, asm::read_hgatp)
}

/// The largest mode of translation that guests can use.
pub fn largest_mode() -> TranslationMode {
    // SAFETY: no guest runs.
    let has =
        |mode| takes(mode << satp::MODE_SHIFT, |value| unsafe { asm::write_vsatp(value) }, asm::read_vsatp);
    let modes = [(satp::SV57, TranslationMode::Sv57), (satp::SV48, TranslationMode::Sv48)];
    modes.into_iter().find(|(mode, _)| has(*mode)).map_or(TranslationMode::Sv39, |(_, mode)| mode)
}

/// Whether a register takes a mode of translation: it keeps what it has where it doesn't know one. It translates
/// nothing afterwards.
fn takes(mode: u64, write: impl Fn(u64), read: impl Fn() -> u64) -> bool {
    write(mode);
    let taken = read() == mode;
    write(0);
    taken
}

impl VirtualProcessor for PhysicalHart {
    fn has_guest_timer(&self) -> bool {
        self.guest_timer
    }

    fn new_vmid(&mut self) -> Asid {
        if self.vmids.next >> self.vmid_bits != 0 {
            self.vmids.generation += 1;
            self.vmids.next = 0;
            asm::fence_all_virtual();
        }
        let number = self.vmids.next;
        self.vmids.next += 1;
        Asid { number, generation: self.vmids.generation }
    }

    fn vmid_generation(&self) -> u64 {
        self.vmids.generation
    }

    fn fence_virtual(&mut self, address: Option<u64>, asid: Option<u16>) {
        asm::fence_virtual(address, asid.map(u64::from));
    }

    fn fence_stage(&mut self) {
        asm::fence_all_virtual();
    }

    fn load_virtual(&mut self, entry: &StageEntry, csrs: &VirtualCsrs) {
        // SAFETY: the registers are a guest's own, and mean nothing to the monitor; the tables of `entry` map nothing
        // but the guest's partition.
        unsafe {
            asm::write_hgatp(entry.root | entry.vmid << VMID_SHIFT);
            asm::write_vsstatus(csrs.status);
            asm::write_vsie(csrs.enabled);
            asm::write_vstvec(csrs.vector);
            asm::write_vsscratch(csrs.scratch);
            asm::write_vsepc(csrs.epc);
            asm::write_vscause(csrs.cause);
            asm::write_vstval(csrs.value);
            asm::write_vsatp(csrs.translation);
            asm::write_htimedelta(csrs.time_delta);
            asm::write_senvcfg(csrs.environment);
            asm::write_scounteren(csrs.counters);
            if self.guest_timer {
                asm::write_vstimecmp(csrs.deadline);
            }
        }
    }

    fn store_virtual(&mut self, csrs: &mut VirtualCsrs) {
        csrs.status = asm::read_vsstatus();
        csrs.enabled = asm::read_vsie();
        csrs.vector = asm::read_vstvec();
        csrs.scratch = asm::read_vsscratch();
        csrs.epc = asm::read_vsepc();
        csrs.cause = asm::read_vscause();
        csrs.value = asm::read_vstval();
        csrs.translation = asm::read_vsatp();
        csrs.environment = asm::read_senvcfg();
        csrs.counters = asm::read_scounteren();
        if self.guest_timer {
            csrs.deadline = asm::read_vstimecmp();
        }
    }

    fn inject(&mut self, pending: u64) {
        // SAFETY: interrupts of the guest.
        unsafe { asm::write_hvip(pending) };
    }

    fn injected(&self) -> u64 {
        asm::read_hvip()
    }

    fn enter_virtual(&mut self, registers: VirtualRegisters<'_>, float: u64) -> VirtualTrap {
        let is_supervisor = *registers.is_supervisor;
        let context = &mut *self.context;
        context.pc = *registers.pc;
        context.status = SPIE | float | if is_supervisor { SPP } else { 0 };
        // SAFETY: the guest runs in VS- or VU-mode on the tables in `hgatp`.
        unsafe {
            asm::write_hstatus(VSXL | VTW | SPV | if is_supervisor { SPVP } else { 0 });
            asm::enter_virtual(context, registers.x);
        }
        registers.x[0] = 0;
        *registers.pc = context.pc;
        *registers.is_supervisor = context.status & SPP != 0;
        VirtualTrap {
            cause: context.cause,
            value: context.value,
            guest_physical: asm::read_htval() << 2 | context.value & 3,
        }
    }

    fn fetch(&mut self, pc: u64) -> Option<u32> {
        rvisor_isa::read(pc, |address, part| {
            let bits = match part {
                Part::Half => asm::fetch_half(address).map(u32::from),
                Part::Word => asm::fetch_word(address),
            };
            bits.ok_or(())
        })
        .ok()
    }
}
