//! Running both machines, and comparing them.

use super::*;

impl World {
    /// Runs the translator for a while, and the interpreter as far, until they have done enough.
    pub(super) fn run(&mut self, budget: u64, mut replay: Option<&mut Replay>) -> Result<(), String> {
        let end = self.translated.hart.hart.retired + budget;
        for _ in 0..20 {
            let left = end.wrapping_sub(self.translated.hart.hart.retired) as i64;
            if left <= 0 {
                break;
            }
            let before = self.translated.hart.hart.retired;
            let Machine { vm, hart } = &mut self.translated;
            let exit = self.engine.run(hart, vm, left as u64);
            self.exits += 1;
            self.instructions += hart.hart.retired.wrapping_sub(before);
            self.follow(exit, replay.as_deref_mut())?;
            if self.reference.ram() != self.translated.ram() {
                return Err(memory_differences(&self.reference, &self.translated));
            }
            match exit {
                Exit::Device(access) => {
                    let result = if access.address.0 % 64 == 24 {
                        Err(OutOfRange)
                    } else {
                        Ok(access.address.0 ^ 0xa5a5)
                    };
                    self.translated.hart.hart.finish_device_access(&access, result);
                    self.reference.hart.hart.finish_device_access(&access, result);
                }
                Exit::SbiCall => {
                    for machine in [&mut self.translated, &mut self.reference] {
                        machine.hart.hart.pc = machine.hart.hart.pc.wrapping_add(4);
                    }
                }
                Exit::Budget | Exit::WaitForInterrupt => break,
            }
        }
        Ok(())
    }

    /// Steps the interpreter to where the translator is.
    fn follow(&mut self, exit: Exit, mut replay: Option<&mut Replay>) -> Result<(), String> {
        /// Traps in a row that don't retire anything before giving up.
        const TRAPS: u32 = 400;
        let mut traps = 0;
        let mut first = None;
        loop {
            let (reference, translated) = (&self.reference.hart.hart, &self.translated.hart.hart);
            if reference.retired == translated.retired {
                if exit == Exit::Budget && is_same(reference, translated) {
                    return Ok(());
                }
                if replay.is_some() {
                    // Where both had done as much for the first time tells more than where this gives up.
                    first.get_or_insert_with(|| differences(reference, translated));
                }
            }
            if reference.retired > translated.retired || traps > TRAPS {
                let found = first.unwrap_or_else(|| differences(reference, translated));
                return Err(format!("the translator left with {exit:?}; then\n{found}"));
            }
            let before = reference.retired;
            let found = self.step(replay.as_deref_mut());
            let (reference, translated) = (&self.reference.hart.hart, &self.translated.hart.hart);
            traps = if reference.retired == before { traps + 1 } else { 0 };
            if found != Exit::Budget {
                return if found == exit && is_same(reference, translated) {
                    Ok(())
                } else {
                    let found_differences = differences(reference, translated);
                    Err(format!("interpreter {found:?}, translator {exit:?}\n{found_differences}"))
                };
            }
        }
    }

    /// One step of the interpreter.
    fn step(&mut self, replay: Option<&mut Replay>) -> Exit {
        self.steps += 1;
        if let Some(replay) = replay {
            self.note(replay);
        }
        let before = &self.reference.hart.hart;
        let (epoch, satp, virtualized) = (before.code_epoch(), before.csr.satp, before.virtualized);
        let retired = before.retired;
        let Machine { vm, hart } = &mut self.reference;
        let exit = hart.hart.step(&vm.environment(&vm.harts()[0]));
        let now = hart.hart.csr.satp;
        if now != satp && now != 0 && self.tables.spaces.iter().all(|space| space.satp != now) {
            self.odd_spaces = true;
        }
        if !self.fenced.is_empty() && epoch != hart.hart.code_epoch() {
            self.fenced = self.reference.ram().to_vec();
        }
        if self.stages.is_some() {
            self.odd_spaces |= self.uses_odd_space();
            self.count_virtual(virtualized, retired, exit);
        }
        exit
    }

    /// Notes what is executed next, and whether it is what the last `fence.i` saw.
    fn note(&mut self, replay: &mut Replay) {
        use rvisor_hart::Access;
        let Machine { vm, hart } = &mut self.reference;
        let hart = &mut hart.hart;
        let env = vm.environment(&vm.harts()[0]);
        let pc = hart.pc;
        let text = match hart.translate(&env, GuestVirtual(pc), Access::Execute, 2) {
            Ok(translation) if (RAM..END - 4).contains(&translation.physical.0) => {
                let at = (translation.physical.0 - RAM) as usize;
                let now = &view(vm.memory(), RAM..END)[at..at + 4];
                let bits = u32::from_le_bytes(now.try_into().expect("4 bytes"));
                let size = length(bits);
                self.stale_code |= now[..size] != self.fenced[at..at + size];
                match decode(bits) {
                    Some(i) => format!("{:#x}: {}", translation.physical.0, rvisor_isa::disassemble(&i, pc)),
                    None => format!("{:#x}: illegal {bits:08x}", translation.physical.0),
                }
            }
            Ok(translation) => format!("{:#x}: not RAM", translation.physical.0),
            Err(trap) => format!("{:?}, satp {:#x}", trap.cause, hart.csr.satp),
        };
        let guest = if hart.virtualized { "virtual " } else { "" };
        replay.trace.push(format!("{guest}{:?} {pc:#x} {text}", hart.privilege));
    }
}
