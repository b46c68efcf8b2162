#![no_main]
//! The virtio network device.

use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::{Script, run};
use rvisor_virtio::net::{Net, RECEIVE, TRANSMIT};
use rvisor_virtio::testing::{Buffer, Driver, TestNet};

fuzz_target!(|script: Script| {
    let network = TestNet::default();
    let mut driver = Driver::new(Net::new([2, 0, 0, 0, 0, 1], Box::new(network.clone())));
    run(&mut driver, script, |event| {
        let mut state = network.0.lock();
        state.sent.clear();
        state.is_local = event & 1 != 0;
        if event != 0 && state.incoming.len() < 16 {
            state.incoming.push_back(vec![event; 37 * usize::from(event)]);
        }
    });
    network.0.lock().sent.clear();
    network.0.lock().incoming.clear();
    driver.submit(TRANSMIT, &[Buffer::Readable(&[0; 12]), Buffer::Readable(b"out")]);
    assert!(driver.used(TRANSMIT).is_some());
    assert_eq!(network.0.lock().sent, [b"out"]);
    network.0.lock().incoming.push_back(b"in".to_vec());
    let buffer = driver.submit(RECEIVE, &[Buffer::Writable(100)]);
    assert_eq!(driver.used(RECEIVE), Some((buffer.id, 14)));
});
