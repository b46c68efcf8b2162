//! A trace of what a virtual hart's traps come to: one system call of a program, from its `ecall` to the return, and
//! one address that the hardware found no translation for. While it waits for them, every trap goes to the monitor.
//!
//! With the H extension that holds for what the hardware does by itself otherwise, too: calls of programs, page faults and `sret`.
//! The engine does with them what the hardware would have done.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use rvisor_hart::{Exit, Hart, walk_tables};
use rvisor_isa::csr::{SSTATUS_MASK, mcause, mtvec};
use rvisor_isa::{Exception, Privilege, decode, disassemble};
use rvisor_waist::{GuestPhysical, GuestVirtual};

use super::statistics::is_guest_page_fault;
use crate::address::MachineAddress;
use crate::arch::Partition;
use crate::pte::Pte;
use crate::shadow::{Page, Stage};

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Call,
    Return,
    Miss,
    /// The guest's page-fault handler is to map the page: the lines up to here stay, and the program goes on where it was.
    Mend {
        lines: usize,
        fault: Trapped,
    },
    Nothing,
}

/// The steps so far.
#[derive(Debug)]
pub struct Trace {
    /// The guest is in VS- and VU-mode.
    is_virtual: bool,
    wait: Wait,
    lines: Vec<String>,
    /// Set by the first of a guest's harts that has all.
    is_told: Arc<AtomicBool>,
}

/// Where the guest stood when it trapped, and with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trapped {
    /// Its mode.
    pub privilege: Privilege,
    /// Its program counter.
    pub pc: u64,
    /// `scause`.
    pub cause: u64,
    /// `stval`.
    pub value: u64,
}

/// What became of a trap.
#[derive(Clone, Copy, Default)]
pub struct Outcome<'a> {
    /// The page that the shadow tables got.
    pub page: Option<&'a Page>,
    /// Why the engine is left.
    pub exit: Option<&'a Exit>,
    /// With the H extension: the second stage as it is now, and the address of a guest-page fault.
    pub stage: Option<(&'a Stage, GuestPhysical)>,
}

/// A call longer than this is cut, and so is the way of a page fault.
const MOST_LINES: usize = 100;

impl Trace {
    /// One that waits for a system call. Of those with the same `is_told`, the first that has all tells it.
    #[must_use]
    pub fn new(is_virtual: bool, is_told: Arc<AtomicBool>) -> Self {
        Self { is_virtual, wait: Wait::Call, lines: Vec::new(), is_told }
    }

    /// Whether there is something to come, of this hart or of another with the same `is_told`.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.wait != Wait::Nothing && !self.is_told.load(Ordering::Relaxed)
    }

    /// The lines, once all is in them; none, if another hart was first.
    pub fn finished(&mut self) -> Option<Vec<String>> {
        if self.is_waiting() {
            return None;
        }
        let is_first = !self.is_told.swap(true, Ordering::Relaxed);
        Some(if is_first { core::mem::take(&mut self.lines) } else { Vec::new() })
    }

    /// A trap, what became of it, and the hart as it goes on.
    pub fn step(&mut self, trapped: &Trapped, outcome: &Outcome<'_>, hart: &Hart, memory: &Partition) {
        let is_call = trapped.cause == Exception::EnvironmentCallFromUser.code()
            && trapped.privilege == Privilege::User;
        match self.wait {
            Wait::Call if is_call => {
                self.lines.push(format!("a system call, number {}:", hart.x[17]));
                self.add(trapped, outcome, hart);
                self.wait = Wait::Return;
            }
            Wait::Return => {
                self.add(trapped, outcome, hart);
                if self.lines.len() >= MOST_LINES || hart.privilege == Privilege::User {
                    self.wait = Wait::Miss;
                }
            }
            Wait::Miss => self.miss(trapped, outcome, hart, memory),
            Wait::Mend { lines, fault } => {
                self.add(trapped, outcome, hart);
                let is_back = (hart.privilege, hart.pc) == (fault.privilege, fault.pc);
                if is_back && is_mapped(fault.value, hart, memory) {
                    self.lines.push("the same address, now that the guest has mapped it:".into());
                    self.walk(GuestVirtual(fault.value), outcome, hart, memory);
                    self.wait = Wait::Nothing;
                } else if is_back
                    || hart.privilege == Privilege::User
                    || self.lines.len() >= lines + MOST_LINES
                {
                    // The guest does something else first: another address will do.
                    self.lines.truncate(lines);
                    self.wait = Wait::Miss;
                }
            }
            _ => {}
        }
    }

    /// Looks whether a trap is one for want of a translation.
    fn miss(&mut self, trapped: &Trapped, outcome: &Outcome<'_>, hart: &Hart, memory: &Partition) {
        let lines = self.lines.len();
        let address = GuestVirtual(trapped.value);
        if outcome.page.is_some() {
            self.lines.push("an address that the TLB and the shadow table don't have:".into());
        } else if outcome.filled(trapped).is_some() {
            self.lines.push("an address that the TLB and the second stage don't have:".into());
        } else if self.is_virtual && is_page_fault(trapped.cause) && !is_mapped(trapped.value, hart, memory) {
            self.lines.push("an address that the TLB and the guest's tables don't have:".into());
            self.wait = Wait::Mend { lines, fault: *trapped };
        } else {
            return;
        }
        self.add(trapped, outcome, hart);
        self.walk(address, outcome, hart, memory);
        if self.wait == Wait::Miss {
            self.wait = Wait::Nothing;
        }
    }

    fn add(&mut self, trapped: &Trapped, outcome: &Outcome<'_>, hart: &Hart) {
        let Trapped { privilege, pc, cause, value } = *trapped;
        let what = describe(cause, value);
        let mode = |privilege| format!("{}{}", if self.is_virtual { "V" } else { "" }, mode(privilege));
        let became = match (outcome.page, outcome.filled(trapped), outcome.exit) {
            (Some(page), ..) => describe_page(page),
            (None, Some(machine), _) => format!("the second stage gets 2 MiB, at machine address {machine}"),
            (None, None, Some(exit)) => format!("leaves the engine: {exit:x?}"),
            (None, None, None) => format!("on in {} at {:#x}", mode(hart.privilege), hart.pc),
        };
        self.lines.push(format!("{} {pc:#018x}  {what:42}  {became}", mode(privilege)));
        let csr = &hart.csr;
        if (hart.privilege, hart.pc) == (Privilege::Supervisor, csr.stvec & mtvec::BASE)
            && (csr.sepc, csr.scause) == (pc, cause)
        {
            let v = if self.is_virtual { "vs" } else { "s" };
            self.lines.push(format!(
                "    {v}epc {:#x}, {v}cause {:#x}, {v}tval {:#x}, {v}status {:#x}, {v}tvec {:#x}",
                csr.sepc,
                csr.scause,
                csr.stval,
                csr.mstatus & SSTATUS_MASK,
                csr.stvec
            ));
        }
    }

    /// The guest's tables from an address on, and the second stage where there is one, entry by entry.
    fn walk(&mut self, address: GuestVirtual, outcome: &Outcome<'_>, hart: &Hart, memory: &Partition) {
        let first = if self.is_virtual { "first stage" } else { "guest's tables" };
        let walk = walk_tables(memory, hart.csr.satp, address);
        for step in &walk.steps {
            self.lines.push(describe_step(first, step.level, step.entry.0, Pte(step.pte)));
        }
        let physical = walk.physical.map(|(physical, _)| physical);
        self.lines.push(match walk.physical {
            Some((physical, size)) => {
                format!("    {first}: {address} is {physical}, in {} KiB", size >> 10)
            }
            None => format!("    {first}: {address} isn't mapped"),
        });
        if let Some((stage, _)) = outcome.stage
            && let Some(physical) = physical
        {
            let walk = stage.walk(physical);
            for (level, entry, pte) in walk.steps {
                self.lines.push(describe_step("second stage", level, entry.0, pte));
            }
            self.lines.push(match walk.machine {
                Some(machine) => {
                    format!("    second stage: {physical} is machine address {machine}, in 2048 KiB")
                }
                None => format!("    second stage: {physical} isn't mapped"),
            });
        }
    }
}

impl Outcome<'_> {
    /// The machine address of what the second stage got for a trap.
    fn filled(&self, trapped: &Trapped) -> Option<MachineAddress> {
        let (stage, address) = self.stage.filter(|_| is_guest_page_fault(trapped.cause))?;
        stage.walk(address).machine
    }
}

/// Whether the guest's tables lead from an address to a page, whatever may be done with it.
fn is_mapped(address: u64, hart: &Hart, memory: &Partition) -> bool {
    walk_tables(memory, hart.csr.satp, GuestVirtual(address)).physical.is_some()
}

const fn is_page_fault(cause: u64) -> bool {
    matches!(
        Exception::from_code(cause),
        Some(Exception::InstructionPageFault | Exception::LoadPageFault | Exception::StorePageFault)
    )
}

const fn mode(privilege: Privilege) -> char {
    match privilege {
        Privilege::User => 'U',
        Privilege::Supervisor => 'S',
        Privilege::Machine => 'M',
    }
}

fn describe(cause: u64, value: u64) -> String {
    if cause & mcause::INTERRUPT != 0 {
        return format!("interrupt {} of the hardware", cause & !mcause::INTERRUPT);
    }
    let is_instruction =
        [Exception::IllegalInstruction, Exception::VirtualInstruction].map(Exception::code).contains(&cause);
    match decode(value as u32).filter(|_| is_instruction) {
        Some(instruction) => format!("{}", disassemble(&instruction, 0)),
        None => match (cause, Exception::from_code(cause)) {
            (10, _) => "ecall to the SBI".into(),
            _ if is_guest_page_fault(cause) => format!("guest-page fault at {value:#x}"),
            (_, Some(exception)) => format!("{exception:?} {value:#x}"),
            (_, None) => format!("cause {cause} {value:#x}"),
        },
    }
}

/// An entry of a table; the address is of the kind that the stage's tables have.
fn describe_step(stage: &str, level: u32, entry: u64, pte: Pte) -> String {
    let meaning = match (pte.is_valid(), pte.is_leaf()) {
        (false, _) => "not valid",
        (true, false) => "a table",
        (true, true) => "a page",
    };
    format!("    {stage}, level {level}: the entry at {entry:#x} is {:#x}: {meaning}", pte.0)
}

fn describe_page(page: &Page) -> String {
    let right = |bit, letter| if page.rights & bit != 0 { letter } else { '-' };
    let rights: String = [right(Pte::R, 'R'), right(Pte::W, 'W'), right(Pte::X, 'X')].into_iter().collect();
    let size = if page.is_large { "2 MiB" } else { "4 KiB" };
    format!(
        "the guest's tables have {} KiB there, at machine address {}: {size} mapped with {rights}",
        page.guest_size >> 10,
        page.machine
    )
}

#[cfg(test)]
mod tests {
    use rvisor_hart::Config;

    use super::*;
    use crate::arch::partition::tests::partition;

    const PAGE: Page = Page {
        address: GuestVirtual(0x5000),
        machine: MachineAddress(0x9000_0000),
        rights: Pte::R,
        guest_size: 4096,
        is_large: false,
    };

    #[test]
    fn call_and_miss_are_traced_and_nothing_else() {
        let (memory, mut hart) = (partition(4 << 20), Hart::new(Config::default()));
        let mut trace = Trace::new(false, Arc::default());
        let user = Trapped { privilege: Privilege::User, pc: 0x1000, cause: 8, value: 0 };
        let kernel = Trapped { privilege: Privilege::Supervisor, pc: 0x2000, cause: 2, value: 0x1410_22f3 };
        let mut step = |trapped: &Trapped, page, hart: &Hart| {
            trace.step(trapped, &Outcome { page, ..Outcome::default() }, hart, &memory);
            trace.finished()
        };
        hart.privilege = Privilege::Supervisor;
        assert_eq!(step(&kernel, None, &hart), None);
        hart.csr.sepc = user.pc;
        hart.csr.scause = user.cause;
        assert_eq!(step(&user, None, &hart), None);
        hart.pc = 0x2000;
        assert_eq!(step(&kernel, None, &hart), None);
        hart.privilege = Privilege::User;
        assert_eq!(step(&kernel, None, &hart), None);
        assert_eq!(step(&kernel, None, &hart), None);
        let lines = step(&Trapped { cause: 13, value: 0x5000, ..user }, Some(&PAGE), &hart);
        let lines = lines.expect("it is complete");
        for (line, words) in lines.iter().zip([
            "a system call, number 0:",
            "EnvironmentCallFromUser",
            "    sepc 0x1000, scause 0x8, stval 0x0, sstatus ",
            "csrrs t0, sepc, zero",
            "on in U at 0x2000",
            "the shadow table don't have",
            "4 KiB mapped with R--",
            "guest's tables: 0x5000 is 0x5000",
        ]) {
            assert!(line.contains(words), "{words}: {line}");
        }
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn of_several_harts_one_tells() {
        let (memory, mut hart) = (partition(4 << 20), Hart::new(Config::default()));
        let is_told = Arc::default();
        let [mut first, mut second] = [(); 2].map(|()| Trace::new(false, Arc::clone(&is_told)));
        hart.privilege = Privilege::User;
        let call = Trapped { privilege: Privilege::User, pc: 0x1000, cause: 8, value: 0 };
        let outcome = Outcome { page: Some(&PAGE), ..Outcome::default() };
        (0..3).for_each(|_| first.step(&call, &outcome, &hart, &memory));
        assert!(second.is_waiting());
        assert!(first.finished().is_some_and(|lines| !lines.is_empty()));
        assert_eq!((second.is_waiting(), second.finished()), (false, Some(Vec::new())));
    }

    #[test]
    fn any_cause_can_be_described() {
        for cause in (0..64).chain([u64::MAX, 1 << 63 | 5]) {
            for value in [0, 0x1050_0073, u64::MAX] {
                assert!(!describe(cause, value).is_empty());
            }
        }
    }
}
