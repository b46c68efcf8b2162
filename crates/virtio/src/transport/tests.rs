use alloc::boxed::Box;

use rvisor_waist::{Device, Width};

use super::{CONFIG_OFFSET, interrupt, register, status};
use crate::features;
use crate::front_end::FrontEnd;
use crate::queue::Layout;
use crate::rng::Rng;
use crate::testing::{Buffer, Driver, RAM, RAM_SIZE, TestEntropy};

fn device() -> Driver<Rng> {
    Driver::new(Rng::new(Box::new(TestEntropy::default())))
}

fn started(features: u64) -> Driver<Rng> {
    let mut driver = device();
    driver.start(features);
    driver
}

#[test]
fn identification_registers_hold_the_specified_values() {
    let mut driver = device();
    assert_eq!(driver.register(register::MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(driver.register(register::VERSION), 2);
    assert_eq!(driver.register(register::DEVICE_ID), 4);
    assert_eq!(driver.register(register::SHARED_MEMORY), u32::MAX);
    assert_eq!(driver.register(register::SHARED_MEMORY + 12), u32::MAX);
    assert_eq!(driver.register(0x0f0), 0);
}

#[test]
fn registers_answer_to_aligned_words_only() {
    let mut driver = device();
    for (offset, width) in [
        (register::MAGIC_VALUE, Width::Byte),
        (register::MAGIC_VALUE, Width::Half),
        (register::MAGIC_VALUE, Width::Double),
        (register::MAGIC_VALUE + 1, Width::Word),
    ] {
        assert_eq!(driver.transport.read(offset, width), Ok(0));
    }
    driver.transport.write(register::STATUS, Width::Byte, 1).unwrap();
    assert_eq!(driver.register(register::STATUS), 0);
}

#[test]
fn features_are_read_in_halves() {
    let mut driver = device();
    let mut offered = 0;
    for half in 0..3 {
        driver.set_register(register::DEVICE_FEATURES_SELECT, half);
        offered |= u128::from(driver.register(register::DEVICE_FEATURES)) << (32 * half);
    }
    let expected =
        features::VERSION_1 | features::RING_PACKED | features::EVENT_IDX | features::INDIRECT_DESC;
    assert_eq!(offered, expected.into());
}

#[test]
fn features_not_offered_are_refused() {
    assert!(!device().negotiate(1 << 50));
    assert!(device().negotiate(features::EVENT_IDX));
}

#[test]
fn driver_without_version_1_is_refused() {
    let mut driver = device();
    driver.set_register(register::STATUS, 3);
    driver.set_register(register::STATUS, 11);
    assert_eq!(driver.register(register::STATUS), 3);
    driver.set_register(register::STATUS, 15);
    assert_eq!(driver.register(register::STATUS), 3);
}

#[test]
fn features_are_fixed_once_accepted() {
    let mut driver = started(0);
    driver.set_register(register::DRIVER_FEATURES_SELECT, 0);
    driver.set_register(register::DRIVER_FEATURES, features::EVENT_IDX as u32);
    assert_eq!(driver.transport.driver_features, features::VERSION_1);
}

#[test]
fn queue_before_features_are_agreed_stays_off() {
    let mut driver = device();
    driver.start_queue(0, 8);
    assert_eq!(driver.register(register::QUEUE_READY), 0);
}

#[test]
fn queue_registers_are_fixed_while_ready() {
    let mut driver = started(0);
    let before = driver.transport.queues[0].layout;
    driver.set_register(register::QUEUE_SELECT, 0);
    driver.set_register(register::QUEUE_SIZE, 2);
    driver.set_register(register::QUEUE_DESCRIPTORS + 4, 2);
    assert_eq!(driver.transport.queues[0].layout, before);
}

#[test]
fn queue_that_does_not_exist_reads_zero_and_ignores_writes() {
    let mut driver = started(0);
    for index in [1, 2, u32::MAX] {
        driver.set_register(register::QUEUE_SELECT, index);
        assert_eq!(driver.register(register::QUEUE_SIZE_MAX), 0);
        driver.set_register(register::QUEUE_SIZE, 8);
        driver.set_register(register::QUEUE_READY, 1);
        assert_eq!(driver.register(register::QUEUE_READY), 0);
        driver.set_register(register::QUEUE_NOTIFY, index);
    }
    assert!(!driver.needs_reset());
}

#[test]
fn bad_layouts_need_a_reset() {
    let good = device().layout(0, 8);
    let size = RAM_SIZE as u64;
    let end = RAM.offset(size);
    let bad = [
        Layout { size: 0, ..good },
        Layout { size: 3, ..good },
        Layout { size: 128, ..good },
        Layout { size: u16::MAX, ..good },
        Layout { descriptors: good.descriptors.offset(8), ..good },
        Layout { driver: good.driver.offset(1), ..good },
        Layout { device: good.device.offset(2), ..good },
        Layout { descriptors: rvisor_waist::GuestPhysical(0), ..good },
        Layout { descriptors: RAM.offset(size - 16 * 7), ..good },
        Layout { driver: RAM.offset(size - 20), ..good },
        Layout { device: rvisor_waist::GuestPhysical(u64::MAX - 3), ..good },
        Layout { device: end, ..good },
    ];
    for layout in bad {
        let mut driver = device();
        driver.negotiate(0);
        driver.place_queue(0, &layout);
        assert_eq!(driver.register(register::QUEUE_READY), 0, "{layout:?}");
        assert!(driver.needs_reset(), "{layout:?}");
        driver.set_register(register::STATUS, 15);
        assert_eq!(driver.register(register::INTERRUPT_STATUS), interrupt::CONFIG_CHANGE);
        driver.set_register(register::STATUS, 0);
        driver.start(0);
        driver.submit(0, &[Buffer::Writable(1)]);
        assert!(driver.used(0).is_some());
    }
}

#[test]
fn chains_wait_until_the_driver_is_ready() {
    let mut driver = device();
    driver.negotiate(0);
    driver.start_queue(0, 8);
    driver.submit(0, &[Buffer::Writable(1)]);
    assert_eq!(driver.used(0), None);
    driver.set_register(register::STATUS, 15);
    assert!(driver.used(0).is_some());
}

#[test]
fn interrupt_falls_when_acknowledged() {
    let mut driver = started(0);
    driver.submit(0, &[Buffer::Writable(1)]);
    assert!(driver.line.level());
    assert_eq!(driver.acknowledge(), interrupt::USED_BUFFER);
    assert!(!driver.line.level());
    assert_eq!(driver.register(register::INTERRUPT_STATUS), 0);
}

#[test]
fn broken_queue_stops_the_device_until_reset() {
    let mut driver = started(0);
    let layout = driver.layout(0, 64);
    rvisor_waist::GuestMemory::store(&*driver.memory, layout.driver.offset(2), 65_u16).unwrap();
    driver.notify(0);
    assert!(driver.needs_reset());
    assert_eq!(driver.acknowledge(), interrupt::CONFIG_CHANGE);
    driver.notify(0);
    driver.transport.poll();
    assert_eq!(driver.register(register::INTERRUPT_STATUS), 0);
    driver.set_register(register::STATUS, 0);
    assert_eq!(driver.register(register::STATUS), 0);
    driver.start(0);
    driver.submit(0, &[Buffer::Writable(1)]);
    assert!(driver.used(0).is_some());
}

#[test]
fn status_bits_of_the_device_are_not_the_drivers_to_set() {
    let mut driver = device();
    driver.set_register(register::STATUS, status::DEVICE_NEEDS_RESET | status::DRIVER_OK | 1);
    assert_eq!(driver.register(register::STATUS), 1);
    driver.set_register(register::STATUS, status::FAILED);
    assert_eq!(driver.register(register::STATUS), status::FAILED | 1);
}

#[test]
fn reset_lowers_the_interrupt_and_forgets_the_queues() {
    let mut driver = started(0);
    driver.submit(0, &[Buffer::Writable(1)]);
    driver.transport.reset();
    assert!(!driver.line.level());
    driver.set_register(register::QUEUE_SELECT, 0);
    assert_eq!(driver.register(register::QUEUE_READY), 0);
    assert_eq!(driver.transport.queues[0].layout, Layout::default());
}

#[test]
fn configuration_of_a_device_without_any_reads_zero() {
    let mut driver = device();
    for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
        assert_eq!(driver.transport.read(CONFIG_OFFSET, width), Ok(0));
        assert_eq!(driver.transport.read(u64::MAX, width), Ok(0));
        assert_eq!(driver.transport.write(u64::MAX, width, 1), Ok(()));
    }
    assert_eq!(driver.transport.front_end().features(), 0);
}
