//! Finds one system call or one TLB miss among recorded events, and tells it step by step.

use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;

use rvisor_hart::{Access, AccessKind, Cause, DeviceAccess, HartEvent, Walk, walk_tables};
use rvisor_isa::csr::satp;
use rvisor_isa::{Exception, Privilege, decode, disassemble};
use rvisor_machine::story::{Column, Story as Table};
use rvisor_translator::DirectMemory;
use rvisor_waist::{GuestMemory, GuestVirtual};

use super::names;
use super::recorder::{Batch, Record};
use crate::machine::EngineKind;
use crate::runner::HostedVm;

/// Events of the longest system call that is told.
const LONGEST: usize = 400;
/// TLB misses that are told one by one within a system call; more are counted.
const FILLS: usize = 2;

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// A system call.
    Syscall,
    /// A load, store or fetch that the TLB had no translation for.
    TlbMiss,
}

impl FromStr for Story {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "syscall" => Ok(Self::Syscall),
            "tlb-miss" => Ok(Self::TlbMiss),
            _ => Err(format!("no story is called {text:?}; choose syscall or tlb-miss")),
        }
    }
}

/// Listens to events until it has heard a story.
pub struct StoryTeller {
    story: Story,
    vm: Arc<HostedVm>,
    engine: EngineKind,
    /// Of each hart, what may become one.
    candidates: Vec<Vec<Record>>,
}

impl StoryTeller {
    /// For a machine that this engine runs.
    #[must_use]
    pub fn new(story: Story, vm: &Arc<HostedVm>, engine: EngineKind) -> Self {
        let candidates = vm.harts().iter().map(|_| Vec::new()).collect();
        Self { story, vm: Arc::clone(vm), engine, candidates }
    }

    /// Takes one hart's next events; `any` lets TLB misses of the guest's kernel count too. Returns the story once it is
    /// complete.
    pub fn hear(&mut self, batch: &Batch, any: bool) -> Option<String> {
        for record in &batch.records {
            let found = match self.story {
                Story::Syscall => self.hear_of_call(batch.hart, record),
                Story::TlbMiss => self.hear_of_fill(batch.hart, record, any),
            };
            if let Some(table) = found {
                return Some(table.to_string());
            }
        }
        None
    }

    fn hear_of_call(&mut self, hart: usize, record: &Record) -> Option<Table> {
        let candidate = self.candidates.get_mut(hart)?;
        if is_call(&record.event) {
            candidate.clear();
        } else if candidate.is_empty() {
            return None;
        }
        candidate.push(*record);
        let HartEvent::Return { to: Privilege::User, pc, satp, .. } = record.event else {
            if candidate.len() == LONGEST {
                candidate.clear();
            }
            return None;
        };
        // Another thread's return, or a signal's: this call goes on later, or elsewhere.
        let records = std::mem::take(candidate);
        let HartEvent::Trap { pc: call, satp: caller, .. } = records[0].event else { return None };
        (pc == call.wrapping_add(4) && satp == caller).then(|| self.tell_call(hart, &records))
    }

    fn engine(&self) -> (&'static str, &'static str) {
        match self.engine {
            EngineKind::Interpreter => {
                ("the interpreter, which reads the guest's instructions", "the interpreter")
            }
            EngineKind::Translator | EngineKind::Lockstep => {
                ("host code that the guest's code was translated to", "translated code")
            }
        }
    }

    fn tell_call(&self, hart: usize, records: &[Record]) -> Table {
        let Record { time: start, event } = records[0];
        let HartEvent::Trap { pc, handler, satp, arguments, .. } = event else { return Table::default() };
        let name = call_name(&arguments);
        let (runs, code) = self.engine();
        let mut told =
            Table::new(format!("The system call {name} on hart {hart}, address space {}", space(satp)));
        let list: Vec<_> = arguments[..3].iter().map(|value| format!("{value:#x}")).collect();
        told.add(
            Some(0),
            Column::Application,
            format!("`ecall` at {pc:#x}: a7 = {} ({name}), a0.. = {}, ...", arguments[7], list.join(", ")),
        );
        told.add(None, Column::Hardware, format!("runs {runs}; takes no trap of its own"));
        told.add(
            None,
            Column::Monitor,
            format!(
                "called by {code}: takes the trap on the virtual hart: sepc = {pc:#x}, scause = 8, U-mode to S-mode, pc = \
                 stvec = {handler:#x}"
            ),
        );
        told.add(
            None,
            Column::GuestOs,
            format!("trap handler at {handler:#x} saves registers and calls {name}"),
        );
        let (mut fills, mut since) = (0, None);
        for Record { time, event } in &records[1..] {
            let at = Some(time - start);
            match *event {
                HartEvent::Fill { access, from, address, physical, satp, .. } => {
                    fills += 1;
                    if fills <= FILLS {
                        let walk = walk_tables(self.vm.memory(), satp, address);
                        let text = format!(
                            "TLB miss of a {} at {address}: reads {} page-table entries, finds {physical}",
                            in_mode(access, from),
                            walk.steps.len()
                        );
                        told.add(at, Column::Monitor, text);
                    }
                }
                HartEvent::Trap { trap, pc, from, handler, .. } => {
                    let value = if trap.value == 0 { String::new() } else { format!(" ({:#x})", trap.value) };
                    let text = format!(
                        "{}{value} at {pc:#x} in {}: takes it on the virtual hart, pc = {handler:#x}",
                        names::cause(trap.cause),
                        mode(from)
                    );
                    told.add(at, Column::Monitor, text);
                    told.add(None, Column::GuestOs, "its handler".into());
                }
                HartEvent::Return { to: Privilege::User, pc, values, .. } => {
                    if fills > FILLS {
                        told.add(None, Column::Monitor, format!("{} more TLB misses in all", fills - FILLS));
                    }
                    told.add(at, Column::GuestOs, "restores registers; `sret`".into());
                    told.add(
                        None,
                        Column::Monitor,
                        format!(
                            "called by {code}: S-mode to U-mode, pc = sepc = {pc:#x}; finds the code there"
                        ),
                    );
                    let took = time - start;
                    let text = format!(
                        "goes on at {pc:#x} with a0 = {}; the call took {}.{:03} µs",
                        values[0] as i64,
                        took / 1000,
                        took % 1000
                    );
                    told.add(at, Column::Application, text);
                }
                HartEvent::Return { to, pc, .. } => {
                    told.add(at, Column::GuestOs, "`sret` from the handler".into());
                    told.add(None, Column::Monitor, format!("goes on in {} at {pc:#x}", mode(to)));
                }
                HartEvent::SbiCall { arguments, .. } => {
                    let extension = names::extension(arguments[7]);
                    told.add(
                        at,
                        Column::GuestOs,
                        format!("`ecall` to the SBI: {extension}, function {}", arguments[6]),
                    );
                }
                HartEvent::SbiReturn { values } => {
                    told.add(
                        at,
                        Column::Monitor,
                        format!("carries the SBI call out: a0 = {}", values[0] as i64),
                    );
                }
                HartEvent::Device { access, .. } => {
                    since = Some(*time);
                    told.add(at, Column::GuestOs, device(&access));
                }
                HartEvent::DeviceDone { value } => {
                    let took = since.take().map_or(0, |since| time - since);
                    let answer = value.map_or("refuses".into(), |value| format!("answers {value:#x}"));
                    told.add(
                        at,
                        Column::Monitor,
                        format!("leaves {code}; the device's front end {answer} after {took} ns"),
                    );
                }
                HartEvent::Wait => told.add(at, Column::GuestOs, "nothing to run: `wfi`".into()),
                HartEvent::Woke => {
                    told.add(
                        at,
                        Column::Monitor,
                        "gave the host's processor away; an interrupt is pending".into(),
                    );
                }
            }
        }
        told
    }

    fn hear_of_fill(&mut self, hart: usize, record: &Record, any: bool) -> Option<Table> {
        let HartEvent::Fill { access, from, pc, address, physical, page_size, satp } = record.event else {
            return None;
        };
        let is_preferred = from == Privilege::User && access != Access::Execute;
        if !is_preferred && !any {
            return None;
        }
        let memory = self.vm.memory();
        let walk = walk_tables(memory, satp, address);
        // Told as it is: not if the tables have changed since, nor of a device.
        let range = memory.range();
        if walk.physical.is_none_or(|(found, _)| found != physical) || !range.contains(&physical) {
            return None;
        }
        let instruction = self.instruction(satp, pc);
        // The instruction must be one that accesses memory, or the place isn't known well enough.
        let instruction = if access == Access::Execute { None } else { Some(instruction?) };
        Some(self.tell_fill(hart, record, &walk, instruction.as_deref(), page_size))
    }

    /// The instruction at an address, in assembly.
    fn instruction(&self, satp: u64, pc: u64) -> Option<String> {
        let half = |at: u64| {
            let (physical, _) = walk_tables(self.vm.memory(), satp, GuestVirtual(at)).physical?;
            self.vm.memory().load::<u16>(physical).ok().map(u32::from)
        };
        let low = half(pc)?;
        let bits = if low & 3 == 3 { low | half(pc.wrapping_add(2))? << 16 } else { low };
        Some(disassemble(&decode(bits)?, pc).to_string())
    }

    fn tell_fill(
        &self,
        hart: usize,
        record: &Record,
        walk: &Walk,
        instruction: Option<&str>,
        page_size: u64,
    ) -> Table {
        let HartEvent::Fill { access, from, pc, address, physical, satp, .. } = record.event else {
            return Table::default();
        };
        let (_, code) = self.engine();
        let who = if from == Privilege::User { Column::Application } else { Column::GuestOs };
        let kind = names::access(access);
        let mut told = Table::new(format!(
            "A TLB miss: a {} at {address} on hart {hart}, address space {}",
            in_mode(access, from),
            space(satp)
        ));
        let doing =
            instruction.map_or(format!("goes on at {address}"), |text| format!("`{text}` at {pc:#x}"));
        told.add(None, who, format!("{doing}: {kind} at {address}"));
        told.add(
            None,
            Column::Hardware,
            format!("runs {code}: looks {} up in the hart's software TLB; it isn't there", address.page()),
        );
        told.add(
            None,
            Column::Monitor,
            format!("called by {code}, not trapped to: walks the guest's page tables from satp = {satp:#x}"),
        );
        for step in &walk.steps {
            let mut text = format!("level {}: entry at {} is {:#x}", step.level, step.entry, step.pte);
            if step.pte & 0b1110 != 0 {
                let flags = "RWXUGAD".chars().enumerate().filter(|(bit, _)| step.pte >> (bit + 1) & 1 != 0);
                let flags: String = flags.map(|(_, flag)| flag).collect();
                let _ = write!(text, ": a page of {} KiB, {flags}", page_size >> 10);
            }
            told.add(None, Column::Monitor, text);
        }
        told.add(None, Column::GuestOs, "isn't entered: it wrote those entries earlier".into());
        let memory = self.vm.memory();
        let machine = memory.host_address().as_ptr() as u64 + (physical.0 - memory.range().start.0);
        told.add(
            None,
            Column::Monitor,
            format!("allowed: {address} is guest physical {physical}, which is machine address {machine:#x}"),
        );
        told.add(
            None,
            Column::Monitor,
            format!("fills the TLB: {} to {:#x}", address.page(), machine & !0xfff),
        );
        told.add(
            None,
            Column::Hardware,
            format!("{kind} at machine address {machine:#x}, through its own TLB"),
        );
        told.add(None, who, "goes on; the next access to the page hits".into());
        told
    }
}

fn is_call(event: &HartEvent) -> bool {
    matches!(event, HartEvent::Trap { trap, .. } if trap.cause == Cause::Exception(Exception::EnvironmentCallFromUser))
}

fn call_name(arguments: &[u64; 8]) -> String {
    names::system_call(arguments[7]).map_or(format!("number {}", arguments[7]), str::to_owned)
}

fn mode(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::User => "U-mode",
        Privilege::Supervisor => "S-mode",
        Privilege::Machine => "M-mode",
    }
}

fn in_mode(access: Access, from: Privilege) -> String {
    format!("{} in {}", names::access(access), mode(from))
}

/// The address space of a value of `satp`.
fn space(value: u64) -> String {
    let asid = value >> satp::ASID_SHIFT & 0xffff;
    format!("{asid} (root table at {:#x})", (value & satp::PPN) << 12)
}

fn device(access: &DeviceAccess) -> String {
    let bytes = access.width.bytes();
    match access.kind {
        AccessKind::Load { .. } => format!("loads {bytes} bytes from the device at {}", access.address),
        AccessKind::Store { value } => format!("stores {value:#x} to the device at {}", access.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_found_by_name() {
        assert_eq!("syscall".parse(), Ok(Story::Syscall));
        assert_eq!("tlb-miss".parse(), Ok(Story::TlbMiss));
        assert!("x".parse::<Story>().unwrap_err().contains("tlb-miss"));
    }
}
