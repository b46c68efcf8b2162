//! Calls as a kernel makes them.

use rvisor_waist::GuestPhysical;

use super::*;
use crate::memory_map::RAM_BASE;
use crate::signals::{Entry, Fence, HartState};
use crate::testing::TestVm;

const INVALID_PARAMETER: u64 = -3i64 as u64;
const NOT_SUPPORTED: u64 = -2i64 as u64;

struct Caller {
    test: TestVm,
    harts: alloc::vec::Vec<VirtualHart>,
}

impl Caller {
    fn new(harts: usize) -> Self {
        let test = TestVm::new(harts, false);
        let harts = (0..harts).map(|index| VirtualHart::new(index, &test.vm)).collect();
        test.vm.harts()[0].update_state(|_| Some(HartState::Started));
        Self { test, harts }
    }

    /// Makes a call on hart 0; returns (error, value).
    fn call(&mut self, extension: u64, function: u64, arguments: &[u64]) -> (u64, u64) {
        let hart = &mut self.harts[0];
        hart.hart.x[A7] = extension;
        hart.hart.x[A6] = function;
        hart.hart.x[A0..A0 + arguments.len()].copy_from_slice(arguments);
        let before = hart.hart.pc;
        handle(hart, &self.test.vm);
        if hart.signals.state() == HartState::Started {
            assert_eq!(hart.hart.pc, before + 4);
        }
        (hart.hart.x[A0], hart.hart.x[A0 + 1])
    }
}

#[test]
fn base_names_version_and_probes_what_exists() {
    let mut caller = Caller::new(1);
    assert_eq!(caller.call(eid::BASE, 0, &[]), (0, 0x0200_0000));
    assert_eq!(caller.call(eid::BASE, 3, &[eid::HSM]), (0, 1));
    assert_eq!(caller.call(eid::BASE, 3, &[0x504d_5500]), (0, 0));
    assert_eq!(caller.call(eid::BASE, 7, &[]).0, NOT_SUPPORTED);
    assert_eq!(caller.call(0x0900_0000, 0, &[]).0, NOT_SUPPORTED);
    assert_eq!(caller.call(eid::TIME, 1, &[]).0, NOT_SUPPORTED);
}

#[test]
fn ipi_reaches_exactly_the_masked_harts() {
    let mut caller = Caller::new(4);
    assert_eq!(caller.call(eid::IPI, 0, &[0b101, 1]).0, 0);
    let hit = |caller: &Caller| -> alloc::vec::Vec<bool> {
        caller.test.vm.harts().iter().map(|hart| hart.take_software_interrupt()).collect()
    };
    assert_eq!(hit(&caller), [false, true, false, true]);
    assert_eq!(caller.call(eid::IPI, 0, &[0, u64::MAX]).0, 0);
    assert_eq!(hit(&caller), [true; 4]);
}

#[test]
fn mask_beyond_the_last_hart_is_an_invalid_parameter() {
    let mut caller = Caller::new(2);
    for arguments in [[0b100, 0], [1, 2], [1, u64::MAX - 1], [2, u64::MAX - 1]] {
        assert_eq!(caller.call(eid::IPI, 0, &arguments).0, INVALID_PARAMETER, "{arguments:x?}");
    }
}

#[test]
fn timer_is_set_through_stimecmp() {
    let mut caller = Caller::new(1);
    assert_eq!(caller.call(eid::TIME, 0, &[500]).0, 0);
    assert_eq!(caller.harts[0].hart.csr.stimecmp, 500);
}

#[test]
fn fence_makes_the_caller_wait_for_harts_in_the_guest() {
    let mut caller = Caller::new(2);
    caller.test.vm.harts()[1].enter_guest(|_| {});
    assert_eq!(caller.call(eid::RFENCE, 1, &[0b10, 0, 0x1000, 0x2000]).0, 0);
    let [(hart, ticket)] = caller.harts[0].awaited_fences[..] else { panic!("one fence is awaited") };
    assert_eq!(hart, 1);
    assert!(!caller.test.vm.harts()[1].has_fenced(ticket));
    let mut seen = alloc::vec::Vec::new();
    caller.test.vm.harts()[1].enter_guest(|fence| seen.push(fence));
    assert_eq!(seen, [Fence::Memory { start: GuestVirtual(0x1000), size: 0x2000, asid: None }]);
    assert!(caller.test.vm.harts()[1].has_fenced(ticket));
}

#[test]
fn hypervisor_fences_are_not_supported() {
    let mut caller = Caller::new(1);
    for function in 3..=7 {
        assert_eq!(caller.call(eid::RFENCE, function, &[1, 0, 0, 0]).0, NOT_SUPPORTED);
    }
}

#[test]
fn hart_starts_once_at_an_address_in_ram() {
    let mut caller = Caller::new(2);
    let entry = RAM_BASE.0 + 0x1000;
    assert_eq!(caller.call(eid::HSM, 2, &[1]), (0, 1));
    assert_eq!(caller.call(eid::HSM, 0, &[1, 0x1000, 7]).0, Error::InvalidAddress as i64 as u64);
    assert_eq!(caller.call(eid::HSM, 0, &[2, entry, 7]).0, INVALID_PARAMETER);
    assert_eq!(caller.call(eid::HSM, 0, &[1, entry, 7]).0, 0);
    assert_eq!(
        caller.test.vm.harts()[1].state(),
        HartState::StartPending(Entry { address: entry, opaque: 7 })
    );
    assert_eq!(caller.call(eid::HSM, 0, &[1, entry, 7]).0, Error::AlreadyAvailable as i64 as u64);
}

#[test]
fn system_suspend_is_denied_while_another_hart_runs() {
    let mut caller = Caller::new(2);
    let entry = RAM_BASE.0;
    caller.test.vm.harts()[1].update_state(|_| Some(HartState::Started));
    assert_eq!(caller.call(eid::SUSP, 0, &[0, entry, 9]).0, Error::Denied as i64 as u64);
    caller.test.vm.harts()[1].update_state(|_| Some(HartState::Stopped));
    caller.call(eid::SUSP, 0, &[0, entry, 9]);
    let resume = Some(Entry { address: entry, opaque: 9 });
    assert_eq!(caller.test.vm.harts()[0].state(), HartState::Suspended { resume });
}

#[test]
fn reset_types_map_to_power_requests() {
    for (kind, reason, expected) in [
        (0, 0, Ok(PowerRequest::PowerOff)),
        (0, 1, Ok(PowerRequest::Fail(1))),
        (1, 0, Ok(PowerRequest::Reset)),
        (2, 0, Ok(PowerRequest::Reset)),
        (3, 0, Err(INVALID_PARAMETER)),
        (0, 2, Err(INVALID_PARAMETER)),
    ] {
        let mut caller = Caller::new(1);
        let (error, _) = caller.call(eid::SRST, 0, &[kind, reason]);
        match expected {
            Ok(request) => assert_eq!(caller.test.vm.power_requested(), Some(request)),
            Err(code) => assert_eq!((error, caller.test.vm.power_requested()), (code, None)),
        }
    }
}

#[test]
fn debug_console_moves_bytes_of_ram_only() {
    let mut caller = Caller::new(1);
    caller.test.vm.memory().write(RAM_BASE, b"hello").unwrap();
    assert_eq!(caller.call(eid::DBCN, 0, &[5, RAM_BASE.0, 0]), (0, 5));
    assert_eq!(*caller.test.console.output.lock(), b"hello");
    caller.test.serial.input.lock().extend(b"in");
    assert_eq!(caller.call(eid::DBCN, 1, &[100, RAM_BASE.0 + 8, 0]), (0, 2));
    assert_eq!(
        caller.test.vm.memory().load::<u16>(GuestPhysical(RAM_BASE.0 + 8)),
        Ok(u16::from_le_bytes(*b"in"))
    );
    for (count, low, high) in
        [(5, 0, 0), (5, RAM_BASE.0, 1), (u64::MAX, RAM_BASE.0, 0), (8, RAM_BASE.0 + 0xf_fffc, 0)]
    {
        assert_eq!(caller.call(eid::DBCN, 0, &[count, low, high]).0, INVALID_PARAMETER);
    }
}

#[test]
fn legacy_console_and_masked_calls_work() {
    let mut caller = Caller::new(2);
    caller.call(eid::CONSOLE_PUTCHAR, 0, &[u64::from(b'x')]);
    assert_eq!(*caller.test.console.output.lock(), b"x");
    assert_eq!(caller.call(eid::CONSOLE_GETCHAR, 0, &[]).0, u64::MAX);
    caller.test.vm.memory().store(RAM_BASE, 0b10u64).unwrap();
    assert_eq!(caller.call(eid::SEND_IPI, 0, &[RAM_BASE.0]).0, 0);
    assert!(caller.test.vm.harts()[1].take_software_interrupt());
    assert!(!caller.test.vm.harts()[0].take_software_interrupt());
}

#[test]
fn stolen_time_is_told_where_the_guest_wants_it() {
    const INVALID_ADDRESS: u64 = -5i64 as u64;
    let mut caller = Caller::new(1);
    let place = RAM_BASE.offset(0x40);
    let tell = |caller: &mut Caller, nanoseconds| {
        let Caller { test, harts } = caller;
        harts[0].add_stolen_time(&test.vm, nanoseconds);
    };
    let told = |caller: &Caller| {
        let memory = caller.test.vm.memory();
        (memory.load::<u32>(place).unwrap(), memory.load::<u64>(place.offset(8)).unwrap())
    };
    tell(&mut caller, 5);
    assert_eq!(told(&caller), (0, 0));
    caller.test.vm.memory().store(place, u64::MAX).unwrap();
    assert_eq!(caller.call(eid::STA, 0, &[place.0, 0, 0]).0, 0);
    assert!(told(&caller) == (0, 0) && caller.harts[0].wants_stolen_time());
    tell(&mut caller, 7);
    tell(&mut caller, 8);
    assert_eq!(told(&caller), (4, 15));
    for (arguments, error) in [
        ([place.0 + 8, 0, 0], INVALID_PARAMETER),
        ([place.0, 0, 1], INVALID_PARAMETER),
        ([place.0, 1, 0], INVALID_ADDRESS),
        ([RAM_BASE.0 - 64, 0, 0], INVALID_ADDRESS),
    ] {
        assert_eq!(caller.call(eid::STA, 0, &arguments).0, error, "{arguments:x?}");
    }
    assert_eq!(caller.call(eid::STA, 1, &[]).0, NOT_SUPPORTED);
    assert_eq!(caller.call(eid::STA, 0, &[u64::MAX, u64::MAX, 0]).0, 0);
    tell(&mut caller, 9);
    assert!(told(&caller) == (4, 15) && !caller.harts[0].wants_stolen_time());
}

#[test]
fn input_is_read_in_its_order_whatever_the_uart_has_taken_of_it() {
    const READ: u64 = 1;
    let mut caller = Caller::new(1);
    for (taken, typed) in [(&b"first "[..], &b"then"[..]), (b"", b"more than its FIFO has room for")] {
        caller.test.serial.input.lock().extend(taken);
        caller.test.vm.poll(crate::memory_map::UART.base).unwrap();
        caller.test.serial.input.lock().extend(typed);
        let expected = [taken, typed].concat();
        let length = expected.len() as u64;
        assert_eq!(caller.call(eid::DBCN, READ, &[64, RAM_BASE.0, 0]), (0, length));
        let mut text = alloc::vec![0; expected.len()];
        caller.test.vm.memory().read(RAM_BASE, &mut text).unwrap();
        assert_eq!(text, expected);
    }
    caller.test.serial.input.lock().extend(b"x");
    caller.test.vm.poll(crate::memory_map::UART.base).unwrap();
    assert_eq!(caller.call(eid::CONSOLE_GETCHAR, 0, &[]).0, u64::from(b'x'));
}
