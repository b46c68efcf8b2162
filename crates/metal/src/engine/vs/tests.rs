use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use rvisor_hart::AccessKind;
use rvisor_machine::memory_map::{PLIC, UART};
use rvisor_machine::signals::HartState;
use rvisor_waist::GuestMemory;

use super::*;
use crate::address::MachineAddress;
use crate::arch::partition::tests::BASE;
use crate::shadow::StageMode;
use crate::testing::{FakeHart, vm};

const RAM: usize = 4 << 20;
const HANDLER: u64 = BASE.0 + 0x100;
const ILLEGAL: u64 = 2;

struct Test {
    vm: Vm<Partition>,
    hart: VirtualHart,
    stage: Stage,
    processor: FakeHart,
}

impl Test {
    fn new() -> Self {
        let vm = vm(RAM);
        let mut hart = VirtualHart::new(0, &vm);
        vm.harts()[0].update_state(|_| Some(HartState::Started));
        vm.harts()[0].clear_attention();
        hart.hart.pc = BASE.0;
        hart.hart.csr.stvec = HANDLER;
        let stage = Stage::new(&vm.memory().range(), StageMode::Sv39x4, |_| {
            crate::address::MachineAddress(0x9000_1000)
        });
        Self { vm, hart, stage, processor: FakeHart::default() }
    }

    fn trap(&mut self, cause: u64, value: u64, guest_physical: u64) {
        self.processor.virtual_traps.push_back(VirtualTrap { cause, value, guest_physical });
    }

    fn run(&mut self) -> Exit {
        Vs::new(&mut self.stage, &mut self.processor, 1000).run(&mut self.hart, &self.vm, 0)
    }
}

#[test]
fn kernels_call_is_the_monitors() {
    let mut test = Test::new();
    test.trap(cause::CALL, 0, 0);
    assert_eq!(test.run(), Exit::SbiCall);
    assert_eq!(test.hart.hart.pc, BASE.0);
}

#[test]
fn slice_ends_by_the_timer() {
    let mut test = Test::new();
    assert_eq!((test.run(), test.processor.timer), (Exit::Budget, 1000));
}

#[test]
fn traps_of_virtual_modes_are_told() {
    let mut test = Test::new();
    test.trap(cause::VIRTUAL_INSTRUCTION, 0xc020_22f3, 0);
    test.trap(ILLEGAL, 0xffff_ffff, 0);
    test.trap(cause::STORE, 0x1234, BASE.0 + 0x20_1234);
    test.trap(cause::CALL, 0, 0);
    let mut engine = Vs::new(&mut test.stage, &mut test.processor, 1000);
    assert_eq!(engine.run(&mut test.hart, &test.vm, 0), Exit::SbiCall);
    let text = engine.statistics().to_string();
    let told = "4 world switches: 2 privileged instructions, 1 calls, 1 page faults, 0 interrupts; ";
    assert!(text.starts_with(told), "{text}");
}

const SRET: u64 = 0x1020_0073;

/// One that traces, and has a trace of what comes.
fn run_traced(test: &mut Test, trace: &mut Trace) {
    let mut engine = Vs::new(&mut test.stage, &mut test.processor, 1000);
    engine.trace(trace);
    engine.run(&mut test.hart, &test.vm, 0);
    test.processor.time = 0;
}

#[test]
fn call_and_page_fault_are_delivered_and_traced() {
    const ROOT: GuestPhysical = GuestPhysical(BASE.0 + 0x10_0000);
    const PAGE: u64 = 0x4000_1234;
    let (mut test, mut trace) = (Test::new(), Trace::new(true, Arc::default()));
    test.stage.fill(BASE, MachineAddress(0xa000_0000));
    test.hart.hart.privilege = Privilege::User;
    test.hart.hart.csr.satp = 8 << 60 | ROOT.0 >> 12;
    test.trap(8, 0, 0);
    test.trap(cause::VIRTUAL_INSTRUCTION, SRET, 0);
    test.trap(13, PAGE, 0);
    run_traced(&mut test, &mut trace);
    let (hart, csr) = (&test.hart.hart, &test.hart.hart.csr);
    assert_eq!((hart.privilege, hart.pc), (Privilege::Supervisor, HANDLER));
    assert_eq!((csr.scause, csr.stval, csr.sepc), (13, PAGE, BASE.0));
    assert!(trace.is_waiting());
    // The guest maps its first gigabyte there, and goes back.
    test.vm.memory().store(ROOT.offset(8), BASE.0 >> 2 | 0xdf).unwrap();
    test.trap(cause::VIRTUAL_INSTRUCTION, SRET, 0);
    run_traced(&mut test, &mut trace);
    assert_eq!(test.processor.revealed, [true, false, true, false]);
    let lines = trace.finished().expect("it is complete");
    for (line, words) in lines.iter().zip([
        "a system call, number 0:",
        "VU 0x0000000080000000  EnvironmentCallFromUser",
        "    vsepc 0x80000000, vscause 0x8, vstval 0x0, vsstatus 0x",
        "sret ",
        "an address that the TLB and the guest's tables don't have:",
        "LoadPageFault 0x40001234",
        "    vsepc 0x80000000, vscause 0xd, vstval 0x40001234, vsstatus 0x",
        "first stage, level 2: the entry at 0x80100008 is 0x0: not valid",
        "first stage: 0x40001234 isn't mapped",
        "interrupt 5 of the hardware",
        "on in VU at 0x80000000",
        "now that the guest has mapped it:",
        "first stage, level 2: the entry at 0x80100008 is 0x200000df: a page",
        "first stage: 0x40001234 is 0x80001234, in 1048576 KiB",
        "second stage, level 2: the entry at 0x90004010 is 0x",
        "second stage, level 1: the entry at 0x90008000 is 0x280000df: a page",
        "second stage: 0x80001234 is machine address 0xa0001234, in 2048 KiB",
    ]) {
        assert!(line.contains(words), "{words}: {lines:#?}");
    }
    assert_eq!(lines.len(), 17);
}

#[test]
fn page_that_the_second_stage_lacks_is_a_miss() {
    let (mut test, mut trace) = (Test::new(), Trace::new(true, Arc::default()));
    test.hart.hart.privilege = Privilege::User;
    test.trap(8, 0, 0);
    test.trap(cause::VIRTUAL_INSTRUCTION, SRET, 0);
    // A device's address is none.
    test.trap(cause::LOAD, UART.base.0, UART.base.0);
    test.trap(cause::STORE, BASE.0 + 0x1234, BASE.0 + 0x1234);
    run_traced(&mut test, &mut trace);
    let lines = trace.finished().expect("it is complete");
    assert_eq!(test.processor.revealed, [true, false]);
    assert!(lines[4].contains("the TLB and the second stage don't have"), "{lines:#?}");
    assert!(lines[5].contains("the second stage gets 2 MiB, at machine address 0x"), "{lines:#?}");
}

#[test]
fn trace_that_another_hart_has_told_is_over() {
    let (mut test, is_told) = (Test::new(), Arc::default());
    let mut trace = Trace::new(true, Arc::clone(&is_told));
    is_told.store(true, Ordering::Relaxed);
    test.trap(ILLEGAL, 0xffff_ffff, 0);
    run_traced(&mut test, &mut trace);
    assert_eq!(test.processor.revealed, [true, false]);
    assert_eq!(trace.finished(), Some(Vec::new()));
}

#[test]
fn load_outside_ram_is_a_device_access() {
    // lbu x5, 4(x6)
    let mut test = Test::new();
    test.processor.instruction = Some(0x0043_4283);
    test.trap(cause::LOAD, 0xffff_0004, UART.base.0 + 4);
    let Exit::Device(access) = test.run() else { panic!("no device access") };
    assert_eq!((access.address.0, access.virtual_address.0), (UART.base.0 + 4, 0xffff_0004));
    assert!(matches!(access.kind, AccessKind::Load { signed: false, .. }));
    assert_eq!((access.width.bytes(), access.instruction_length), (1, 4));
}

#[test]
fn compressed_store_outside_ram_is_a_device_access() {
    // c.sw x9, 0(x8)
    let mut test = Test::new();
    test.hart.hart.x[9] = 0x1_2345_6789;
    test.processor.instruction = Some(0xc004);
    test.trap(cause::STORE, 0x10, PLIC.base.0 + 0x10);
    let Exit::Device(access) = test.run() else { panic!("no device access") };
    assert_eq!((access.kind, access.instruction_length), (AccessKind::Store { value: 0x2345_6789 }, 2));
}

#[test]
fn atomics_and_crossing_accesses_to_devices_are_access_faults() {
    // amoadd.w x5, x6, (x7); lw x5, 0(x6) at an odd address.
    for (bits, offset) in [(0x0063_a2af, 0), (0x0003_2283, 1)] {
        let mut test = Test::new();
        test.processor.instruction = Some(bits);
        test.trap(cause::STORE, 0x7000 + offset, UART.base.0 + offset);
        assert_eq!(test.run(), Exit::Budget);
        let csr = &test.hart.hart.csr;
        assert_eq!(
            (test.hart.hart.pc, csr.scause, csr.stval, csr.sepc),
            (HANDLER, 7, 0x7000 + offset, BASE.0)
        );
    }
}

#[test]
fn code_that_is_gone_is_fetched_again() {
    let mut test = Test::new();
    test.trap(cause::LOAD, 0, UART.base.0);
    assert_eq!((test.run(), test.hart.hart.pc), (Exit::Budget, BASE.0));
}

#[test]
fn page_of_ram_is_mapped_and_the_guest_goes_on() {
    let mut test = Test::new();
    test.trap(cause::STORE, 0x1234, BASE.0 + 0x20_1234);
    test.trap(cause::INSTRUCTION, 0, BASE.0 + RAM as u64);
    test.run();
    assert_eq!((test.stage.fills, test.hart.hart.csr.scause), (1, 1));
    test.stage.clear();
    assert_eq!(test.run(), Exit::Budget);
}

#[test]
fn fetch_outside_ram_is_an_access_fault() {
    let mut test = Test::new();
    test.trap(cause::INSTRUCTION, 0x1000, 0x1000);
    test.run();
    assert_eq!((test.hart.hart.csr.scause, test.hart.hart.csr.stval), (1, 0x1000));
}

#[test]
fn wait_leaves_the_engine() {
    let mut test = Test::new();
    test.trap(cause::VIRTUAL_INSTRUCTION, 0x1050_0073, 0);
    assert_eq!((test.run(), test.hart.hart.pc), (Exit::WaitForInterrupt, BASE.0 + 4));
}

#[test]
fn counter_of_instructions_is_the_hardwares() {
    // csrr x5, instret
    let mut test = Test::new();
    test.processor.retired = 500;
    test.trap(cause::VIRTUAL_INSTRUCTION, 0xc020_22f3, 0);
    test.run();
    assert_eq!((test.hart.hart.x[5], test.hart.hart.pc), (0, BASE.0 + 4));
}

#[test]
fn first_floating_point_instruction_brings_the_registers() {
    let mut test = Test::new();
    test.hart.hart.csr.mstatus |= mstatus::FS_CLEAN;
    test.hart.hart.f[3] = 33;
    test.trap(ILLEGAL, 0x53, 0);
    assert_eq!(test.run(), Exit::Budget);
    assert_eq!((test.processor.float[3], test.hart.hart.pc), (33, BASE.0));
    assert_eq!(test.processor.float_entries, [0, mstatus::FS]);
}

#[test]
fn illegal_instruction_is_reflected() {
    for status in [0, mstatus::FS_CLEAN] {
        let mut test = Test::new();
        test.hart.hart.csr.mstatus |= status;
        (0..2).for_each(|_| test.trap(ILLEGAL, 0xffff_ffff, 0));
        test.run();
        assert_eq!((test.hart.hart.csr.scause, test.hart.hart.csr.stval), (ILLEGAL, 0xffff_ffff));
    }
}

#[test]
fn interrupts_are_injected_and_one_that_the_guest_clears_is_gone() {
    let mut test = Test::new();
    test.vm.harts()[0].set_lines(mip::SEIP, true);
    test.vm.harts()[0].clear_attention();
    test.hart.hart.csr.mip |= mip::SSIP;
    test.run();
    assert_eq!(test.processor.injected[0], (mip::SEIP | mip::SSIP) << 1);
    assert_eq!(test.hart.hart.csr.mip & mip::SSIP, mip::SSIP);
    test.processor.cleared = mip::SSIP << 1;
    test.processor.time = 0;
    test.run();
    assert_eq!(test.hart.hart.csr.mip & mip::SSIP, 0);
}

#[test]
fn software_interrupt_that_the_guest_sets_for_itself_stays() {
    let mut test = Test::new();
    test.processor.set = mip::SSIP << 1;
    test.trap(cause::CALL, 0, 0);
    test.run();
    assert_eq!(test.hart.hart.csr.mip & mip::SSIP, mip::SSIP);
    test.processor.set = 0;
    test.run();
    assert_eq!(test.processor.injected.last(), Some(&(mip::SSIP << 1)));
}

#[test]
fn walk_of_the_guests_tables_outside_ram_is_an_access_fault() {
    // lw x5, 0(x6), and an entry of a table where a device is.
    let mut test = Test::new();
    test.processor.instruction = Some(0x0003_2283);
    test.trap(cause::LOAD, 0xffff_0004, UART.base.0 + 8);
    assert_eq!(test.run(), Exit::Budget);
    let csr = &test.hart.hart.csr;
    assert_eq!((test.hart.hart.pc, csr.scause, csr.stval, csr.sepc), (HANDLER, 5, 0xffff_0004, BASE.0));
}

#[test]
fn timer_without_hardware_is_injected_when_due() {
    let mut test = Test::new();
    test.hart.hart.csr.stimecmp = 0;
    test.run();
    assert_eq!(test.processor.injected[0], mip::STIP << 1);
    test.hart.hart.csr.stimecmp = 500;
    test.processor.time = 0;
    test.trap(cause::CALL, 0, 0);
    test.run();
    assert_eq!(test.processor.timer, 500);
}

#[test]
fn no_trap_makes_the_engine_fail() {
    for cause in (0..64).chain([1 << 63, 1 << 63 | 1, 1 << 63 | 9, u64::MAX, 1 << 40]) {
        for value in [0, 1, 0x1050_0073, BASE.0, u64::MAX, u64::MAX << 38] {
            for instruction in [None, Some(0), Some(0x0003_2283), Some(u32::MAX)] {
                let mut test = Test::new();
                test.processor.instruction = instruction;
                test.hart.hart.pc = value;
                test.trap(cause, value, value);
                test.run();
            }
        }
    }
}

#[test]
fn another_physical_hart_has_no_stale_vmid() {
    let mut test = Test::new();
    let first = test.stage.enter(&mut test.processor);
    assert_eq!(test.stage.enter(&mut test.processor), first);
    test.processor.index = 1;
    assert_ne!(test.stage.enter(&mut test.processor).vmid, first.vmid);
    // The root is aligned to its size.
    assert!((first.root & ((1 << 44) - 1)).is_multiple_of(4));
}

#[test]
fn fetches_are_fenced_where_code_may_have_changed_unseen() {
    let mut test = Test::new();
    let fences = |test: &mut Test| {
        test.run();
        core::mem::take(&mut test.processor.instruction_fences)
    };
    assert_eq!((fences(&mut test), fences(&mut test)), (1, 0));
    test.hart.hart.fence_instructions();
    assert_eq!((fences(&mut test), fences(&mut test)), (1, 0));
    test.processor.index = 3;
    assert_eq!((fences(&mut test), fences(&mut test)), (1, 0));
    test.stage.clear();
    assert_eq!((fences(&mut test), fences(&mut test)), (1, 0));
}
