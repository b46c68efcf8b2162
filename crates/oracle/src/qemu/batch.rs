//! Runs a batch on both sides and compares the memories.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rvisor_hart::{AccessKind, Config, Exit, Hart};
use rvisor_isa::{csr, decode, disassemble};
use rvisor_waist::{GuestMemory, GuestPhysical, OutOfRange};

use super::case::{Case, tables};
use super::excuse::{Side, allowed, excused};
use super::guest::{AFTER, BEFORE, second_tables};
use super::harness::{FINISHER, LANDED, TIMER, entry, program};
use super::layout::*;
use crate::random::Random;
use crate::report::Report;
use crate::world::{RAM, World};

/// Cases in a batch: what fits into memory.
const CASES_PER_BATCH: u64 = 30_000;
/// Findings that are written out in full.
const FINDINGS: usize = 20;
/// The machine whose hart has what Rvisor's has, without the hypervisor extension and with it.
const CPU: &str = "rv64,zba=on,zbb=on,zbc=on,zbs=on,zfh=on,zfa=on,zcb=on,zacas=on,zicond=on,zawrs=on,zicbom=on,\
    zicboz=on,svinval=on,svnapot=on,svpbmt=on,svadu=on,sstc=on";
const WITHOUT_HYPERVISOR: &str = ",h=off";
const WITH_HYPERVISOR: &str = ",h=on,smstateen=on,b=on";

/// What the cases leave out, and why.
const NOT_DRAWN: &[(&str, &str)] = &[
    ("wfi wrs.nto wrs.sto", "how long they wait is free"),
    ("mret sret", "they would lead into other cases; the Sail model has them"),
    ("csr*", "only those of floating point are harmless to the other cases; the Sail model has all"),
    ("menvcfg.CBIE and senvcfg.CBIE of 2", "reserved; QEMU keeps it, Rvisor makes it 0"),
    ("PMP entries of 4 bytes", "QEMU overlooks one inside a misaligned access; the Sail model has them"),
    ("PMP entries over page tables", "QEMU doesn't ask them before it sets A or D"),
    ("page-table entries with PBMT of 3", "reserved; QEMU takes it, Rvisor faults"),
];

/// Cases and the memory that holds them.
pub struct Batch {
    hypervisor: bool,
    cases: Vec<Case>,
    memory: Vec<u8>,
}

impl Batch {
    /// Draws a batch of cases, for harts with the hypervisor extension or without.
    #[must_use]
    pub fn random(random: &mut Random, hypervisor: bool) -> Self {
        let cases: Vec<Case> = (0..CASES_PER_BATCH).map(|_| Case::random(random, hypervisor)).collect();
        let mut batch = Self { hypervisor, cases, memory: vec![0; RAM_SIZE as usize] };
        batch.put_words(RAM, &entry());
        batch.put_words(HARNESS, &program(CASES_PER_BATCH, hypervisor));
        for address in (LANDING..LANDING + LANDING_SIZE).step_by(2) {
            batch.put(address, &LANDED.to_le_bytes());
        }
        for (page, table) in tables().iter().enumerate() {
            batch.put_doubles(TABLES + 0x1000 * page as u64, table);
        }
        for (page, table) in second_tables().iter().enumerate() {
            batch.put_doubles(SECOND_TABLES + 0x1000 * page as u64, table);
        }
        for (start, size) in [(DATA, DATA_SIZE), (SUPER_DATA, 1 << 21)] {
            for address in (start..start + size).step_by(8) {
                batch.put(address, &random.value().to_le_bytes());
            }
        }
        for index in 0..batch.cases.len() {
            batch.put_case(index);
        }
        batch
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let start = (address - RAM) as usize;
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn put_words(&mut self, address: u64, words: &[u32]) {
        for (address, word) in (address..).step_by(4).zip(words) {
            self.put(address, &word.to_le_bytes());
        }
    }

    fn put_doubles(&mut self, address: u64, doubles: &[u64]) {
        for (address, double) in (address..).step_by(8).zip(doubles) {
            self.put(address, &double.to_le_bytes());
        }
    }

    fn put_case(&mut self, index: usize) {
        let case = self.cases[index].clone();
        let address = CASES + index as u64 * field::SIZE;
        let mut code: Vec<u8> = Vec::new();
        for bits in &case.instructions {
            code.extend(&bits.to_le_bytes()[..if bits & 3 == 3 { 4 } else { 2 }]);
        }
        while code.len() < 8 {
            code.extend(LANDED.to_le_bytes());
        }
        self.put_doubles(address + field::X, &case.x);
        self.put(address + field::X, &code);
        self.put_doubles(address + field::F, &case.f);
        for (offset, value) in [
            (field::FCSR, case.fcsr),
            (field::MSTATUS, case.mstatus),
            (field::SATP, case.satp),
            (field::PC, case.pc),
            (field::CODE, case.code),
            (field::MENVCFG, case.menvcfg),
            (field::PMPCFG, case.pmpcfg),
            (field::SAMPLE, case.sample),
            (field::ENTRIES_AT, case.entries_at),
            (field::ENTRIES, case.entries[0]),
            (field::ENTRIES + 8, case.entries[1]),
        ] {
            self.put_doubles(address + offset, &[value]);
        }
        if let Some(guest) = case.guest {
            self.put_doubles(address + field::SECOND_AT, &[guest.entries_at]);
            self.put_doubles(address + field::SECOND, &guest.entries);
            self.put_doubles(address + field::BEFORE, &guest.csrs);
        }
    }

    /// The memory after QEMU has run the batch.
    fn run_qemu(&self, directory: &Path) -> io::Result<Vec<u8>> {
        let path = directory.join(format!("rvisor-oracle-{}", std::process::id()));
        File::create(&path)?.write_all(&self.memory)?;
        let backend =
            format!("memory-backend-file,id=ram,size={RAM_SIZE},mem-path={},share=on", path.display());
        let hypervisor = if self.hypervisor { WITH_HYPERVISOR } else { WITHOUT_HYPERVISOR };
        let cpu = format!("{CPU}{hypervisor}");
        let status = Command::new("qemu-system-riscv64")
            .args(["-machine", "virt,memory-backend=ram", "-cpu", &cpu, "-object", &backend])
            .args(["-m", &format!("{}M", RAM_SIZE >> 20), "-bios", "none", "-display", "none"])
            .args(["-serial", "null", "-monitor", "none"])
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(io::Error::other(format!("QEMU ended with {status}")));
        }
        let mut memory = Vec::new();
        OpenOptions::new().read(true).open(&path)?.read_to_end(&mut memory)?;
        fs::remove_file(&path)?;
        Ok(memory)
    }

    /// The memory after the hart has run the batch.
    fn run_hart(&self) -> Vec<u8> {
        let world = World::new(RAM_SIZE);
        let mut hart = Hart::new(Config { hypervisor: self.hypervisor, ..Config::default() });
        let loaded = world.ram.write(GuestPhysical(RAM), &self.memory);
        assert_eq!(loaded, Ok(()), "the batch is as large as RAM");
        hart.pc = RAM;
        loop {
            if let Exit::Device(access) = hart.run(&world, u64::MAX) {
                if access.address.0 == FINISHER && matches!(access.kind, AccessKind::Store { .. }) {
                    break;
                }
                // There are no other devices.
                let answer = if access.address.0 == TIMER { Ok(0) } else { Err(OutOfRange) };
                hart.finish_device_access(&access, answer);
            }
        }
        let mut memory = vec![0; RAM_SIZE as usize];
        let read = world.ram.read(GuestPhysical(RAM), &mut memory);
        assert_eq!(read, Ok(()), "the memory is as large as RAM");
        memory
    }
}

pub(super) fn double(memory: &[u8], address: u64) -> u64 {
    let start = (address - RAM) as usize;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&memory[start..start + 8]);
    u64::from_le_bytes(bytes)
}

/// Compares `count` cases or some more, with the hypervisor extension or without; QEMU's memory is a file in
/// `directory`.
///
/// # Errors
/// QEMU isn't there, or doesn't end as it should.
pub fn compare(count: u64, seed: u64, hypervisor: bool, directory: &Path) -> io::Result<Report> {
    let mut random = Random::new(seed);
    let mut report = Report::default();
    for (instructions, reason) in NOT_DRAWN {
        report.lacking.insert((instructions, (*reason).to_owned()), 0);
    }
    while report.total() < count {
        let batch = Batch::random(&mut random, hypervisor);
        let qemu = batch.run_qemu(directory)?;
        let hart = batch.run_hart();
        for (index, case) in batch.cases.iter().enumerate() {
            judge(&mut report, case, index as u64, &hart, &qemu);
        }
        for (name, start, size) in [("data", DATA, DATA_SIZE), ("superpage data", SUPER_DATA, 1 << 21)] {
            let range = (start - RAM) as usize..(start + size - RAM) as usize;
            if hart[range.clone()] != qemu[range] {
                *report.differing.entry(("(memory after a batch)", name.to_owned())).or_default() += 1;
            }
        }
    }
    Ok(report)
}

/// Names of what comes out of a case, by offset.
fn outputs() -> impl Iterator<Item = (String, u64)> {
    let x =
        (0..32).map(|n| (if n == 0 { "mcause".to_owned() } else { format!("x{n}") }, field::OUT_X + 8 * n));
    let f = (0..32).map(|n| (format!("f{n}"), field::OUT_F + 8 * n));
    let csrs = [
        ("fcsr", field::OUT_FCSR),
        ("mstatus", field::OUT_MSTATUS),
        ("mepc", field::OUT_MEPC),
        ("mtval", field::OUT_MTVAL),
    ];
    let csrs = csrs.into_iter().map(|(name, offset)| (name.to_owned(), offset));
    let sample = (0..8).map(|n| (format!("memory+{}", 8 * n), field::OUT_SAMPLE + 8 * n));
    let entries = (0..2).map(|n| (format!("entry{n}"), field::OUT_ENTRIES + 8 * n));
    let second = (0..2).map(|n| (format!("second{n}"), field::OUT_SECOND + 8 * n));
    let names =
        AFTER.into_iter().map(|number| csr::name(number).map_or(String::new(), |name| name.to_string()));
    let after = names.zip((field::AFTER..).step_by(8));
    x.chain(csrs).chain(f).chain(sample).chain(entries).chain(second).chain(after)
}

fn judge(report: &mut Report, case: &Case, index: u64, hart: &[u8], qemu: &[u8]) {
    let address = CASES + index * field::SIZE;
    let mnemonic = decode(case.instructions[0]).map_or("(illegal)", |instruction| instruction.op.mnemonic());
    let cause = double(hart, address + field::OUT_X);
    let counts = report.compared.entry(mnemonic).or_default();
    // A breakpoint is how a case ends that didn't trap.
    counts.0 += u64::from(cause == 3);
    counts.1 += 1;
    *report.traps.entry(format!("cause {cause}")).or_default() += 1;
    let sides = [hart, qemu].map(|memory| Side { memory, address });
    if let Some(reason) = excused(case, sides) {
        *report.allowed.entry(reason).or_default() += 1;
        return;
    }
    let mut differences = String::new();
    let mut place = None;
    for (name, offset) in outputs() {
        let (ours, theirs) = (double(hart, address + offset), double(qemu, address + offset));
        if ours == theirs {
            continue;
        }
        if let Some(reason) = allowed(case, sides, &name, ours, theirs) {
            *report.allowed.entry(reason).or_default() += 1;
            continue;
        }
        differences += &format!("\n  {name}: hart {ours:#x}, QEMU {theirs:#x}");
        place.get_or_insert(name);
    }
    let Some(place) = place else { return };
    *report.differing.entry((mnemonic, place)).or_default() += 1;
    if report.findings.len() < FINDINGS {
        report.findings.push(describe(case, index) + &differences);
    }
}

fn describe(case: &Case, index: u64) -> String {
    let mut text = format!("case {index}:");
    for &bits in &case.instructions {
        let assembly = decode(bits).map_or("illegal".into(), |i| disassemble(&i, case.pc).to_string());
        text += &format!("\n  {bits:#010x} {assembly}");
    }
    let Case { fcsr, mstatus, satp, pc, menvcfg, pmpcfg, entries, .. } = case;
    text += &format!(
        "\n  pc={pc:#x} mstatus={mstatus:#x} satp={satp:#x} menvcfg={menvcfg:#x} pmpcfg0={pmpcfg:#x} fcsr={fcsr:#x} \
         entries={entries:#x?}"
    );
    if let Some(guest) = &case.guest {
        text += &format!("\n  virtualized={} second entries={:#x?}", guest.virtualized, guest.entries);
        for (number, value) in BEFORE.into_iter().zip(guest.csrs) {
            let name = csr::name(number).map_or(String::new(), |name| name.to_string());
            text += &format!(" {name}={value:#x}");
        }
    }
    if let Some(instruction) = decode(case.instructions[0]) {
        for (name, register) in [
            ("rd", instruction.rd),
            ("rs1", instruction.rs1),
            ("rs2", instruction.rs2),
            ("rs3", instruction.rs3),
        ] {
            let (x, f) = (case.x[usize::from(register)], case.f[usize::from(register)]);
            text += &format!("\n  {name} is {register}: x={x:#x} f={f:#x}");
        }
    }
    text
}
