//! Moves of guest registers between host registers and the frame, where a trace has other ones in host registers than
//! everything else has. No flags change, and no register that holds no guest register.

use super::assembler::*;
use super::lower::Lowering;
use super::registers::{Assignment, PINNED, Place, slot};
use crate::ir::{HOSTS, Holding, Move};

impl Lowering<'_> {
    /// Where a guest register is.
    pub(super) fn place(&self, guest: u8) -> Place {
        self.assignment.place(guest)
    }

    /// Guest registers are there from now on; nothing is moved.
    pub(super) fn set_assignment(&mut self, assignment: Assignment) {
        (self.assignment, self.before) = (assignment, assignment);
    }

    /// Moves all to where everything but a trace expects them.
    pub(super) fn go_home(&mut self) {
        if self.start.is_none() {
            return;
        }
        self.arrange(Assignment::HOME.held());
        self.set_assignment(Assignment::HOME);
    }

    /// Moves all to where they are at the start of the loop. Returns where they were.
    pub(super) fn go_to_start(&mut self) -> Assignment {
        let before = self.assignment;
        if let Some(start) = self.start {
            self.arrange(&start);
        }
        before
    }

    /// Has the host registers hold these.
    pub(super) fn arrange(&mut self, held: &Holding) {
        let others = |from: &Assignment| {
            let from = *from.held();
            (0..HOSTS).filter(move |&host| from[host] != held[host])
        };
        let from = self.assignment;
        for host in others(&from) {
            self.store_back(host);
        }
        for host in others(&from) {
            self.fill(host, held[host]);
        }
        self.set_assignment(self.assignment.all_changed());
    }

    /// Behind a helper, which found all in their usual places and in the frame: takes those that a trace has elsewhere.
    pub(super) fn come_back(&mut self, to: Option<Assignment>) {
        let Some(to) = to else { return };
        for (host, (&held, &usual)) in to.held().iter().zip(Assignment::HOME.held()).enumerate() {
            if held != usual && held != 0 {
                self.asm.mov(Quad, PINNED[host].1, slot(held));
            }
        }
        self.assignment = to;
    }

    /// What a plan says of a node's registers.
    pub(super) fn move_in(&mut self, &Move { host, guest, fills }: &Move) {
        let host = usize::from(host);
        self.store_back(host);
        self.assignment.hold(host, 0);
        if fills {
            self.fill(host, guest);
            self.before = self.assignment;
        } else {
            self.before = self.assignment;
            self.assignment.hold(host, guest);
        }
    }

    /// The registers, a bit for each, may have been written.
    pub(super) fn wrote(&mut self, guests: u32) {
        match guests.count_ones() {
            0 => {}
            1 => self.assignment.note_written(guests.trailing_zeros() as u8),
            _ => self.assignment = self.assignment.all_changed(),
        }
        self.before = self.assignment;
    }

    /// Gives the frame what a host register holds, if it doesn't have it.
    fn store_back(&mut self, host: usize) {
        if self.assignment.is_changed(host) {
            let held = self.assignment.held()[host];
            self.asm.mov_to_memory(Quad, slot(held), PINNED[host].1);
        }
    }

    fn fill(&mut self, host: usize, guest: u8) {
        self.assignment.hold(host, guest);
        self.asm.mov(Quad, PINNED[host].1, slot(guest));
    }
}
