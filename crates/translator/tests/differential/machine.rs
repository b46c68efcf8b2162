//! Two machines that are the same: one for the translator, one for single steps of the interpreter.

use std::fmt::Write;
use std::sync::Arc;

use rvisor_hart::{Hart, TranslationMode};
use rvisor_hosted::HostMemory;
use rvisor_machine::{Backends, Extensions, VirtualHart, Vm, VmConfig};
use rvisor_waist::{Clock, ConsoleBackend, GuestMemory, GuestPhysical};

use crate::memory::{RAM, view};

/// Time stands still.
struct Still;

impl Clock for Still {
    fn ticks(&self) -> u64 {
        1000
    }

    fn wall_nanoseconds(&self) -> u64 {
        0
    }
}

struct Nobody;

impl ConsoleBackend for Nobody {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// A VM with one hart.
pub struct Machine {
    pub vm: Vm<HostMemory>,
    pub hart: VirtualHart,
}

impl Machine {
    pub fn new(ram: u64, machine_mode: bool, hypervisor: bool) -> Self {
        let config = VmConfig {
            harts: 1,
            machine_mode,
            translation: TranslationMode::Sv57,
            hypervisor,
            extensions: Extensions::ALL,
        };
        let backends =
            Backends { serial: Box::new(Nobody), sbi_console: Box::new(Nobody), virtio: Vec::new() };
        let memory = HostMemory::new(GuestPhysical(RAM), ram).expect("the host has memory");
        let vm = Vm::new(config, Arc::new(memory), Arc::new(Still), backends);
        vm.harts()[0].clear_attention();
        let hart = VirtualHart::new(0, &vm);
        Self { vm, hart }
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.vm.memory().write(GuestPhysical(address), bytes).expect("the world writes to RAM");
    }

    pub fn read(&self, address: u64) -> u64 {
        self.vm.memory().load(GuestPhysical(address)).expect("the world reads from RAM")
    }

    /// All of RAM.
    pub fn ram(&self) -> &[u8] {
        let memory = self.vm.memory();
        view(memory, RAM..memory.range().end.0)
    }
}

/// Whether all of the state that software can tell is the same.
pub fn is_same(a: &Hart, b: &Hart) -> bool {
    a.retired == b.retired
        && a.pc == b.pc
        && a.privilege == b.privilege
        && a.virtualized == b.virtualized
        && a.x == b.x
        && a.f == b.f
        && a.reservation == b.reservation
        && a.csr == b.csr
}

/// Copies all of the state, and forgets all translations.
pub fn copy(from: &Hart, to: &mut Hart) {
    to.x = from.x;
    to.f = from.f;
    to.pc = from.pc;
    to.privilege = from.privilege;
    to.virtualized = from.virtualized;
    to.csr = from.csr.clone();
    to.retired = from.retired;
    to.reservation = from.reservation;
    to.fence_vma(None, None);
}

/// What is different.
pub fn differences(reference: &Hart, translator: &Hart) -> String {
    let mut text = String::new();
    let mut add = |name: String, a: String, b: String| {
        if a != b {
            let _ = writeln!(text, "  {name}: interpreter {a}, translator {b}");
        }
    };
    let hex = |value: u64| format!("{value:#x}");
    let (a, b) = (reference, translator);
    add("retired".into(), a.retired.to_string(), b.retired.to_string());
    add("pc".into(), hex(a.pc), hex(b.pc));
    add("privilege".into(), format!("{:?}", a.privilege), format!("{:?}", b.privilege));
    add("virtualized".into(), a.virtualized.to_string(), b.virtualized.to_string());
    add("reservation".into(), format!("{:x?}", a.reservation), format!("{:x?}", b.reservation));
    for i in 0..32 {
        add(format!("x{i}"), hex(a.x[i]), hex(b.x[i]));
        add(format!("f{i}"), hex(a.f[i]), hex(b.f[i]));
    }
    let csrs = |hart: &Hart| -> Vec<String> {
        format!("{:#x?}", hart.csr).lines().map(|line| line.trim().to_string()).collect()
    };
    for (a, b) in csrs(a).into_iter().zip(csrs(b)) {
        add("csr".into(), a, b);
    }
    text
}

/// The first places of RAM that are different.
pub fn memory_differences(reference: &Machine, translator: &Machine) -> String {
    let mut text = String::new();
    let pairs = reference.ram().chunks(8).zip(translator.ram().chunks(8)).enumerate();
    for (at, (a, b)) in pairs.filter(|(_, (a, b))| a != b).take(8) {
        let _ = writeln!(
            text,
            "  memory at {:#x}: interpreter {a:02x?}, translator {b:02x?}",
            RAM + 8 * at as u64
        );
    }
    text
}
