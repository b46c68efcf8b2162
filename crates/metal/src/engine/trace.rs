//! A trace of what a virtual hart's traps come to: one system call of a program, from its `ecall` to the return, and
//! one page that the hardware found no translation for. While it waits for them, every trap goes to the monitor.
//!
//! With the H extension neither comes to the monitor, except for pages of RAM that are touched for the first time: the
//! trace has the next traps that do.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rvisor_hart::{Exit, Hart};
use rvisor_isa::csr::mcause;
use rvisor_isa::{Exception, Privilege, decode, disassemble};

use crate::pte::Pte;
use crate::shadow::Page;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Call,
    Return,
    Miss,
    /// So many more traps.
    Any(u32),
    Done,
}

/// The steps so far.
#[derive(Debug)]
pub struct Trace {
    stage: Stage,
    lines: Vec<String>,
}

/// Where the guest stood when it trapped, and with what.
#[derive(Clone, Copy, Debug)]
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

/// A call longer than this is cut.
const MOST_LINES: usize = 100;
/// Traps that are shown with the H extension.
const ANY: u32 = 12;

impl Trace {
    /// One that waits for a system call. `deprivileged` tells whether there will be one.
    #[must_use]
    pub fn new(deprivileged: bool) -> Self {
        Self { stage: if deprivileged { Stage::Call } else { Stage::Any(ANY) }, lines: Vec::new() }
    }

    /// The lines, once all is in them.
    pub fn finished(&mut self) -> Option<Vec<String>> {
        (self.stage == Stage::Done).then(|| core::mem::take(&mut self.lines))
    }

    /// A trap, and what became of it: the page that was mapped, the exit, and the hart as it goes on.
    pub fn step(&mut self, trapped: &Trapped, page: Option<&Page>, exit: Option<&Exit>, hart: &Hart) {
        let is_interrupt = trapped.cause & mcause::INTERRUPT != 0;
        let is_call = trapped.cause == Exception::EnvironmentCallFromUser.code()
            && trapped.privilege == Privilege::User;
        match self.stage {
            Stage::Call if is_call => {
                self.lines.push(format!("a system call, number {}:", hart.x[17]));
                self.add(trapped, page, exit, hart);
                self.stage = Stage::Return;
            }
            Stage::Return => {
                self.add(trapped, page, exit, hart);
                if self.lines.len() >= MOST_LINES || hart.privilege == Privilege::User {
                    self.stage = Stage::Miss;
                }
            }
            Stage::Miss if page.is_some() => {
                self.lines.push("an address that the TLB and the shadow table don't have:".into());
                self.add(trapped, page, exit, hart);
                self.stage = Stage::Done;
            }
            Stage::Any(left) if !is_interrupt => {
                self.add(trapped, page, exit, hart);
                self.stage = if left > 1 { Stage::Any(left - 1) } else { Stage::Done };
            }
            _ => {}
        }
    }

    fn add(&mut self, trapped: &Trapped, page: Option<&Page>, exit: Option<&Exit>, hart: &Hart) {
        let Trapped { privilege, pc, cause, value } = *trapped;
        let what = describe(cause, value);
        let outcome = match (page, exit) {
            (Some(page), _) => describe_page(page),
            (None, Some(exit)) => format!("leaves the engine: {exit:x?}"),
            (None, None) => format!("on in {} at {:#x}", mode(hart.privilege), hart.pc),
        };
        self.lines.push(format!("{} {pc:#018x}  {what:42}  {outcome}", mode(privilege)));
    }
}

const fn mode(privilege: Privilege) -> char {
    match privilege {
        Privilege::User => 'U',
        Privilege::Supervisor => 'S',
        Privilege::Machine => 'M',
    }
}

fn describe(cause: u64, value: u64) -> String {
    const VIRTUAL_INSTRUCTION: u64 = 22;
    if cause & mcause::INTERRUPT != 0 {
        return format!("interrupt {} of the hardware", cause & !mcause::INTERRUPT);
    }
    let is_instruction = [Exception::IllegalInstruction.code(), VIRTUAL_INSTRUCTION].contains(&cause);
    match decode(value as u32).filter(|_| is_instruction) {
        Some(instruction) => format!("{}", disassemble(&instruction, 0)),
        None => match (cause, Exception::from_code(cause)) {
            (10, _) => "ecall to the SBI".into(),
            (20..=23, _) => format!("guest-page fault at {value:#x}"),
            (_, Some(exception)) => format!("{exception:?} {value:#x}"),
            (_, None) => format!("cause {cause} {value:#x}"),
        },
    }
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
    use rvisor_waist::GuestVirtual;

    use super::*;
    use crate::address::MachineAddress;

    #[test]
    fn call_and_miss_are_traced_and_nothing_else() {
        let (mut trace, mut hart) = (Trace::new(true), Hart::new(Config::default()));
        let user = Trapped { privilege: Privilege::User, pc: 0x1000, cause: 8, value: 0 };
        let kernel = Trapped { privilege: Privilege::Supervisor, pc: 0x2000, cause: 2, value: 0x1410_22f3 };
        let page = Page {
            address: GuestVirtual(0x5000),
            machine: MachineAddress(0x9000_0000),
            rights: Pte::R,
            guest_size: 4096,
            is_large: false,
        };
        hart.privilege = Privilege::Supervisor;
        trace.step(&kernel, None, None, &hart);
        trace.step(&user, None, None, &hart);
        trace.step(&kernel, None, None, &hart);
        hart.privilege = Privilege::User;
        trace.step(&kernel, None, None, &hart);
        trace.step(&kernel, None, None, &hart);
        assert!(trace.finished().is_none());
        trace.step(&Trapped { cause: 13, ..user }, Some(&page), None, &hart);
        let lines = trace.finished().expect("it is complete");
        assert_eq!(lines.len(), 6);
        assert!(lines[2].contains("csrrs t0, sepc, zero"), "{}", lines[2]);
        assert!(lines[5].contains("4 KiB mapped with R--"), "{}", lines[5]);
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
