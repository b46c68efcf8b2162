//! Guests are switched on and off.

use core::sync::atomic::Ordering;

use rvisor_machine::PowerRequest;

use super::{Home, say};
use crate::arch;
use crate::guest::{Guest, StartError};
use crate::stuck::Watch;

impl Home {
    /// Switches on the guests that start by themselves. Those that can't are told of; false if that is all of them.
    pub fn start_guests(&self) -> bool {
        let mut has_started = false;
        for (index, guest) in self.guests.iter().enumerate().filter(|(_, guest)| guest.bundled.autostart) {
            match self.start(index) {
                Ok(()) => has_started = true,
                Err(error) => say(format_args!("error: guest {}: {error}", guest.bundled.name)),
            }
        }
        has_started
    }

    /// Switches a guest on.
    pub fn start(&self, index: usize) -> Result<(), StartError> {
        let _power = self.power.lock();
        let guest = &self.guests[index];
        if guest.is_on.load(Ordering::SeqCst) || !self.is_off(guest, &self.queue.lock()) {
            return Err(StartError::On);
        }
        self.power_on(index)
    }

    fn power_on(&self, index: usize) -> Result<(), StartError> {
        let guest = &self.guests[index];
        // What the tables map is given back.
        for id in &guest.tasks {
            self.tasks[*id].1.lock().tables.clear();
        }
        let harts = self.first_harts(guest)?;
        self.hardware.forget(index);
        let now = arch::now();
        guest.since.store(now, Ordering::SeqCst);
        for (hart, id) in harts.into_iter().zip(&guest.tasks) {
            let mut task = self.tasks[*id].1.lock();
            task.hart = hart;
            task.watch = Watch::default();
            drop(task);
            let wake = self.queue.lock().start(*id, now);
            self.carry_out(wake);
        }
        Ok(())
    }

    /// Asks a guest to end, paused or not.
    pub fn ask(&self, guest: &Guest, request: PowerRequest) {
        self.queue.lock().pause(guest.group, false);
        guest.vm.request_power(request);
        self.interrupt_others();
    }

    /// All harts of a guest are off: it starts again, or has ended.
    pub(super) fn end(&self, index: usize) {
        let guest = &self.guests[index];
        let request = guest.vm.power_requested();
        self.report_end(guest, request);
        let power = self.power.lock();
        for id in &guest.tasks {
            self.tasks[*id].1.lock().tables.clear();
        }
        guest.power_off();
        if request == Some(PowerRequest::Reset) {
            match self.power_on(index) {
                Ok(()) => return,
                Err(error) => say(format_args!("error: guest {}: {error}", guest.bundled.name)),
            }
        }
        if matches!(request, Some(PowerRequest::Fail(_))) {
            self.failed.store(true, Ordering::SeqCst);
        }
        drop(power);
        // Who is at the prompt may want to start one.
        if !self.terminal.is_at_prompt() {
            self.shut_down_if_idle();
        }
    }

    /// Switches the hardware off when no guest is on.
    pub(super) fn shut_down_if_idle(&self) {
        if !self.guests.iter().any(|guest| guest.is_on.load(Ordering::SeqCst)) {
            arch::shut_down(self.failed.load(Ordering::SeqCst));
        }
    }
}
