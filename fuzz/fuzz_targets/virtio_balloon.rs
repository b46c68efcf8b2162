#![no_main]
//! The virtio balloon.

use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::{Script, run};
use rvisor_virtio::balloon::Balloon;
use rvisor_virtio::testing::{Buffer, Driver};

fuzz_target!(|script: Script| {
    let mut driver = Driver::new(Balloon::new());
    run(&mut driver, script, |_| {});
    let report = driver.submit(2, &[Buffer::Writable(9)]);
    assert_eq!(driver.used(2), Some((report.id, 0)));
});
