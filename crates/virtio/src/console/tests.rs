use alloc::vec;
use alloc::vec::Vec;

use rvisor_waist::{Device, Width};

use super::control::{CONSOLE_PORT, DEVICE_READY, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY, RESIZE};
use super::*;
use crate::testing::{Buffer, Driver, Submission, TestConsole};
use crate::transport::{CONFIG_OFFSET, interrupt};

use Buffer::{Readable, Writable};

const AGENT: usize = 1;

/// A driver of a console with a port "agent"; the buffers for control messages lie ready.
struct Guest {
    driver: Driver<Console>,
    console: TestConsole,
    agent: TestConsole,
    control: Vec<Submission>,
}

impl Guest {
    fn new(features: u64) -> Self {
        let (console, agent) = (TestConsole::new(), TestConsole::new());
        console.0.lock().size = Some((80, 25));
        let front_end = Console::new(console.boxed()).with_port("agent", agent.boxed());
        let driver = Driver::started(front_end, features);
        let mut guest = Self { driver, console, agent, control: vec![] };
        if features & F_MULTIPORT != 0 {
            guest.supply_control_buffers();
        }
        guest
    }

    /// A driver that has set all ports up and opened them.
    fn open() -> Self {
        let mut guest = Self::new(F_MULTIPORT | F_SIZE);
        guest.send(0, DEVICE_READY, 1);
        for port in [0, AGENT] {
            guest.send(port, PORT_READY, 1);
            guest.send(port, PORT_OPEN, 1);
        }
        guest.messages();
        guest
    }

    fn supply_control_buffers(&mut self) {
        while self.control.len() < 16 {
            self.control.push(self.driver.submit(CONTROL_RECEIVE, &[Writable(32)]));
        }
    }

    fn send(&mut self, port: usize, event: u16, value: u16) {
        let mut message = Vec::from((port as u32).to_le_bytes());
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.driver.submit(CONTROL_TRANSMIT, &[Readable(&message)]);
        assert!(self.driver.used(CONTROL_TRANSMIT).is_some());
    }

    /// The device's messages: port, event, value, payload.
    fn messages(&mut self) -> Vec<(u32, u16, u16, Vec<u8>)> {
        let mut messages = vec![];
        while let Some((id, written)) = self.driver.used(CONTROL_RECEIVE) {
            let at = self.control.iter().position(|buffer| buffer.id == id).unwrap();
            let buffer = self.control.remove(at);
            let bytes = &self.driver.bytes(&buffer, 0)[..written as usize];
            messages.push((
                u32::from_le_bytes(bytes[..4].try_into().unwrap()),
                u16::from_le_bytes([bytes[4], bytes[5]]),
                u16::from_le_bytes([bytes[6], bytes[7]]),
                bytes[8..].to_vec(),
            ));
        }
        self.supply_control_buffers();
        messages
    }
}

#[test]
fn driver_without_multiport_uses_port_0() {
    let mut guest = Guest::new(0);
    assert!(guest.console.0.lock().guest_open);
    guest.driver.submit(1, &[Readable(b"hel"), Readable(b"lo")]);
    assert_eq!(guest.console.0.lock().output, b"hello");
    assert!(guest.driver.used(1).is_some());
}

#[test]
fn input_waits_for_a_buffer_and_a_buffer_for_input() {
    let mut guest = Guest::new(0);
    guest.console.0.lock().input.extend(b"abcdef");
    guest.driver.transport.poll();
    let first = guest.driver.submit(0, &[Writable(4)]);
    assert_eq!(guest.driver.used(0), Some((first.id, 4)));
    assert_eq!(guest.driver.bytes(&first, 0), b"abcd");
    let second = guest.driver.submit(0, &[Writable(4)]);
    assert_eq!(guest.driver.used(0), Some((second.id, 2)));
    let third = guest.driver.submit(0, &[Writable(4)]);
    assert_eq!(guest.driver.used(0), None);
    guest.console.0.lock().input.extend(b"g");
    guest.driver.transport.poll();
    assert_eq!(guest.driver.used(0), Some((third.id, 1)));
}

#[test]
fn output_waits_for_room() {
    let mut guest = Guest::new(0);
    guest.console.0.lock().room = 1500;
    let sent = guest.driver.submit(1, &[Readable(&[5; 2000])]);
    assert_eq!(guest.driver.used(1), None);
    guest.console.0.lock().room = 1500;
    guest.driver.transport.poll();
    assert_eq!(guest.driver.used(1), Some((sent.id, 0)));
    assert_eq!(guest.console.0.lock().output, [5; 2000]);
}

#[test]
fn ports_introduce_themselves() {
    let mut guest = Guest::new(F_MULTIPORT | F_SIZE);
    assert_eq!(guest.driver.config(4, Width::Word), 2);
    guest.send(0, DEVICE_READY, 1);
    assert_eq!(guest.messages(), [(0, PORT_ADD, 1, vec![]), (1, PORT_ADD, 1, vec![])]);
    guest.send(0, PORT_READY, 1);
    assert_eq!(
        guest.messages(),
        [(0, CONSOLE_PORT, 1, vec![]), (0, RESIZE, 1, vec![80, 0, 25, 0]), (0, PORT_OPEN, 1, vec![]),]
    );
    guest.send(AGENT, PORT_READY, 1);
    assert_eq!(guest.messages(), [(1, PORT_NAME, 1, b"agent".to_vec()), (1, PORT_OPEN, 1, vec![])]);
}

#[test]
fn ports_have_their_own_queues() {
    let mut guest = Guest::open();
    guest.driver.submit(receive_queue(AGENT) + 1, &[Readable(b"out")]);
    assert_eq!(guest.agent.0.lock().output, b"out");
    assert!(guest.console.0.lock().output.is_empty());
    guest.agent.0.lock().input.extend(b"in");
    let buffer = guest.driver.submit(receive_queue(AGENT), &[Writable(9)]);
    assert_eq!(guest.driver.used(receive_queue(AGENT)), Some((buffer.id, 2)));
}

#[test]
fn input_waits_until_the_guest_opens_the_port() {
    let mut guest = Guest::new(F_MULTIPORT);
    guest.send(AGENT, PORT_READY, 1);
    guest.agent.0.lock().input.extend(b"early");
    let buffer = guest.driver.submit(receive_queue(AGENT), &[Writable(9)]);
    guest.driver.transport.poll();
    assert_eq!(guest.driver.used(receive_queue(AGENT)), None);
    guest.send(AGENT, PORT_OPEN, 1);
    assert!(guest.agent.0.lock().guest_open);
    assert_eq!(guest.driver.used(receive_queue(AGENT)), Some((buffer.id, 5)));
    guest.send(AGENT, PORT_OPEN, 0);
    assert!(!guest.agent.0.lock().guest_open);
}

#[test]
fn host_close_is_told_once_the_input_is_drained() {
    let mut guest = Guest::open();
    {
        let mut agent = guest.agent.0.lock();
        agent.input.extend(b"last");
        agent.open = false;
    }
    guest.driver.transport.poll();
    assert_eq!(guest.messages(), []);
    guest.driver.submit(receive_queue(AGENT), &[Writable(4)]);
    assert_eq!(guest.messages(), []);
    guest.driver.submit(receive_queue(AGENT), &[Writable(4)]);
    assert_eq!(guest.messages(), [(1, PORT_OPEN, 0, vec![])]);
    guest.agent.0.lock().open = true;
    guest.driver.transport.poll();
    assert_eq!(guest.messages(), [(1, PORT_OPEN, 1, vec![])]);
}

#[test]
fn new_size_is_told() {
    let mut guest = Guest::open();
    guest.driver.acknowledge();
    let generation = guest.driver.register(crate::transport::register::CONFIG_GENERATION);
    guest.console.0.lock().size = Some((132, 50));
    guest.driver.transport.poll();
    assert_eq!(guest.messages(), [(0, RESIZE, 1, vec![132, 0, 50, 0])]);
    assert_eq!(guest.driver.config(0, Width::Word), 132 | 50 << 16);
    assert_ne!(guest.driver.register(crate::transport::register::CONFIG_GENERATION), generation);
    assert_eq!(guest.driver.acknowledge() & interrupt::CONFIG_CHANGE, interrupt::CONFIG_CHANGE);
}

#[test]
fn emergency_write_needs_no_driver() {
    let console = TestConsole::new();
    let mut driver = Driver::new(Console::new(console.boxed()));
    driver.transport.write(CONFIG_OFFSET + 8, Width::Word, 0x141).unwrap();
    driver.transport.write(CONFIG_OFFSET + 9, Width::Byte, 0x42).unwrap();
    assert_eq!(console.0.lock().output, b"A");
}

#[test]
fn reset_closes_the_guests_end() {
    let mut guest = Guest::open();
    guest.driver.transport.reset();
    assert!(!guest.agent.0.lock().guest_open);
    assert!(!guest.console.0.lock().guest_open);
}

#[test]
fn flood_of_control_messages_is_left_in_the_queue() {
    let mut driver = Driver::started(Console::new(TestConsole::new().boxed()), F_MULTIPORT);
    let mut message = [0; 8];
    message[6] = 1;
    for _ in 0..100 {
        while driver.try_add(CONTROL_TRANSMIT, &[Readable(&message)]).is_some() {}
        driver.notify(CONTROL_TRANSMIT);
        while driver.used(CONTROL_TRANSMIT).is_some() {}
    }
    assert!(driver.transport.front_end().control.is_congested());
    // Buffers for the replies set the exchange going again.
    for _ in 0..64 {
        driver.submit(CONTROL_RECEIVE, &[Writable(8)]);
    }
    assert!(driver.used(CONTROL_TRANSMIT).is_some());
    assert!(!driver.needs_reset());
}

#[test]
fn message_for_a_port_that_does_not_exist_is_ignored() {
    let mut guest = Guest::open();
    for port in [2, usize::MAX] {
        guest.send(port, PORT_READY, 1);
        guest.send(port, PORT_OPEN, 1);
    }
    guest.driver.submit(CONTROL_TRANSMIT, &[Readable(b"short")]);
    assert_eq!(guest.messages(), []);
    assert!(!guest.driver.needs_reset());
}

#[test]
fn endless_output_comes_back_to_the_hart() {
    let mut guest = Guest::new(0);
    let chunk = vec![1; 1 << 16];
    let parts = [Readable(&chunk[..]); 20];
    guest.driver.submit(1, &parts);
    assert_eq!(guest.console.0.lock().output.len(), 1 << 20);
    // The interrupt makes the driver look at a register, which goes on with the work.
    assert_eq!(guest.driver.acknowledge(), interrupt::USED_BUFFER);
    assert_eq!(guest.console.0.lock().output.len(), 20 << 16);
    assert!(guest.driver.used(1).is_some());
}

#[test]
fn acknowledging_does_not_hide_what_is_used_meanwhile() {
    let mut guest = Guest::new(0);
    let chunk = vec![1; 1 << 16];
    guest.driver.submit(1, &[Readable(&chunk[..]); 20]);
    guest.driver.set_register(crate::transport::register::INTERRUPT_ACK, interrupt::USED_BUFFER);
    assert!(guest.driver.used(1).is_some());
    assert!(guest.driver.line.level());
}

#[test]
fn what_is_printed_where_nobody_looks_is_taken_all_the_same() {
    let mut driver = Driver::started(Console::unwatched(), 0);
    for _ in 0..4 {
        driver.submit(1, &[Readable(&[b'x'; 1 << 16])]);
        assert!(driver.used(1).is_some());
    }
}
