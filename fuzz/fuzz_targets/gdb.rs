#![no_main]
//! What gdb sends: packets of any content, many of them of the kinds that Rvisor answers itself, to a small machine that
//! runs and stops meanwhile.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_hosted::gdb::GdbSession;
use rvisor_hosted::machine::{EngineKind, Machine, MachineConfig};
use rvisor_hosted::runner::OnReset;
use rvisor_machine::boot::Program;

#[derive(Arbitrary, Debug)]
enum Packet {
    /// Bytes as they are, which needn't be a packet.
    Raw(Vec<u8>),
    /// A packet of any content.
    Any(Vec<u8>),
    Monitor(Command),
    Text(Vec<u8>),
    Memory {
        write: bool,
        address: Address,
        length: u16,
    },
    Register {
        write: bool,
        number: u16,
        value: u64,
    },
    Point {
        set: bool,
        kind: u8,
        address: Address,
        length: u8,
    },
    Thread {
        kind: u8,
        number: i8,
    },
    Features {
        annex: Option<String>,
        offset: u16,
        length: u16,
    },
    Go {
        step: bool,
    },
    Interrupt,
}

#[derive(Arbitrary, Debug)]
enum Command {
    Known(u8, Address, u8),
    Other(String),
}

#[derive(Arbitrary, Debug)]
enum Address {
    /// The program's.
    Ram(u16),
    Any(u64),
}

impl Address {
    fn number(&self) -> u64 {
        match self {
            Self::Ram(offset) => RAM + u64::from(*offset),
            Self::Any(address) => *address,
        }
    }
}

const RAM: u64 = 0x8000_0000;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let content = match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Interrupt => return vec![3],
            Self::Any(bytes) => bytes.iter().copied().filter(|byte| !b"$#".contains(byte)).collect(),
            Self::Monitor(command) => {
                let text = match command {
                    Command::Known(0, ..) => "harts".to_owned(),
                    Command::Known(1, address, hart) => format!("translate {:#x} {hart}", address.number()),
                    Command::Known(2, ..) => "physical on".to_owned(),
                    Command::Known(3, ..) => "interrupts on".to_owned(),
                    Command::Known(4, ..) => "reset".to_owned(),
                    Command::Known(5, ..) => "poweroff".to_owned(),
                    Command::Known(_, address, _) => format!("translate {}", address.number()),
                    Command::Other(text) => text.clone(),
                };
                format!("qRcmd,{}", hex(text.as_bytes())).into_bytes()
            }
            Self::Text(bytes) => format!("qRcmd,{}", hex(bytes)).into_bytes(),
            Self::Memory { write: false, address, length } => {
                format!("m{:x},{length:x}", address.number()).into_bytes()
            }
            Self::Memory { write: true, address, length } => {
                let length = length % 64;
                format!("M{:x},{length:x}:{}", address.number(), "5a".repeat(length.into())).into_bytes()
            }
            Self::Register { write: false, number, .. } => format!("p{number:x}").into_bytes(),
            Self::Register { write: true, number, value } => {
                format!("P{number:x}={}", hex(&value.to_le_bytes())).into_bytes()
            }
            Self::Point { set, kind, address, length } => {
                let letter = if *set { 'Z' } else { 'z' };
                format!("{letter}{},{:x},{length:x}", kind % 5, address.number()).into_bytes()
            }
            Self::Thread { kind, number } => {
                let letter =
                    ["Hg", "Hc", "T", "qThreadExtraInfo,", "qfThreadInfo", "vCont;s:"][usize::from(kind % 6)];
                format!("{letter}{number:x}").into_bytes()
            }
            Self::Features { annex, offset, length } => {
                let annex = annex.as_deref().unwrap_or("target.xml");
                format!("qXfer:features:read:{annex}:{offset:x},{length:x}").into_bytes()
            }
            Self::Go { step } => if *step { "vCont;s:1" } else { "vCont;c" }.into(),
        };
        let sum = content.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        [b"$", &content[..], format!("#{sum:02x}").as_bytes()].concat()
    }
}

/// A program for two harts: each counts for ever.
fn program() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0\x01\0\0\0".to_vec();
    [RAM, 64, 0].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [120, RAM, RAM, 8, 8, 4].iter().for_each(|word: &u64| elf.extend(word.to_le_bytes()));
    // addi a0, a0, 1; j -4
    [0x0015_0513_u32, 0xffdf_f06f].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf
}

fuzz_target!(|packets: Vec<Packet>| {
    let config = MachineConfig {
        harts: 2,
        memory: 1 << 20,
        machine_mode: true,
        engine: EngineKind::Interpreter,
        ..MachineConfig::default()
    };
    let machine = Arc::new(Machine::new(config).expect("a machine"));
    let program = program();
    let placed = machine.place(&Program::Bare { elf: &program }).expect("a program");
    thread::scope(|scope| {
        let running = scope.spawn(|| machine.run(&placed, OnReset::Reboot, None));
        let (mut own, mut other) = UnixStream::pair().expect("a socket");
        let session = loop {
            // It may not have begun yet.
            if let Ok(session) = GdbSession::attach(&machine) {
                break session;
            }
            thread::yield_now();
        };
        // An error says that it made no sense.
        let serving = scope.spawn(move || drop(session.serve(&mut other)));
        let mut answers = own.try_clone().expect("a descriptor");
        let reading = scope.spawn(move || {
            let mut buffer = [0; 4096];
            while answers.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        let _ = own.write_all(b"$QStartNoAckMode#b0+");
        for packet in &packets {
            if own.write_all(&packet.bytes()).is_err() {
                break;
            }
        }
        let _ = own.shutdown(Shutdown::Write);
        serving.join().expect("no panic");
        let _ = own.shutdown(Shutdown::Both);
        reading.join().expect("no panic");
        machine.vm().request_power(rvisor_machine::PowerRequest::PowerOff);
        running.join().expect("no panic").expect("the machine ran");
    });
});
