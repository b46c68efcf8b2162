//! A machine's debugger: stops harts, sees and changes their state, lets them go on or step.
//!
//! What speaks to people or programs, such as the [`gdb`](crate::gdb) stub, stands on this. A machine has one debugger at
//! a time.

mod gate;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use rvisor_hart::{DebugPoints, Walk, Watchpoint};
use rvisor_machine::{DebugStop, VirtualHart};
use rvisor_waist::{GuestMemory, GuestPhysical, GuestVirtual, PAGE_SIZE};

use crate::HostClock;
use crate::runner::{HostedVm, Pace};
pub(crate) use gate::DebugGate;

/// What a hart does when its debugger lets the machine go on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Resume {
    /// It runs.
    #[default]
    Run,
    /// It executes one instruction.
    Step,
    /// It stays where it is.
    Hold,
}

/// The debugger of a machine. When it is dropped, all points are gone and the machine goes on.
pub struct Debugger {
    vm: Arc<HostedVm>,
    gate: Arc<DebugGate>,
    clock: HostClock,
    /// Since when all harts are held, and how much time had been left out before.
    stopped: Mutex<Option<(Instant, u64)>>,
}

impl Debugger {
    /// Attaches to a machine and stops it; `on_stop` hears when a hart stops later. `None` if it has a debugger.
    pub(crate) fn attach(
        vm: &Arc<HostedVm>,
        pace: &Pace,
        on_stop: impl Fn(usize, DebugStop) + Send + 'static,
    ) -> Option<Self> {
        if !pace.debug.connect(Box::new(on_stop)) {
            return None;
        }
        let debugger = Self {
            vm: Arc::clone(vm),
            gate: Arc::clone(&pace.debug),
            clock: pace.clock.clone(),
            stopped: Mutex::default(),
        };
        debugger.stop();
        Some(debugger)
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &Arc<HostedVm> {
        &self.vm
    }

    /// Stops all harts. The guest's time stands still from here on. False if they can't be stopped: the machine is
    /// paused, or ends.
    pub fn stop(&self) -> bool {
        self.gate.hold(&self.vm);
        let mut stopped = self.stopped.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stopped.get_or_insert_with(|| (Instant::now(), self.clock.left_out()));
        self.gate.wait(&self.vm)
    }

    /// Lets harts go on; `resume` says how, by the hart's index.
    pub fn resume(&self, resume: impl Fn(usize) -> Resume) {
        for index in 0..self.vm.harts().len() {
            let steps = resume(index) == Resume::Step;
            self.hart(index, move |hart, _| hart.set_stepping(steps));
        }
        self.go();
        self.gate.release(&self.vm, |index| resume(index) != Resume::Hold);
    }

    /// Time goes on: what a pause has left out meanwhile isn't left out again.
    fn go(&self) {
        let stopped = self.stopped.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some((since, before)) = stopped {
            let paused = std::time::Duration::from_nanos(self.clock.left_out().saturating_sub(before));
            self.clock.leave_out(since.elapsed().saturating_sub(paused));
        }
    }

    /// Makes these the machine's points; its harts are stopped.
    pub fn set_points(&self, breakpoints: BTreeSet<u64>, watchpoints: Vec<Watchpoint>) {
        self.vm.debug().set_points(DebugPoints { breakpoints, watchpoints });
    }

    /// Does something with a hart. `None` if that isn't possible: the machine is paused, or ends.
    pub fn hart<T: Send + 'static>(
        &self,
        index: usize,
        job: impl FnOnce(&mut VirtualHart, &HostedVm) -> T + Send + 'static,
    ) -> Option<T> {
        self.gate.visit(&self.vm, index, job)
    }

    /// Where the page tables of a hart lead from an address.
    pub fn walk(&self, index: usize, address: u64) -> Option<Walk> {
        self.hart(index, move |hart, vm| hart.hart.inspect_translation(vm.memory(), GuestVirtual(address)))
    }

    /// Reads RAM at a guest virtual address of a hart, as far as it is mapped.
    pub fn read(&self, index: usize, address: u64, length: usize) -> Option<Vec<u8>> {
        self.hart(index, move |hart, vm| {
            let mut bytes = Vec::new();
            for (at, length) in pieces(address, length) {
                let walk = hart.hart.inspect_translation(vm.memory(), GuestVirtual(at));
                let Some((physical, _)) = walk.physical else { break };
                let mut piece = vec![0; length];
                if vm.memory().read(physical, &mut piece).is_err() {
                    break;
                }
                bytes.extend(piece);
            }
            bytes
        })
    }

    /// Writes RAM at a guest virtual address of a hart: all or nothing. False if not all of it is mapped to RAM.
    pub fn write(&self, index: usize, address: u64, bytes: &[u8]) -> bool {
        let bytes = bytes.to_vec();
        let written = self.hart(index, move |hart, vm| {
            let mut places = Vec::new();
            for (at, length) in pieces(address, bytes.len()) {
                let walk = hart.hart.inspect_translation(vm.memory(), GuestVirtual(at));
                let (physical, _) = walk.physical?;
                vm.memory().read(physical, &mut vec![0; length]).ok()?;
                places.push((physical, length));
            }
            let mut from = 0;
            for (physical, length) in places {
                vm.memory().write(physical, &bytes[from..from + length]).ok()?;
                from += length;
            }
            Some(())
        });
        self.fence_instructions();
        written.flatten().is_some()
    }

    /// Reads RAM at a guest physical address.
    pub fn read_physical(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let range = self.vm.memory().range();
        let left = range.end.0.checked_sub(address).filter(|_| address >= range.start.0)?;
        let mut bytes = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.vm.memory().read(GuestPhysical(address), &mut bytes).ok()?;
        Some(bytes)
    }

    /// Writes RAM at a guest physical address.
    pub fn write_physical(&self, address: u64, bytes: &[u8]) -> bool {
        let written = self.vm.memory().write(GuestPhysical(address), bytes).is_ok();
        self.fence_instructions();
        written
    }

    /// What was written may be code.
    fn fence_instructions(&self) {
        for index in 0..self.vm.harts().len() {
            self.hart(index, |hart, _| hart.hart.fence_instructions());
        }
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        self.set_points(BTreeSet::new(), Vec::new());
        for index in 0..self.vm.harts().len() {
            if self.vm.power_requested().is_none() {
                self.hart(index, |hart, _| hart.set_stepping(false));
            }
        }
        self.go();
        self.gate.disconnect(&self.vm);
    }
}

/// A range of addresses, cut at page ends: address and length of each piece.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address.wrapping_add(done as u64);
        let piece = (length - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
        done += piece;
        (piece > 0).then_some((at, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_page_ends() {
        let cut = |address, length| pieces(address, length).collect::<Vec<_>>();
        assert_eq!(cut(0x1ffe, 4), [(0x1ffe, 2), (0x2000, 2)]);
        assert_eq!(cut(0x1000, 0x1000), [(0x1000, 0x1000)]);
        assert_eq!(cut(0x1000, 0), []);
        assert_eq!(cut(u64::MAX, 2), [(u64::MAX, 1), (0, 1)]);
    }
}
