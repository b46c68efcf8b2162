use rvisor_isa::csr::mip;
use rvisor_machine::memory_map::UART;
use rvisor_machine::signals::HartState;
use rvisor_waist::{GuestMemory, GuestPhysical};

use super::*;
use crate::address::MachineAddress;
use crate::arch::partition::tests::{BASE, partition};
use crate::copies::Copies;
use crate::pte::Pte;
use crate::shadow::{LEAST_TABLES, Pool};
use crate::testing::{FakeHart, vm, vm_of};

const RAM: usize = 4 << 20;
const HANDLER: u64 = BASE.0 + 0x100;
const CAUSE_ILLEGAL: u64 = 2;
const CAUSE_CALL: u64 = 8;
const CAUSE_LOAD_PAGE_FAULT: u64 = 13;
const CAUSE_STORE_PAGE_FAULT: u64 = 15;
const CAUSE_FETCH_PAGE_FAULT: u64 = 12;
const CAUSE_BREAKPOINT: u64 = 3;
const COPIES: MachineAddress = MachineAddress(0xc000_0000);

struct Test {
    vm: Vm<Partition>,
    hart: VirtualHart,
    shadow: Shadow,
    processor: FakeHart,
}

impl Test {
    fn new() -> Self {
        Self::of(vm(RAM))
    }

    /// The guest's kernel in S-mode with translation: all addresses are what they were. It has copies, and this code.
    fn with_copies(code: &[u32]) -> Self {
        let memory = partition(RAM);
        let copies = Copies::new(&memory.range(), 4, |_| COPIES, |_| panic!("nobody is inside"));
        let mut test = Self::of(vm_of(memory.with_copies(copies)));
        const GIGABYTE: GuestPhysical = GuestPhysical(BASE.0 + 0x10_0000);
        test.vm.memory().store(GIGABYTE.offset(8 * (BASE.0 >> 30)), (BASE.0 >> 2) | 0xcf).unwrap();
        for (index, bits) in code.iter().enumerate() {
            test.vm.memory().store(BASE.offset(4 * index as u64), *bits).unwrap();
        }
        test.hart.hart.csr.satp = 8 << 60 | GIGABYTE.0 >> 12;
        test.hart.hart.fence_vma(None, None);
        test
    }

    fn copies(&self) -> &Copies {
        self.vm.memory().copies().unwrap()
    }

    /// At `pc` the hardware traps.
    fn trap_at(&mut self, pc: u64, trap: GuestTrap) {
        self.hart.hart.pc = pc;
        self.processor.act(move |_| trap);
        self.processor.time = 0;
        self.run();
    }

    /// The first instruction misses a sequence.
    fn miss(&mut self) {
        let missing = Some(Missing::AtTrap);
        self.trap_at(BASE.0, GuestTrap { cause: CAUSE_ILLEGAL, value: 0, status: 0, missing });
    }

    fn of(vm: Vm<Partition>) -> Self {
        let mut hart = VirtualHart::new(0, &vm);
        vm.harts()[0].update_state(|_| Some(HartState::Started));
        vm.harts()[0].clear_attention();
        hart.hart.pc = BASE.0;
        hart.hart.csr.stvec = HANDLER;
        let pool = Pool::new(LEAST_TABLES, |_| MachineAddress(0x9000_0000));
        Self { vm, hart, shadow: Shadow::new(pool, Pte::default(), 0), processor: FakeHart::default() }
    }

    fn run(&mut self) -> Exit {
        Deprivileged::new(&mut self.shadow, &mut self.processor, 1000).run(&mut self.hart, &self.vm, 0)
    }
}

#[test]
fn users_call_is_reflected_and_the_kernels_is_the_monitors() {
    let mut test = Test::new();
    test.hart.hart.privilege = Privilege::User;
    test.processor.trap(CAUSE_CALL, 0);
    test.processor.trap(CAUSE_CALL, 0);
    assert_eq!(test.run(), Exit::SbiCall);
    let hart = &test.hart.hart;
    assert_eq!((hart.pc, hart.csr.sepc, hart.csr.scause), (HANDLER, BASE.0, CAUSE_CALL));
    assert_eq!(hart.privilege, Privilege::Supervisor);
}

#[test]
fn slice_ends_by_the_timer() {
    let mut test = Test::new();
    assert_eq!(test.run(), Exit::Budget);
    assert_eq!((test.processor.timer, test.processor.entries.len()), (1000, 1));
}

#[test]
fn privileged_instruction_is_emulated() {
    // csrrw x5, sscratch, x6
    let mut test = Test::new();
    test.hart.hart.csr.sscratch = 7;
    test.hart.hart.x[6] = 9;
    test.processor.trap(CAUSE_ILLEGAL, 0x1403_12f3);
    test.run();
    let hart = &test.hart.hart;
    assert_eq!((hart.x[5], hart.csr.sscratch, hart.pc), (7, 9, BASE.0 + 4));
}

#[test]
fn instruction_is_fetched_where_the_hardware_does_not_tell_it() {
    let mut test = Test::new();
    test.vm.memory().store(BASE, 0x1403_12f3u32).unwrap();
    test.hart.hart.x[6] = 9;
    test.processor.trap(CAUSE_ILLEGAL, 0);
    test.run();
    assert_eq!(test.hart.hart.csr.sscratch, 9);
}

#[test]
fn missing_sequence_is_recorded_up_to_its_last_privileged_instruction() {
    // csrrw x5, sscratch, x6; csrrs x7, sepc, x0; addi x8, x7, 1; jalr x0, x1
    let code = [0x1403_12f3, 0x1410_23f3, 0x0013_8413, 0x0000_8067u32];
    for missing in [Missing::AtTrap, Missing::AtCall] {
        let mut test = Test::new();
        let start = if missing == Missing::AtTrap { BASE.0 } else { HANDLER };
        for (index, bits) in code.into_iter().enumerate() {
            test.vm.memory().store(GuestPhysical(start + 4 * index as u64), bits).unwrap();
        }
        test.hart.hart.csr.sscratch = 7;
        test.hart.hart.csr.sepc = 0x1234;
        let cause = match missing {
            Missing::AtTrap => CAUSE_ILLEGAL,
            Missing::AtCall => {
                test.hart.hart.privilege = Privilege::User;
                CAUSE_CALL
            }
        };
        let bits = code[0].into();
        test.processor.act(move |_| GuestTrap { cause, value: bits, status: 0, missing: Some(missing) });
        test.run();
        let [(pc, kept, steps)] = &test.processor.kept[..] else { panic!("{:?}", test.processor.kept) };
        assert_eq!((*pc, *kept), (start, missing));
        // What comes behind is the guest's to do.
        assert_eq!(steps.iter().map(|step| step.bits).collect::<alloc::vec::Vec<_>>(), code[..2]);
        let hart = &test.hart.hart;
        assert_eq!((hart.pc, hart.x[5], hart.x[7]), (start + 8, 7, hart.csr.sepc));
    }
}

#[test]
fn instruction_that_is_in_no_sequence_is_carried_out_alone() {
    // csrrw x0, sie, x6
    let mut test = Test::new();
    test.vm.memory().store(BASE, 0x1043_1073u32).unwrap();
    test.hart.hart.x[6] = mip::SSIP;
    let missing = Some(Missing::AtTrap);
    test.processor.act(move |_| GuestTrap { cause: CAUSE_ILLEGAL, value: 0x1043_1073, status: 0, missing });
    test.run();
    assert_eq!((test.hart.hart.pc, test.hart.hart.csr.mie), (BASE.0 + 4, mip::SSIP));
    assert_eq!(test.processor.kept, [(BASE.0, Missing::AtTrap, alloc::vec::Vec::new())]);
}

#[test]
fn sequence_that_faults_leaves_the_guest_where_it_is() {
    let mut test = Test::new();
    test.processor.act(|_| GuestTrap { cause: GuestTrap::NONE, value: 0, status: 0, missing: None });
    test.run();
    assert_eq!((test.hart.hart.pc, test.hart.hart.csr.scause), (BASE.0, 0));
}

#[test]
fn time_is_counted_for_the_cause() {
    let mut slice = Slice::until(1000);
    for (cause, begin, end) in
        [(CAUSE_ILLEGAL, 5, 9), (1 << 63 | 5, 10, 11), (CAUSE_CALL, 20, 50), (u64::MAX >> 1, 60, 70)]
    {
        slice.begin(cause, begin);
        slice.end_of_service(end);
        slice.end_of_service(end + 5);
    }
    assert_eq!(slice.statistics.service(), [4, 30, 0, 1, 0]);
}

#[test]
fn unknown_and_machine_level_instructions_are_reflected() {
    // An unused opcode, `csrr x5, mstatus`, `mret`, `fadd.s` with floating point off.
    for bits in [0xffff_ffff, 0x3000_22f3, 0x3020_0073, 0x0000_0053] {
        let mut test = Test::new();
        test.processor.trap(CAUSE_ILLEGAL, bits);
        test.run();
        let csr = &test.hart.hart.csr;
        assert_eq!((test.hart.hart.pc, csr.scause, csr.stval), (HANDLER, CAUSE_ILLEGAL, bits));
    }
}

#[test]
fn page_of_ram_is_mapped_and_the_guest_goes_on() {
    let mut test = Test::new();
    test.processor.trap(CAUSE_LOAD_PAGE_FAULT, BASE.0 + 0x1234);
    test.run();
    assert_eq!((test.shadow.fills, test.hart.hart.pc), (1, BASE.0));
}

#[test]
fn page_fault_of_the_guests_own_is_reflected() {
    let mut test = Test::new();
    test.hart.hart.csr.satp = 8 << 60 | BASE.0 >> 12;
    test.hart.hart.fence_vma(None, None);
    test.processor.trap(CAUSE_LOAD_PAGE_FAULT, 0x1234);
    test.run();
    let csr = &test.hart.hart.csr;
    assert_eq!((csr.scause, csr.stval, csr.sepc), (CAUSE_LOAD_PAGE_FAULT, 0x1234, BASE.0));
    assert_eq!(test.shadow.fills, 0);
}

#[test]
fn access_to_a_device_leaves_the_engine() {
    // lb x5, 0(x6)
    let mut test = Test::new();
    test.vm.memory().store(BASE, 0x0003_0283u32).unwrap();
    test.hart.hart.x[6] = UART.base.0;
    test.processor.trap(CAUSE_LOAD_PAGE_FAULT, UART.base.0);
    let Exit::Device(access) = test.run() else { panic!("no device access") };
    assert_eq!(access.address, UART.base);
    assert_eq!(test.shadow.fills, 0);
}

#[test]
fn fetch_outside_ram_is_an_access_fault() {
    let mut test = Test::new();
    test.hart.hart.pc = 0x1000;
    test.processor.trap(12, 0x1000);
    test.run();
    assert_eq!((test.hart.hart.csr.scause, test.hart.hart.csr.stval), (1, 0x1000));
}

#[test]
fn interrupt_is_taken_before_the_guest_goes_on() {
    let mut test = Test::new();
    test.hart.hart.csr.mie = mip::SSIP;
    test.hart.hart.csr.mip = mip::SSIP;
    test.hart.hart.csr.mstatus |= mstatus::SIE;
    test.run();
    assert_eq!(test.hart.hart.pc, HANDLER);
}

#[test]
fn kick_makes_the_engine_leave() {
    let mut test = Test::new();
    test.vm.harts()[0].kick();
    assert_eq!(test.run(), Exit::Budget);
    assert!(test.processor.entries.is_empty());
}

#[test]
fn floating_point_registers_come_and_go_with_the_guest() {
    let mut test = Test::new();
    test.hart.hart.csr.mstatus |= mstatus::FS_CLEAN;
    test.hart.hart.f[3] = 33;
    test.processor.act(|_| GuestTrap { cause: CAUSE_CALL, value: 0, status: mstatus::FS, missing: None });
    assert_eq!(test.run(), Exit::SbiCall);
    assert_eq!(test.processor.float[3], 33);
    assert_eq!(test.hart.hart.csr.mstatus & mstatus::FS, mstatus::FS);
    test.processor.float[3] = 44;
    test.processor.act(|_| GuestTrap { cause: CAUSE_CALL, value: 0, status: mstatus::FS, missing: None });
    test.run();
    // The hart's own were loaded again.
    assert_eq!(test.hart.hart.f[3], 33);
}

#[test]
fn no_trap_makes_the_engine_fail() {
    for cause in (0..64).chain([1 << 63, 1 << 63 | 1, 1 << 63 | 9, u64::MAX, 1 << 40]) {
        for value in [0, 1, BASE.0, BASE.0 + RAM as u64 - 1, u64::MAX, 1 << 38, u64::MAX << 38] {
            let mut test = Test::new();
            test.hart.hart.pc = value;
            test.processor.trap(cause, value);
            test.run();
        }
    }
}

#[test]
fn only_the_partition_is_ever_mapped() {
    let mut test = Test::new();
    let end = GuestPhysical(BASE.0 + RAM as u64);
    for address in [BASE.0, end.0 - 1, end.0, BASE.0 - 1, 0, UART.base.0] {
        test.processor.trap(CAUSE_LOAD_PAGE_FAULT, address);
        test.hart.hart.pc = BASE.0;
        test.processor.time = 0;
        test.run();
    }
    assert_eq!(test.shadow.fills, 2);
}

#[test]
fn fetches_are_fenced_where_code_may_have_changed_unseen() {
    let mut test = Test::new();
    let fences = |test: &mut Test| {
        test.run();
        core::mem::take(&mut test.processor.instruction_fences)
    };
    // The memory that it was given had something else in it.
    assert_eq!(fences(&mut test), 1);
    assert_eq!(fences(&mut test), 0);
    // Another hart has asked for it.
    test.hart.hart.fence_instructions();
    assert_eq!(fences(&mut test), 1);
    // Its own ones were carried out elsewhere.
    test.processor.index = 3;
    assert_eq!(fences(&mut test), 1);
    assert_eq!(fences(&mut test), 0);
    // It is switched on again.
    test.shadow.clear();
    assert_eq!(fences(&mut test), 1);
}

const fn plain(cause: u64, value: u64) -> GuestTrap {
    GuestTrap { cause, value, status: 0, missing: None }
}

/// `csrrw x5, sscratch, x6; ld x7, 0(x8); sd x7, 0(x8); ebreak; c.ebreak; c.nop`.
const TEXT: [u32; 5] = [0x1403_12f3, 0x0004_3383, 0x0074_3023, 0x0010_0073, 0x0001_9002];

#[test]
fn breakpoint_in_a_copy_is_the_guests_instruction_unless_it_has_one() {
    let mut test = Test::with_copies(&TEXT);
    // Before there is a copy, it is the guest's.
    test.trap_at(BASE.0, plain(CAUSE_BREAKPOINT, 0));
    assert_eq!(test.hart.hart.csr.scause, CAUSE_BREAKPOINT);
    test.miss();
    let [original] = test.copies().all().1[..] else { panic!("no copy") };
    assert_eq!((original.page, test.processor.guards[0].map(|guard| guard.slot)), (BASE, Some(0)));
    test.hart.hart.csr.sscratch = 7;
    test.hart.hart.x[6] = 9;
    test.hart.hart.csr.scause = 0;
    test.trap_at(BASE.0, plain(CAUSE_BREAKPOINT, BASE.0));
    let hart = &test.hart.hart;
    assert_eq!((hart.x[5], hart.csr.sscratch, hart.pc, hart.csr.scause), (7, 9, BASE.0 + 4, 0));
    for own in [BASE.0 + 12, BASE.0 + 16] {
        test.trap_at(own, plain(CAUSE_BREAKPOINT, own));
        let hart = &test.hart.hart;
        assert_eq!((hart.csr.scause, hart.csr.sepc, hart.pc), (CAUSE_BREAKPOINT, own, HANDLER));
    }
    // A program executes the page itself.
    test.hart.hart.privilege = Privilege::User;
    test.trap_at(BASE.0, plain(CAUSE_BREAKPOINT, BASE.0));
    assert_eq!((test.hart.hart.csr.scause, test.hart.hart.csr.sepc), (CAUSE_BREAKPOINT, BASE.0));
}

#[test]
fn copy_is_executed_and_what_is_read_is_the_page() {
    let mut test = Test::with_copies(&TEXT);
    test.miss();
    test.trap_at(BASE.0, plain(CAUSE_FETCH_PAGE_FAULT, BASE.0));
    let key = key(&test.hart.hart);
    assert!(test.shadow.executes_copy(&key, BASE.0, test.copies()));
    test.hart.hart.x[8] = BASE.0;
    test.trap_at(BASE.0 + 4, plain(CAUSE_LOAD_PAGE_FAULT, BASE.0));
    assert_eq!((test.hart.hart.x[7] as u32, test.hart.hart.pc), (TEXT[0], BASE.0 + 8));
    assert_eq!(test.copies().all().1.len(), 1);
    for _ in 0..300 {
        test.trap_at(BASE.0 + 4, plain(CAUSE_LOAD_PAGE_FAULT, BASE.0));
    }
    assert_eq!(test.copies().all().1.len(), 0);
}

#[test]
fn copy_goes_when_the_page_is_written_to_by_the_guest_or_for_it() {
    for is_guest in [true, false] {
        let mut test = Test::with_copies(&TEXT);
        test.miss();
        test.trap_at(BASE.0, plain(CAUSE_FETCH_PAGE_FAULT, BASE.0));
        if is_guest {
            test.trap_at(BASE.0 + 8, plain(CAUSE_STORE_PAGE_FAULT, BASE.0 + 0x800));
        } else {
            // A device; then the instruction that traps is another one.
            test.vm.memory().write(BASE, &0x1410_12f3u32.to_le_bytes()).unwrap();
            test.hart.hart.csr.sepc = 0x1234;
            test.trap_at(BASE.0, plain(CAUSE_ILLEGAL, 0));
            assert_eq!(test.hart.hart.x[5], 0x1234);
        }
        assert_eq!(test.copies().all().1.len(), 0);
        test.trap_at(BASE.0, plain(CAUSE_FETCH_PAGE_FAULT, BASE.0));
        assert!(!test.shadow.executes_copy(&key(&test.hart.hart), BASE.0, test.copies()));
        assert_eq!(test.shadow.copy_at(BASE.0), None);
        // A breakpoint there is the guest's own again.
        test.trap_at(BASE.0, plain(CAUSE_BREAKPOINT, BASE.0));
        assert_eq!(test.hart.hart.csr.scause, CAUSE_BREAKPOINT);
    }
}

#[test]
fn code_that_another_hart_has_just_changed_is_looked_at_again() {
    let mut test = Test::with_copies(&TEXT);
    test.miss();
    test.trap_at(BASE.0, plain(CAUSE_FETCH_PAGE_FAULT, BASE.0));
    // While this hart is on its way out: `addi x5, x0, 1`.
    let vm = core::mem::replace(&mut test.vm, crate::testing::vm(RAM));
    let vm = alloc::sync::Arc::new(vm);
    let other = alloc::sync::Arc::clone(&vm);
    test.hart.hart.pc = BASE.0;
    test.hart.hart.csr.scause = 0;
    test.processor.time = 0;
    test.processor.act(move |_| {
        // The trap has come, the hart isn't in the guest any more.
        other.memory().copies().unwrap().leave(0);
        other.memory().store(BASE, 0x0010_0293u32).unwrap();
        plain(CAUSE_BREAKPOINT, BASE.0)
    });
    let engine = &mut Deprivileged::new(&mut test.shadow, &mut test.processor, 1000);
    assert_eq!(engine.run(&mut test.hart, &vm, 0), Exit::Budget);
    assert_eq!((test.hart.hart.pc, test.hart.hart.csr.scause), (BASE.0, 0));
}

#[test]
fn programs_and_kernels_without_translation_have_no_copies() {
    let mut test = Test::with_copies(&TEXT);
    test.hart.hart.csr.satp = 0;
    test.hart.hart.fence_vma(None, None);
    test.miss();
    assert_eq!((test.copies().all().1.len(), &test.processor.guards[..]), (0, &[None][..]));
}
