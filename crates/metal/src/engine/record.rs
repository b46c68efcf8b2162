//! Records sequences: where the trampoline has missed one twice, the interpreter carries the guest's next instructions
//! out, and the path that they take is what is compiled (`crate::sequence`).

use alloc::vec::Vec;

use rvisor_hart::{Access, Environment, Exit, Hart};
use rvisor_isa::{Exception, Privilege, decode};
use rvisor_waist::{GuestMemory, GuestVirtual};

use super::{Deprivileged, Outside};
use crate::processor::{Missing, Processor};
use crate::sequence::{Class, GAP, MOST, Step, class};

const PAGE: u64 = 4096;

/// What became of an instruction.
enum Recorded {
    /// It was carried out, and is on the path.
    Step(Step, Class),
    /// It was carried out, and has led elsewhere.
    Left(Option<Exit>),
    /// It can't be part of a sequence: nothing was done.
    Not,
}

impl<P: Processor> Deprivileged<'_, P> {
    /// Carries out what follows, as far as it can be part of a sequence, and has that compiled. `None` if nothing was carried
    /// out.
    #[cold]
    #[inline(never)]
    pub(super) fn record(
        &mut self,
        hart: &mut Hart,
        outside: &Outside<'_>,
        missing: Missing,
    ) -> Option<Option<Exit>> {
        if missing == Missing::AtTrap {
            // An exception: there is nothing to leave the engine for.
            let _ = self.slice.note(Exception::IllegalInstruction.code(), self.processor);
        }
        let start = hart.pc;
        let guard = self.copy_text(hart, outside, missing);
        let (mut steps, mut useful, mut worthwhile) = (Vec::new(), 0, 1);
        let mut carried_out = None;
        while hart.privilege == Privilege::Supervisor && steps.len() < MOST {
            if worthwhile == 0 {
                let Some(more) = steps_to_privileged(hart, outside) else { break };
                worthwhile = more;
            }
            worthwhile -= 1;
            match self.record_step(hart, outside, start) {
                Recorded::Step(step, class) => {
                    carried_out = Some(None);
                    steps.push(step);
                    if class.is_privileged() {
                        useful = steps.len();
                    }
                }
                Recorded::Left(left) => {
                    carried_out = Some(left);
                    break;
                }
                Recorded::Not => break,
            }
        }
        steps.truncate(useful);
        self.processor.keep(self.shadow.tag(), start, missing, &steps, guard);
        carried_out
    }

    fn record_step(&mut self, hart: &mut Hart, outside: &Outside<'_>, start: u64) -> Recorded {
        let pc = hart.pc;
        let Ok(bits) = hart.fetch(outside, hart.pc) else { return Recorded::Not };
        let Some(instruction) = decode(bits) else { return Recorded::Not };
        let (Some(class), length) = (class(&instruction), u64::from(instruction.length)) else {
            return Recorded::Not;
        };
        if pc / PAGE != start / PAGE || pc.wrapping_add(length - 1) / PAGE != start / PAGE {
            return Recorded::Not;
        }
        let exit = if class.is_privileged() {
            self.slice.execute_system(hart, outside, bits, self.processor)
        } else {
            // Integer registers and memory: floating-point registers may stay in the hardware.
            match hart.step_uninterrupted(outside) {
                Exit::Budget => None,
                exit => Some(exit),
            }
        };
        let behind = pc.wrapping_add(length);
        let aim = pc.wrapping_add(instruction.imm as u64);
        let is_on_path = match class {
            Class::Return => true,
            Class::Branch => hart.pc == behind || hart.pc == aim,
            Class::Jump => hart.pc == aim,
            _ => hart.pc == behind,
        };
        if exit.is_some() || !is_on_path {
            return Recorded::Left(exit);
        }
        Recorded::Step(Step { pc, bits, instruction, next: hart.pc }, class)
    }
}

/// How many instructions it is to the next privileged one, itself included, if no branch is taken, and they can all be part of a
/// sequence. The interpreter isn't set to work for those that are cut off in the end.
fn steps_to_privileged(hart: &mut Hart, outside: &Outside<'_>) -> Option<usize> {
    let mut bytes = [0; 4 * (GAP + 1)];
    let translation = hart.translate(outside, GuestVirtual(hart.pc), Access::Execute, 2).ok()?;
    let left = (PAGE - hart.pc % PAGE) as usize;
    let bytes = &mut bytes[..left.min(4 * (GAP + 1))];
    outside.memory().read(translation.physical, bytes).ok()?;
    let mut at = 0;
    for count in 1..=GAP + 1 {
        let half = |at: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
        let low = half(at)?;
        let instruction = decode(if low & 3 == 3 { low | half(at + 2)? << 16 } else { low })?;
        match class(&instruction)? {
            class if class.is_privileged() => return Some(count),
            Class::Jump => at = at.checked_add_signed(instruction.imm as isize)?,
            _ => at += usize::from(instruction.length),
        }
    }
    None
}
