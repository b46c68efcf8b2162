use rvisor_hart::{Access, Trap};
use rvisor_isa::Interrupt;
use rvisor_waist::GuestVirtual;
use serde_json::Value;

use super::*;

fn trap(cause: Trap, from: Privilege, number: u64) -> HartEvent {
    let arguments = [1, 2, 3, 0, 0, 0, 0, number];
    HartEvent::Trap {
        trap: cause,
        pc: 0x100,
        from,
        to: Privilege::Supervisor,
        handler: 0x200,
        satp: 0,
        arguments,
    }
}

fn back(to: Privilege) -> HartEvent {
    HartEvent::Return { from: Privilege::Supervisor, to, pc: 0x104, satp: 0, values: [7, 0] }
}

fn written(events: &[HartEvent]) -> Vec<Value> {
    let mut writer = JsonWriter::new(Vec::new(), "a\"b", 1).unwrap();
    let records = (0..).zip(events).map(|(time, &event)| Record { time: 1500 * time, event }).collect();
    writer.write(&Batch { hart: 0, records }).unwrap();
    let text = writer.finish(0).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    all.into_iter().filter(|event| event["ph"] != "M").collect()
}

fn phases(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["ph"].as_str()).collect()
}

#[test]
fn system_call_with_an_interrupt_inside_becomes_two_slices() {
    let call = Trap::exception(Exception::EnvironmentCallFromUser, 0);
    let timer = Trap::interrupt(Interrupt::SupervisorTimer);
    let events = written(&[
        trap(call, Privilege::User, 64),
        trap(timer, Privilege::Supervisor, 0),
        back(Privilege::Supervisor),
        back(Privilege::User),
    ]);
    assert_eq!(phases(&events), "BBEE");
    assert_eq!((&events[0]["name"], &events[0]["cat"]), (&"write".into(), &"syscalls".into()));
    assert_eq!(events[0]["args"]["arguments"], "0x1, 0x2, 0x3, 0x0, 0x0, 0x0");
    assert_eq!((&events[1]["name"], &events[1]["ts"]), (&"interrupt: timer".into(), &1.5.into()));
    assert_eq!(events[3]["args"]["a0"], "0x7");
}

#[test]
fn slices_are_closed_whatever_is_missing() {
    let call = Trap::exception(Exception::EnvironmentCallFromUser, 0);
    let timer = Trap::interrupt(Interrupt::SupervisorTimer);
    // A return without its trap; one past a handler that is left for good; an end in the middle.
    let events = written(&[
        back(Privilege::User),
        back(Privilege::Supervisor),
        trap(call, Privilege::User, 1),
        trap(timer, Privilege::Supervisor, 0),
        back(Privilege::User),
        trap(call, Privilege::User, 9999),
        HartEvent::Wait,
    ]);
    assert_eq!(phases(&events), "BBEEBXE");
    assert_eq!(events[4]["name"], "system call 9999");
    let deep = vec![trap(timer, Privilege::Supervisor, 0); 2 * DEEPEST];
    assert_eq!(phases(&written(&deep)), "B".repeat(DEEPEST) + &"E".repeat(DEEPEST));
}

#[test]
fn devices_calls_fills_and_waits_are_told() {
    use rvisor_waist::{GuestPhysical, Width};
    let access = rvisor_hart::DeviceAccess {
        address: GuestPhysical(0x1000_0000),
        virtual_address: GuestVirtual(0),
        width: Width::Byte,
        kind: AccessKind::Store { value: 65 },
        instruction_length: 4,
        is_guest: false,
    };
    let fill = HartEvent::Fill {
        access: Access::Load,
        from: Privilege::User,
        pc: 0x10,
        address: GuestVirtual(0x1234),
        physical: GuestPhysical(0x8000_0234),
        page_size: 4096,
        satp: 1,
    };
    let events = written(&[
        HartEvent::Device { access, pc: 4 },
        HartEvent::DeviceDone { value: Some(0) },
        HartEvent::SbiCall { pc: 8, arguments: [0, 0, 0, 0, 0, 0, 0, 0x5449_4d45] },
        HartEvent::SbiReturn { values: [u64::MAX, 0] },
        fill,
        HartEvent::Wait,
        HartEvent::Woke,
    ]);
    assert_eq!(phases(&events), "XBEiX");
    assert_eq!((&events[0]["dur"], &events[0]["args"]["store"]), (&1.5.into(), &"0x41".into()));
    assert_eq!((&events[1]["name"], &events[2]["args"]["error"]), (&"SBI TIME 0".into(), &(-1).into()));
    assert_eq!(
        (&events[3]["name"], &events[3]["args"]["address"]),
        (&"TLB fill: load".into(), &"0x1234".into())
    );
    assert_eq!(events[4]["name"], "wait");
}
