#![no_main]
//! The virtio console device, with three ports.

use libfuzzer_sys::fuzz_target;
use rvisor_fuzz::virtio::{Script, run};
use rvisor_virtio::console::Console;
use rvisor_virtio::testing::{Buffer, Driver, TestConsole};

fuzz_target!(|script: Script| {
    let ports = [TestConsole::new(), TestConsole::new(), TestConsole::new()];
    ports[0].0.lock().size = Some((80, 25));
    let front_end =
        Console::new(ports[0].boxed()).with_port("one", ports[1].boxed()).with_port("two", ports[2].boxed());
    let mut driver = Driver::new(front_end);
    run(&mut driver, script, |event| {
        for port in &ports {
            port.0.lock().output.clear();
        }
        let mut port = ports[usize::from(event >> 6) % 3].0.lock();
        match event % 8 {
            1 => port.open = !port.open,
            2 => port.room = event.into(),
            3 => port.room = usize::MAX,
            4 if port.size.is_some() => port.size = Some((event.into(), 24)),
            5 if port.input.len() < 4096 => port.input.extend([event; 999]),
            6 if port.input.len() < 4096 => port.input.push_back(event),
            _ => {}
        }
    });
    {
        let mut port = ports[0].0.lock();
        port.room = usize::MAX;
        port.output.clear();
        port.input.clear();
        port.input.extend(b"in");
    }
    driver.submit(1, &[Buffer::Readable(b"out")]);
    assert!(driver.used(1).is_some());
    assert_eq!(ports[0].0.lock().output, b"out");
    let buffer = driver.submit(0, &[Buffer::Writable(100)]);
    assert_eq!(driver.used(0), Some((buffer.id, 2)));
});
