#![no_main]
//! The virtio entropy device.

use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::{Script, run};
use rvisor_virtio::rng::Rng;
use rvisor_virtio::testing::{Buffer, Driver, TestEntropy};

fuzz_target!(|script: Script| {
    let mut driver = Driver::new(Rng::new(Box::new(TestEntropy::default())));
    run(&mut driver, script, |_| {});
    let request = driver.submit(0, &[Buffer::Writable(9)]);
    assert_eq!(driver.used(0), Some((request.id, 9)));
});
