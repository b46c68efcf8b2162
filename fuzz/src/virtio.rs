//! A hostile driver: the fuzzer's bytes become accesses to registers, stores to rings and buffers, and events at
//! the back end. Whatever it did, after a reset the device must work.

use arbitrary::Arbitrary;
use rvisor_virtio::FrontEnd;
use rvisor_virtio::testing::{Buffer, Driver, HEAP, RAM, RAM_SIZE, RING_SPACE};
use rvisor_virtio::transport::register;
use rvisor_waist::{Device, GuestMemory, GuestPhysical, Width};

/// Where something lies, mostly where it matters.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Place {
    /// Near the rings of a queue.
    Ring { queue: u8, offset: u16 },
    /// Among the first buffers.
    Heap { offset: u16 },
    /// Around the end of RAM.
    End { offset: i8 },
    /// Anywhere.
    Anywhere { address: u64 },
}

impl Place {
    /// The address meant.
    #[must_use]
    pub fn address(self) -> GuestPhysical {
        match self {
            Self::Ring { queue, offset } => {
                RAM.offset(RING_SPACE * u64::from(queue % 8) + u64::from(offset) % RING_SPACE)
            }
            Self::Heap { offset } => RAM.offset(HEAP + u64::from(offset)),
            Self::End { offset } => {
                GuestPhysical(RAM.0.wrapping_add_signed(RAM_SIZE as i64 + i64::from(offset)))
            }
            Self::Anywhere { address } => GuestPhysical(address),
        }
    }
}

/// A buffer of a chain that follows the rules.
#[derive(Arbitrary, Debug)]
enum Part {
    Readable(Vec<u8>),
    Writable(u16),
}

/// One thing that the driver or the host does.
#[derive(Arbitrary, Debug)]
enum Step {
    Read {
        offset: u16,
        width: u8,
    },
    Write {
        offset: u16,
        width: u8,
        value: u64,
    },
    Store {
        place: Place,
        bytes: Vec<u8>,
    },
    /// A descriptor of a queue's table or ring.
    Descriptor {
        queue: u8,
        number: u8,
        buffer: Place,
        length: u32,
        flags: u16,
        link: u16,
    },
    /// The head in an entry of a split queue's available ring, and the ring's index.
    Available {
        queue: u8,
        entry: u8,
        head: u8,
        index: u16,
    },
    /// A chain laid as it should be.
    Chain {
        queue: u8,
        parts: Vec<Part>,
    },
    Notify {
        queue: u8,
    },
    Poll,
    Host(u8),
    /// Brings the device up anew.
    Start {
        features: u64,
        indirect: bool,
    },
}

/// What the fuzzer makes up.
#[derive(Arbitrary, Debug)]
pub struct Script {
    features: u64,
    indirect: bool,
    steps: Vec<Step>,
}

fn offered<F: FrontEnd>(driver: &mut Driver<F>) -> u64 {
    (0..2).fold(0, |features, half| {
        driver.set_register(register::DEVICE_FEATURES_SELECT, half);
        features | u64::from(driver.register(register::DEVICE_FEATURES)) << (32 * half)
    })
}

fn restart<F: FrontEnd>(driver: &mut Driver<F>, features: u64, indirect: bool) {
    driver.transport.reset();
    let features = features & offered(driver);
    driver.indirect = indirect && features & rvisor_virtio::features::INDIRECT_DESC != 0;
    driver.start(features);
}

fn width(selector: u8) -> Width {
    [Width::Byte, Width::Half, Width::Word, Width::Double][usize::from(selector % 4)]
}

/// Mostly registers and the configuration space, now and then anything in the device's page.
fn register_offset(selector: u16) -> u64 {
    if selector >> 12 == 0xf { u64::from(selector % 0x1000) } else { u64::from(selector % 0x60) * 4 }
}

fn take<F: FrontEnd>(driver: &mut Driver<F>, step: Step, host: &mut impl FnMut(u8)) {
    match step {
        Step::Read { offset, width: selector } => {
            driver.transport.read(register_offset(offset), width(selector)).expect("reads never fault");
        }
        Step::Write { offset, width: selector, value } => {
            let width = width(selector);
            let value = width.truncate(value);
            driver.transport.write(register_offset(offset), width, value).expect("writes never fault");
        }
        Step::Store { place, bytes } => {
            // Outside RAM there is nothing to store to.
            let _ = driver.memory.write(place.address(), &bytes);
        }
        Step::Descriptor { queue, number, buffer, length, flags, link } => {
            let at = driver.layout((queue % 8).into(), 0).descriptors.offset(16 * u64::from(number));
            let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(link) << 48;
            driver.memory.store(at, buffer.address().0).expect("ring in RAM");
            driver.memory.store(at.offset(8), rest).expect("ring in RAM");
        }
        Step::Available { queue, entry, head, index } => {
            let ring = driver.layout((queue % 8).into(), 0).driver;
            driver.memory.store(ring.offset(4 + 2 * u64::from(entry)), u16::from(head)).expect("ring in RAM");
            driver.memory.store(ring.offset(2), index).expect("ring in RAM");
        }
        Step::Chain { queue, parts } if !parts.is_empty() => {
            let buffers: Vec<_> = parts
                .iter()
                .map(|part| match part {
                    Part::Readable(bytes) => Buffer::Readable(bytes),
                    Part::Writable(length) => Buffer::Writable((*length).into()),
                })
                .collect();
            let queue = usize::from(queue % 8);
            while driver.used(queue).is_some() {}
            // A full queue takes no more.
            let _ = driver.try_add(queue, &buffers);
            driver.notify(queue);
        }
        Step::Chain { queue, .. } | Step::Notify { queue } => driver.notify((queue % 8).into()),
        Step::Poll => driver.transport.poll(),
        Step::Host(event) => host(event),
        Step::Start { features, indirect } => restart(driver, features, indirect),
    }
}

/// Runs a script against a device. `host` makes something happen at the back end; it is called after each step
/// too, with 0, to throw away what the guest put out.
pub fn run<F: FrontEnd>(driver: &mut Driver<F>, script: Script, mut host: impl FnMut(u8)) {
    restart(driver, script.features, script.indirect);
    for step in script.steps {
        take(driver, step, &mut host);
        host(0);
        let status = driver.register(register::INTERRUPT_STATUS);
        assert_eq!(driver.line.level(), status != 0, "the wire follows the interrupt status");
    }
    restart(driver, 0, false);
    assert!(!driver.needs_reset(), "a reset mends everything");
}
