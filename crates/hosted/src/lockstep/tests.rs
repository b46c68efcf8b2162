use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rvisor_isa::csr::{hgatp, hstatus, mstatus, satp};
use rvisor_isa::{Exception, Privilege};
use rvisor_machine::memory_map::RAM_BASE;
use rvisor_machine::{Backends, Extensions, TranslationMode, VmConfig};
use rvisor_waist::Word;

use super::*;
use crate::runner::HostedVm;
use crate::{HostClock, Stream};

const ADDI_A0_A0_1: u32 = 0x0015_0513;
const LD_A1_0_A2: u32 = 0x0006_3583;
const SD_A0_8_A2: u32 = 0x00a6_3423;
const WFI: u32 = 0x1050_0073;
const A0: usize = 10;
const A1: usize = 11;
const A2: usize = 12;
const A3: usize = 13;
/// Where the tests' programs have their data.
const DATA: GuestPhysical = GuestPhysical(RAM_BASE.0 + 0x8000);

/// Steps, and does one more thing after each instruction at an address.
struct Wrong(u64, fn(&mut VirtualHart, &HostMemory));

impl Engine<HostMemory> for Wrong {
    fn run(&mut self, hart: &mut VirtualHart, vm: &Vm<HostMemory>, budget: u64) -> Exit {
        let environment = vm.environment(&vm.harts()[0]);
        for _ in 0..budget {
            let pc = hart.hart.pc;
            let exit = hart.hart.step(&environment);
            if pc == self.0 {
                self.1(hart, vm.memory());
            }
            if exit != Exit::Budget {
                return exit;
            }
        }
        Exit::Budget
    }
}

struct Test {
    vm: Arc<HostedVm>,
    hart: VirtualHart,
    clock: Arc<SteppedClock>,
    found: Arc<OnceLock<String>>,
}

impl Test {
    /// A machine that stands at the start of `program`.
    fn new(program: &[u32]) -> Self {
        let mut memory = HostMemory::in_file(RAM_BASE, 0x10_0000).expect("the host has a mebibyte");
        memory.keep_journal();
        for (&word, place) in program.iter().zip(0..) {
            memory.store(RAM_BASE.offset(4 * place), word).expect("inside RAM");
        }
        let config = VmConfig {
            harts: 1,
            machine_mode: false,
            translation: TranslationMode::Sv57,
            hypervisor: true,
            extensions: Extensions::ALL,
        };
        let stream = || Stream::new().backend();
        let backends = Backends { serial: stream(), sbi_console: stream(), virtio: Vec::new() };
        let clock = Arc::new(SteppedClock::new(HostClock::new()));
        let vm = Arc::new(HostedVm::new(config, Arc::new(memory), Arc::clone(&clock) as _, backends));
        let mut hart = VirtualHart::new(0, &vm);
        hart.hart.pc = RAM_BASE.0;
        hart.hart.x[A2] = DATA.0;
        Self { vm, hart, clock, found: Arc::default() }
    }

    fn engine<E: Engine<HostMemory>>(&self, engine: E) -> Lockstep<E> {
        Lockstep::new(engine, self.vm.memory(), &self.clock, &self.found).expect("the host has memory")
    }

    fn translator(&self) -> Lockstep {
        let shared = rvisor_translator::share::<HostMemory>(1, rvisor_translator::Options::default());
        self.engine(Translator::new(&shared.expect("a cache")).expect("a translator"))
    }

    /// What is found when `change` follows the instruction number `place`.
    fn found_with(mut self, place: u64, change: fn(&mut VirtualHart, &HostMemory)) -> String {
        let mut engine = self.engine(Wrong(RAM_BASE.0 + 4 * place, change));
        engine.run(&mut self.hart, &self.vm, 100);
        assert!(self.vm.power_requested().is_some());
        self.found.get().expect("a difference").clone()
    }
}

const PROGRAM: [u32; 5] = [ADDI_A0_A0_1, LD_A1_0_A2, ADDI_A0_A0_1, SD_A0_8_A2, WFI];

#[test]
fn engines_that_agree_go_on() {
    let mut test = Test::new(&PROGRAM);
    let mut engine = test.translator();
    assert_eq!(engine.run(&mut test.hart, &test.vm, 100), Exit::WaitForInterrupt);
    assert_eq!((test.found.get(), test.hart.hart.x[A0]), (None, 2));
    assert_eq!(test.vm.memory().load(DATA.offset(8)), Ok(2u64));
    assert_eq!(engine.twin.difference_anywhere(test.vm.memory()).expect("the host reads"), None);
}

#[test]
fn register_that_differs_is_found_with_its_instruction() {
    let text = Test::new(&PROGRAM).found_with(2, |hart, _| hart.hart.x[A0] += 5);
    assert!(text.contains("x10: 0x7 and 0x2"), "{text}");
    assert!(text.contains("after 2 instructions, in the 1 from 0x80000008 on"), "{text}");
    assert!(text.contains("changed it last at 0x80000008, addi a0, a0, 1"), "{text}");
}

#[test]
fn store_that_differs_is_found_with_its_instruction() {
    let change = |_: &mut VirtualHart, memory: &HostMemory| {
        memory.store(DATA.offset(9), 3u8).expect("inside RAM");
    };
    let text = Test::new(&PROGRAM).found_with(3, change);
    assert!(text.contains("memory at 0x80008009: 0x3 and 0x0"), "{text}");
    assert!(text.contains("after 3 instructions, in the 1 from 0x8000000c on"), "{text}");
}

#[test]
fn exit_that_differs_is_found() {
    let text = Test::new(&PROGRAM).found_with(4, |hart, _| hart.hart.pc += 4);
    assert!(text.contains("pc: 0x80000018 and 0x80000014"), "{text}");
}

#[test]
fn what_a_device_wrote_between_slices_reaches_the_interpreter() {
    let mut test = Test::new(&PROGRAM);
    let mut engine = test.translator();
    test.vm.memory().write(DATA, &7u64.to_le_bytes()).expect("inside RAM");
    engine.run(&mut test.hart, &test.vm, 100);
    assert_eq!((test.found.get(), test.hart.hart.x[A1]), (None, 7));
}

#[test]
fn virtualization_mode_that_differs_is_found() {
    let text = Test::new(&PROGRAM).found_with(2, |hart, _| hart.hart.virtualized = true);
    assert!(text.contains("virtualized: true and false"), "{text}");
    assert!(text.contains("after 2 instructions, in the 1 from 0x80000008 on"), "{text}");
}

#[test]
fn virtual_machine_runs_in_slices_of_any_length() {
    const SRET: u32 = 0x1020_0073;
    /// `hlv.d a1, (a3)`
    const HLV_D_A1_A3: u32 = 0x6c06_c5f3;
    const HANDLER: u64 = 12;
    /// The second stage's root, and its entry for a gibibyte of RAM: VRWXUAD.
    const ROOT: GuestPhysical = GuestPhysical(RAM_BASE.0 + 0x4000);
    const ENTRY: u64 = RAM_BASE.0 >> 12 << 10 | 0xdf;
    for budget in [1, 2, 100] {
        // In the virtual machine the first hlv.d is a virtual instruction: its trap leads to the same one in HS-mode.
        let mut test = Test::new(&[SRET, ADDI_A0_A0_1, SD_A0_8_A2, HLV_D_A1_A3, WFI]);
        test.vm.memory().store(ROOT.offset(8 * (RAM_BASE.0 >> 30)), ENTRY).expect("inside RAM");
        let hart = &mut test.hart.hart;
        hart.x[A3] = DATA.0 + 8;
        hart.csr.mstatus |= mstatus::SPP;
        hart.csr.hstatus |= hstatus::SPV;
        hart.csr.hgatp = satp::SV39 << satp::MODE_SHIFT | 1 << hgatp::VMID_SHIFT | ROOT.0 >> 12;
        (hart.csr.sepc, hart.csr.stvec) = (RAM_BASE.0 + 4, RAM_BASE.0 + HANDLER);
        let mut engine = test.translator();
        while engine.run(&mut test.hart, &test.vm, budget) != Exit::WaitForInterrupt {
            assert_eq!(test.found.get(), None);
        }
        let hart = &test.hart.hart;
        assert_eq!((test.found.get(), hart.x[A1], engine.excused), (None, 1, 0));
        assert_eq!(hart.csr.scause, Exception::VirtualInstruction.code());
        assert_eq!((hart.virtualized, hart.privilege), (false, Privilege::Supervisor));
        assert_eq!(hart.csr.hstatus & hstatus::SPV, hstatus::SPV);
    }
}

#[test]
fn write_of_a_device_waits_for_the_end_of_a_slice() {
    let test = Test::new(&PROGRAM);
    let journal = test.vm.memory().journal().expect("a journal");
    let slice = journal.slice();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            test.vm.memory().zero(DATA, u64::SIZE).expect("inside RAM");
            sender.send(()).expect("somebody listens");
        });
        assert_eq!(receiver.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        drop(slice);
        assert_eq!(receiver.recv(), Ok(()));
    });
    assert!(journal.take().contains(&(DATA, u64::SIZE)));
}

#[test]
fn code_that_overwrites_itself_without_a_fence_is_excused() {
    /// `sw a0, 8(a2)`
    const SW_A0_8_A2: u32 = 0x00a6_2423;
    let mut test = Test::new(&[ADDI_A0_A0_1, SW_A0_8_A2, ADDI_A0_A0_1, WFI]);
    test.hart.hart.x[A0] = u64::from(WFI) - 1;
    test.hart.hart.x[A2] = RAM_BASE.0;
    let mut engine = test.translator();
    while engine.run(&mut test.hart, &test.vm, 100) != Exit::WaitForInterrupt {}
    assert_eq!((test.found.get(), test.hart.hart.x[A0], engine.excused), (None, u64::from(WFI), 1));
}
