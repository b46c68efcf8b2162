#![no_main]
//! The platform devices: UART, PLIC, ACLINT, real-time clock and finisher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use libfuzzer_sys::fuzz_target;
use rvisor_devices::{aclint, finisher, plic, rtc, uart};
use rvisor_waist::{Clock, ConsoleBackend, Device, InterruptLine, Width};

struct Wire;

impl InterruptLine for Wire {
    fn set(&self, _level: bool) {}
}

#[derive(Default)]
struct Time(AtomicU64);

impl Clock for Time {
    fn ticks(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }

    fn wall_nanoseconds(&self) -> u64 {
        self.0.fetch_add(1 << 30, Relaxed)
    }
}

/// Takes and gives at its whim.
struct Terminal(u8);

impl ConsoleBackend for Terminal {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0 = self.0.wrapping_mul(5).wrapping_add(1);
        bytes.len().min(usize::from(self.0 >> 4))
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        self.0 = self.0.wrapping_mul(5).wrapping_add(1);
        buffer.len().min(usize::from(self.0 >> 4))
    }
}

/// Device, offset, logarithm of the width, value; a load without value.
type Access = (u8, u32, u8, Option<u64>);

fuzz_target!(|accesses: Vec<Access>| {
    let (clock, wire): (Arc<Time>, Arc<dyn InterruptLine>) = (Arc::default(), Arc::new(Wire));
    let comparator = aclint::Comparator { deadline: Arc::default(), changed: wire.clone() };
    let plic = plic::Plic::new(vec![wire.clone(); 4]);
    let source = plic.source(10).expect("a source");
    let mut devices: [(Box<dyn Device>, u64); 7] = [
        (Box::new(uart::Uart::new(Box::new(Terminal(0)), source)), uart::SIZE),
        (Box::new(plic), plic::SIZE),
        (Box::new(aclint::Mswi::new(vec![wire.clone(); 2])), aclint::MSWI_SIZE),
        (Box::new(aclint::Sswi::new(vec![wire.clone(); 2])), aclint::SSWI_SIZE),
        (Box::new(aclint::Mtimer::new(clock.clone(), vec![comparator; 2])), aclint::MTIMER_SIZE),
        (Box::new(rtc::Rtc::new(clock, wire)), rtc::SIZE),
        (Box::new(finisher::Finisher::new(Box::new(|_| {}))), finisher::SIZE),
    ];
    for (device, offset, width, value) in accesses {
        let (device, size) = &mut devices[usize::from(device) % 7];
        let offset = u64::from(offset) % *size;
        let width = [Width::Byte, Width::Half, Width::Word, Width::Double][usize::from(width) % 4];
        match value {
            Some(value) => drop(device.write(offset, width, width.truncate(value))),
            None => {
                if let Ok(value) = device.read(offset, width) {
                    assert_eq!(value, width.truncate(value));
                }
            }
        }
        device.poll();
    }
});
