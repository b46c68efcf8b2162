//! What the prompt's commands do.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use rvisor_machine::PowerRequest;

use super::{Home, say};
use crate::engine::Trace;
use crate::guest::Guest;
use crate::monitor::command::{self, Command};

impl Home {
    /// Carries out a line that was entered at the prompt.
    pub(super) fn command(&self, line: &str) {
        let names: Vec<_> = self.guests.iter().map(|guest| guest.bundled.name).collect();
        match command::parse(line, &names) {
            Ok(command) => self.carry_out_command(command),
            Err(error) => say(format_args!("{error}")),
        }
    }

    fn carry_out_command(&self, command: Command) {
        match command {
            Command::Nothing => {}
            Command::Help => command::help().for_each(|line| say(format_args!("{line}"))),
            Command::List => (0..self.guests.len()).for_each(|index| self.list(index)),
            Command::Start(index) => {
                if let Err(error) = self.start(index) {
                    say(format_args!("{}: {error}", self.guests[index].bundled.name));
                }
            }
            Command::Stop(index) => self.with_guest(index, |guest| self.ask(guest, PowerRequest::PowerOff)),
            Command::Restart(index) => self.with_guest(index, |guest| self.ask(guest, PowerRequest::Reset)),
            Command::Pause(index) => {
                self.with_guest(index, |guest| self.queue.lock().pause(guest.group, true));
            }
            Command::Resume(index) => self.with_guest(index, |guest| self.resume(guest)),
            Command::Save(index) => match self.save(index) {
                Ok(bytes) => {
                    say(format_args!("{}: {} KiB saved", self.guests[index].bundled.name, bytes >> 10))
                }
                Err(error) => say(format_args!("{}: {error}", self.guests[index].bundled.name)),
            },
            Command::Console(index) => self.terminal.focus(index),
            Command::Stats(Some(index)) => self.statistics(index),
            Command::Stats(None) => {
                (0..self.guests.len()).for_each(|index| self.statistics(index));
                self.hart_statistics();
            }
            Command::Trace(index) => self.with_guest(index, |guest| self.trace(guest)),
            Command::PowerOff => {
                for guest in self.guests.iter().filter(|guest| guest.is_on.load(Ordering::SeqCst)) {
                    self.ask(guest, PowerRequest::PowerOff);
                }
                // The last guest's end does it, once the prompt isn't in the way.
                self.terminal.leave_prompt();
                self.shut_down_if_idle();
            }
        }
    }

    /// Does something to a guest that is on.
    fn with_guest(&self, index: usize, act: impl FnOnce(&Guest)) {
        let guest = &self.guests[index];
        if guest.is_on.load(Ordering::SeqCst) {
            act(guest);
        } else {
            say(format_args!("{} is off; start it first", guest.bundled.name));
        }
    }

    fn resume(&self, guest: &Guest) {
        self.queue.lock().pause(guest.group, false);
        self.interrupt_others();
    }

    /// Has whichever of a guest's harts comes first show a system call and a TLB miss; or cancels that, if it waits for them.
    fn trace(&self, guest: &Guest) {
        let name = guest.bundled.name;
        let traces = || guest.tasks.iter().map(|id| self.tasks[*id].1.lock());
        let waiting = traces().filter_map(|mut task| task.trace.take()).filter(Trace::is_waiting).count();
        if waiting != 0 {
            say(format_args!("{name}: nothing is traced any more"));
            return;
        }
        let is_told = Arc::default();
        traces().for_each(|mut task| task.trace = Some(task.tables.new_trace(Arc::clone(&is_told))));
        say(format_args!(
            "{name}: its next system call and TLB miss will be shown; trace again cancels that"
        ));
    }
}
