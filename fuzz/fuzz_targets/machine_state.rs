#![no_main]
//! A machine's saved state and memory, as somebody may have changed them.

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rvisor_machine::persist::{MemoryRuns, SavedState};
use rvisor_machine::slots::MetalSlots;
use rvisor_machine::{Backends, Extensions, SlotBuilder, TranslationMode, VirtualHart, Vm, VmConfig};
use rvisor_virtio::Transport;
use rvisor_virtio::blk::Blk;
use rvisor_virtio::console::Console;
use rvisor_virtio::net::Net;
use rvisor_virtio::testing::{TestConsole, TestDisk, TestMemory, TestNet};
use rvisor_waist::{Clock, Device, StateError};

struct Time;

impl Clock for Time {
    fn ticks(&self) -> u64 {
        1
    }

    fn wall_nanoseconds(&self) -> u64 {
        1
    }
}

fn slot<D: Device + 'static>(
    build: impl FnOnce(Arc<TestMemory>, Arc<dyn rvisor_waist::InterruptLine>) -> D + 'static,
) -> SlotBuilder<TestMemory> {
    Box::new(|memory, line| Box::new(build(memory, line)))
}

fn machine(machine_mode: bool) -> (Vm<TestMemory>, Vec<VirtualHart>) {
    let console = || Box::new(TestConsole::new());
    let disk = TestDisk::new(8);
    let backends = Backends {
        serial: console(),
        sbi_console: console(),
        virtio: vec![
            slot(move |memory, line| {
                disk.attach(&memory);
                Transport::new(Blk::new(Box::new(disk)), memory, line)
            }),
            slot(|memory, line| Transport::new(Net::new([2; 6], Box::new(TestNet::default())), memory, line)),
            slot(move |memory, line| {
                let console = Console::new(console()).with_port("port", console());
                Transport::new(console, memory, line)
            }),
        ],
    };
    let config = VmConfig {
        harts: 2,
        machine_mode,
        translation: TranslationMode::Sv57,
        hypervisor: true,
        extensions: Extensions::ALL,
    };
    let vm = Vm::new(config, Arc::new(TestMemory::new(1 << 20)), Arc::new(Time), backends);
    let harts = (0..2).map(|index| VirtualHart::new(index, &vm)).collect();
    (vm, harts)
}

fn save(vm: &Vm<TestMemory>, harts: &mut [VirtualHart]) -> SavedState {
    let harts: Vec<_> = harts.iter_mut().map(|hart| hart.save(vm).expect("it can be saved")).collect();
    vm.save(&harts, 1).expect("it can be saved")
}

// Edits of a good state with a checksum that fits; and a stream of memory.
fuzz_target!(|input: (bool, Vec<(u16, u8)>, Vec<u8>)| {
    const HEADER: usize = 16;
    let (machine_mode, edits, stream) = input;
    let (vm, mut harts) = machine(machine_mode);
    let mut bytes = save(&vm, &mut harts).as_bytes().to_vec();
    let length = bytes.len() - HEADER;
    for (at, value) in edits {
        bytes[HEADER + usize::from(at) % length] = value;
    }
    let sum = crc32fast::hash(&bytes[HEADER..]);
    bytes[12..HEADER].copy_from_slice(&sum.to_le_bytes());
    let state = SavedState::new(bytes).expect("the checksum fits");
    let _ = state.shape();
    if let Ok(slots) = state.slots() {
        let _ = MetalSlots::of(&slots);
    }
    let (vm, mut harts) = machine(machine_mode);
    if vm.restore(&state, &mut harts).is_ok() {
        for base in (0..8).map(rvisor_machine::memory_map::virtio) {
            let _ = vm.poll(base.base);
        }
        save(&vm, &mut harts);
    }
    let mut rest = stream.as_slice();
    let mut runs = MemoryRuns::new(1 << 20, |buffer: &mut [u8]| {
        let (head, tail) = rest.split_at_checked(buffer.len()).ok_or(StateError::Malformed)?;
        buffer.copy_from_slice(head);
        rest = tail;
        Ok::<_, StateError>(())
    });
    while let Ok(Some(run)) = runs.next_run() {
        assert!(run.first + (run.bytes.len() / 4096) as u64 <= 1 << 20);
    }
});
