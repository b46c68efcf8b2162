//! Runs the image store's builder VM on Rvisor itself.

use std::fs;
use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rvisor_hosted::Stream;
use rvisor_hosted::disk::{DiskOptions, Format};
use rvisor_hosted::machine::{EngineKind, Machine, MachineConfig};
use rvisor_hosted::runner::{Ending, OnReset, end_on_signals};
use rvisor_images::{BuildVm, Builder};
use rvisor_machine::boot::Program;

/// How long the last lines of a builder may take to be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// The builder VM on this host.
pub struct LocalBuilder;

impl Builder for LocalBuilder {
    fn boot(&self, vm: BuildVm<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (kernel, initrd) = (fs::read(&vm.kernel)?, fs::read(&vm.initrd)?);
        let program = Program::Linux { kernel: &kernel, initrd: Some(&initrd), command_line: &vm.append };
        let serial = Stream::new();
        let disks = vm.disks.into_iter().map(|disk| DiskOptions {
            read_only: disk.read_only,
            format: Some(Format::Raw),
            ..DiskOptions::new(disk.path)
        });
        let machine = Machine::new(MachineConfig {
            harts: 1,
            memory: vm.memory,
            disks: disks.collect(),
            serial: serial.clone(),
            engine: EngineKind::default(),
            ..MachineConfig::default()
        })?;
        let placed = machine.place(&program)?;
        let signals = end_on_signals(machine.vm())?;
        let (sender, messages) = channel();
        serial.write_to(Lines { line: Vec::new(), sender: sender.clone() })?;
        let ending = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let ending = machine.run(&placed, OnReset::Stop, None);
                serial.drain(PATIENCE);
                // The receiver outlives this thread.
                let _ = sender.send(Message::End);
                ending
            });
            while let Ok(Message::Line(line)) = messages.recv() {
                (vm.on_console_line)(&line);
            }
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        match (signals.get(), ending) {
            (Some(_), _) => Err("interrupted".into()),
            (None, Ending::PowerOff) => Ok(()),
            (None, ending) => Err(format!("the builder ended with {ending:?}").into()),
        }
    }
}

enum Message {
    Line(String),
    End,
}

/// Cuts console output into lines.
struct Lines {
    line: Vec<u8>,
    sender: Sender<Message>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// A longer line is cut: no guest fills the host's memory with one.
        const LIMIT: usize = 4096;
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim_end_matches('\r').to_owned();
                self.line.clear();
                self.sender.send(Message::Line(line)).map_err(io::Error::other)?;
            } else if self.line.len() < LIMIT {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
