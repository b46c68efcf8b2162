use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rvisor_virtio::Transport;
use rvisor_virtio::net::Net;
use rvisor_waist::{NetBackend, Width};

use super::*;
use crate::memory_map as map;
use crate::signals::{Entry, HartState};
use crate::testing::{TestClock, TestConsole, TestMemory, TestVm};
use crate::{Backends, SlotBuilder};

fn saved(test: &TestVm, harts: &mut [VirtualHart]) -> SavedState {
    let harts: Vec<_> = harts.iter_mut().map(|hart| hart.save(&test.vm).unwrap()).collect();
    test.vm.save(&harts, test.clock.0.load(Ordering::SeqCst)).unwrap()
}

fn harts(test: &TestVm) -> Vec<VirtualHart> {
    (0..test.vm.harts().len()).map(|index| VirtualHart::new(index, &test.vm)).collect()
}

/// A machine in which something is up everywhere.
fn busy(machine_mode: bool) -> (TestVm, Vec<VirtualHart>) {
    let test = TestVm::new(3, machine_mode);
    let mut harts = harts(&test);
    (harts[0].hart.pc, harts[0].hart.x[5], harts[0].waiting) = (0x8000_0040, 77, true);
    let states = [
        HartState::Started,
        HartState::StartPending(Entry { address: 0x8000_1000, opaque: 9 }),
        HartState::Suspended { resume: Some(Entry { address: 0x8000_2000, opaque: 1 }) },
    ];
    for (signals, state) in test.vm.harts().iter().zip(states) {
        signals.update_state(|_| Some(state));
    }
    test.vm.harts()[1].post_software_interrupt();
    let board = test.vm.board();
    let write = |window: map::Window, offset: u64, width, value| {
        board.write(window.base.offset(offset), width, value).unwrap().unwrap();
    };
    // The UART's interrupt is enabled, pending, and routed to hart 0.
    write(map::PLIC, 4 * u64::from(map::UART_IRQ), Width::Word, 5);
    write(map::PLIC, 0x2000, Width::Word, 1 << map::UART_IRQ);
    write(map::UART, 1, Width::Byte, 2);
    write(map::UART, 7, Width::Byte, 0x5a);
    write(map::RTC, 0, Width::Word, 12345);
    if machine_mode {
        write(map::MSWI, 4, Width::Word, 1);
        write(map::MTIMER, 8, Width::Double, 5000);
    }
    test.clock.0.store(4242, Ordering::SeqCst);
    harts[1].steal_time = crate::sbi::StealTime::from_state(0x8000_0040, 6, 9000).unwrap();
    test.vm.set_host_interface(Some(HostInterface { tohost: GuestPhysical(0x8000_3000), fromhost: None }));
    (test, harts)
}

#[test]
fn restored_machine_is_as_it_was() {
    for machine_mode in [false, true] {
        let (first, mut first_harts) = busy(machine_mode);
        let state = saved(&first, &mut first_harts);
        let shape = state.shape().unwrap();
        assert_eq!((shape.config, shape.memory, shape.ticks), (*first.vm.config(), 1 << 20, 4242));
        let second = TestVm::new(3, machine_mode);
        second.clock.0.store(4242, Ordering::SeqCst);
        let mut second_harts = harts(&second);
        let state = SavedState::new(state.as_bytes().to_vec()).unwrap();
        second.vm.restore(&state, &mut second_harts).unwrap();
        assert_eq!(second_harts[0].hart.x[5], 77);
        assert_eq!(second_harts[1].hart.csr.mip & 2, 2, "the pulse");
        for (one, other) in first.vm.harts().iter().zip(second.vm.harts()) {
            assert_eq!((one.lines(), one.state()), (other.lines(), other.state()));
            assert_eq!(
                one.machine_timer().load(Ordering::SeqCst),
                other.machine_timer().load(Ordering::SeqCst)
            );
        }
        assert_ne!(second.vm.harts()[0].lines(), 0, "the interrupt is still pending");
        assert_eq!(second.vm.host_interface(), first.vm.host_interface());
        assert_eq!(second.vm.board().read(map::UART.base.offset(7), Width::Byte), Ok(Ok(0x5a)));
        assert_eq!(saved(&second, &mut second_harts).as_bytes(), state.as_bytes());
    }
}

#[test]
fn other_machine_is_refused() {
    let (first, mut first_harts) = busy(false);
    let state = saved(&first, &mut first_harts);
    for (count, machine_mode) in [(2, false), (3, true)] {
        let other = TestVm::new(count, machine_mode);
        assert!(matches!(other.vm.restore(&state, &mut harts(&other)), Err(StateError::Mismatch(_))));
    }
}

#[test]
fn damage_is_found() {
    let (first, mut first_harts) = busy(true);
    let good = saved(&first, &mut first_harts).as_bytes().to_vec();
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert!(SavedState::new(bytes).is_err(), "byte {at}");
        assert!(SavedState::new(good[..at].to_vec()).is_err(), "length {at}");
    }
    let mut newer = good;
    newer[8] = 99;
    assert_eq!(SavedState::new(newer).err(), Some(StateError::Version(99)));
}

/// With a checksum that fits, whatever is inside.
fn forged(mut bytes: Vec<u8>) -> Option<SavedState> {
    let sum = crc32fast::hash(&bytes[HEADER..]);
    bytes[12..HEADER].copy_from_slice(&sum.to_le_bytes());
    SavedState::new(bytes).ok()
}

#[test]
fn forged_state_never_panics() {
    let (first, mut first_harts) = busy(true);
    let good = saved(&first, &mut first_harts).as_bytes().to_vec();
    for at in (HEADER..good.len()).step_by(13) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let Some(state) = forged(bytes) else { continue };
            let other = TestVm::new(3, true);
            let mut other_harts = harts(&other);
            if other.vm.restore(&state, &mut other_harts).is_ok() {
                saved(&other, &mut other_harts);
            }
        }
    }
}

struct NoNetwork;

impl NetBackend for NoNetwork {
    fn send(&mut self, _frame: &[u8]) {}

    fn receive(&mut self, _frame: &mut Vec<u8>) -> bool {
        false
    }
}

#[test]
fn slot_with_another_device_is_refused() {
    let (first, mut first_harts) = busy(false);
    let state = saved(&first, &mut first_harts);
    let slot: SlotBuilder<TestMemory> = Box::new(|memory, line| {
        Box::new(Transport::new(Net::new([2, 0, 0, 0, 0, 1], Box::new(NoNetwork)), memory, line))
    });
    let backends = Backends {
        serial: Box::new(TestConsole::default()),
        sbi_console: Box::new(TestConsole::default()),
        virtio: alloc::vec![slot],
    };
    let memory = Arc::new(TestMemory::new(1 << 20));
    let vm = Vm::new(*first.vm.config(), memory, Arc::new(TestClock::default()), backends);
    let mut other: Vec<_> = (0..3).map(|index| VirtualHart::new(index, &vm)).collect();
    assert!(state.slots().unwrap().iter().all(|device| device.id == 0));
    let saved: Vec<_> = other.iter_mut().map(|hart| hart.save(&vm).unwrap()).collect();
    let slots = vm.save(&saved, 0).unwrap().slots().unwrap();
    assert_eq!((slots.len(), slots[0].id, slots[0].mac), (8, 1, Some([2, 0, 0, 0, 0, 1])));
    assert_eq!(vm.restore(&state, &mut other), Err(StateError::Mismatch("set of virtio devices")));
}
