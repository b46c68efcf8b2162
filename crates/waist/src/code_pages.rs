//! Which pages of RAM an engine keeps translated code of, and which were written to since somebody looked.
//!
//! The architecture lets a hart go on with stale code until it executes `fence.i` (Unprivileged ISA,
//! "Zifencei"). So a write to a page with code is only noted; whoever executes `fence.i` takes the notes and
//! compares. Everything that writes to RAM calls [`CodePages::note_write`]; an engine that writes by itself
//! must look at [`CodePages::notes_writes`] before it lets stores through unseen.
//!
//! The same notes tell which pages are written to at all while somebody [tracks](CodePages::track) that, to copy RAM that
//! a guest goes on changing: each page's first write is noted then. As long as nobody does, that costs nothing: it is
//! one more bit in the byte that is looked at anyway.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use spin::Mutex;

use crate::{GuestPhysical, PAGE_SIZE};

/// A page's state: bits, of which the first two exclude each other. Has code, and wasn't written to since that was looked
/// at.
const CLEAN: u8 = 1;
/// Has code, and is among the noted.
const WRITTEN: u8 = 2;
/// Wasn't written to since somebody who tracks writes has looked.
const UNTOUCHED: u8 = 4;

/// States of the pages of one VM's RAM.
pub struct CodePages {
    first: GuestPhysical,
    states: Box<[AtomicU8]>,
    written: Mutex<Vec<GuestPhysical>>,
    /// Length of `written`; one more while a page is being noted.
    count: AtomicUsize,
    /// How often pages were made untouched.
    tracked: AtomicU32,
}

impl CodePages {
    /// No code anywhere in `size` bytes of RAM from `first`.
    #[must_use]
    pub fn new(first: GuestPhysical, size: u64) -> Self {
        let pages = size.div_ceil(PAGE_SIZE) as usize;
        Self {
            first: first.page(),
            states: (0..pages).map(|_| AtomicU8::new(0)).collect(),
            written: Mutex::new(Vec::new()),
            count: AtomicUsize::new(0),
            tracked: AtomicU32::new(0),
        }
    }

    #[inline(always)]
    fn state(&self, address: GuestPhysical) -> Option<&AtomicU8> {
        self.states.get((address.0.wrapping_sub(self.first.0) / PAGE_SIZE) as usize)
    }

    #[inline(always)]
    fn has(&self, address: GuestPhysical, bits: u8) -> bool {
        self.state(address).is_some_and(|state| state.load(Ordering::Relaxed) & bits != 0)
    }

    /// Whether writes to the page must be noted.
    #[inline(always)]
    #[must_use]
    pub fn notes_writes(&self, address: GuestPhysical) -> bool {
        self.has(address, CLEAN | UNTOUCHED)
    }

    /// Whether the page has code, and wasn't written to since that was looked at.
    #[must_use]
    pub fn is_clean(&self, address: GuestPhysical) -> bool {
        self.has(address, CLEAN)
    }

    /// Whether the page was written to since it was watched: what code there is of it may be out of date.
    #[must_use]
    pub fn is_written(&self, address: GuestPhysical) -> bool {
        self.has(address, WRITTEN)
    }

    /// Notes a write of `length` bytes that is about to be made, or was just made.
    #[inline(always)]
    pub fn note_write(&self, address: GuestPhysical, length: u64) {
        let at_ends =
            self.notes_writes(address) || length > 1 && self.notes_writes(address.offset(length - 1));
        if at_ends || length > PAGE_SIZE {
            self.note_pages(address, length);
        }
    }

    #[cold]
    fn note_pages(&self, address: GuestPhysical, length: u64) {
        let mut page = address.page();
        while page.0 < address.0.saturating_add(length) {
            if let Some(state) = self.state(page) {
                if state.load(Ordering::Relaxed) & UNTOUCHED != 0 {
                    state.fetch_and(!UNTOUCHED, Ordering::SeqCst);
                }
                if state.load(Ordering::Relaxed) & CLEAN != 0 {
                    self.note_code(page, state);
                }
            }
            page = page.offset(PAGE_SIZE);
        }
    }

    fn note_code(&self, page: GuestPhysical, state: &AtomicU8) {
        // Others that write to the page note nothing once its state says so: by then their `fence.i`
        // must find that there is something, and wait for it.
        let mut written = self.written.lock();
        self.count.store(written.len() + 1, Ordering::SeqCst);
        let noted = |state: u8| (state & CLEAN != 0).then_some(state & !CLEAN | WRITTEN);
        if state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, noted).is_ok() {
            written.push(page);
        }
        self.count.store(written.len(), Ordering::SeqCst);
    }

    /// Says that the page has code now, looked at from this moment on: writes are noted again.
    pub fn watch(&self, page: GuestPhysical) {
        self.set_code(page, CLEAN);
    }

    /// Says that the page has no code any more.
    pub fn forget(&self, page: GuestPhysical) {
        self.set_code(page, 0);
    }

    fn set_code(&self, page: GuestPhysical, code: u8) {
        if let Some(state) = self.state(page) {
            let set = |state: u8| Some(state & UNTOUCHED | code);
            // It always has something to set.
            let _ = state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
        }
    }

    /// Begins to note each page's first write. No hart runs meanwhile, and all look at [`tracked`](Self::tracked) before
    /// they go on.
    pub fn track(&self) {
        for state in &self.states {
            state.fetch_or(UNTOUCHED, Ordering::SeqCst);
        }
        self.tracked.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes which pages were written to since [`track`](Self::track) or the last time, in order, by their numbers from
    /// the beginning of RAM. As with `track`, no hart runs; devices may: what they write is noted behind it, so that a
    /// page of which half is written now is among the next.
    pub fn take_touched(&self, mut take: impl FnMut(u64)) {
        for (number, state) in (0..).zip(&self.states) {
            if state.load(Ordering::SeqCst) & UNTOUCHED == 0 {
                state.fetch_or(UNTOUCHED, Ordering::SeqCst);
                take(number);
            }
        }
        self.tracked.fetch_add(1, Ordering::SeqCst);
    }

    /// How many pages there are that [`take_touched`](Self::take_touched) would take.
    #[must_use]
    pub fn count_touched(&self) -> u64 {
        self.states.iter().filter(|state| state.load(Ordering::Relaxed) & UNTOUCHED == 0).count() as u64
    }

    /// Ends the tracking.
    pub fn stop_tracking(&self) {
        for state in &self.states {
            state.fetch_and(!UNTOUCHED, Ordering::SeqCst);
        }
    }

    /// Changes whenever pages that an engine has let stores through to are to be noted again. An engine that lets
    /// stores through unseen gives up all such rights when this isn't what it was.
    #[inline(always)]
    #[must_use]
    pub fn tracked(&self) -> u32 {
        self.tracked.load(Ordering::Relaxed)
    }

    /// Whether [`take_written`](Self::take_written) has something.
    #[inline(always)]
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }

    /// Takes the notes: pages written to since they were watched. Each is unwatched until
    /// [`watch`](Self::watch) or [`forget`](Self::forget) is called.
    pub fn take_written(&self) -> Vec<GuestPhysical> {
        let mut written = self.written.lock();
        self.count.store(0, Ordering::SeqCst);
        core::mem::take(&mut *written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: GuestPhysical = GuestPhysical(0x8000_3000);

    #[test]
    fn write_to_watched_page_is_noted_once() {
        let pages = CodePages::new(GuestPhysical(0x8000_0000), 0x10_0000);
        pages.note_write(PAGE, 8);
        assert!(!pages.has_written());
        pages.watch(PAGE);
        pages.note_write(PAGE.offset(8), 1);
        pages.note_write(PAGE.offset(0xfff), 2);
        assert!(pages.has_written());
        assert_eq!(pages.take_written(), [PAGE]);
        pages.note_write(PAGE, 8);
        assert!(!pages.has_written());
    }

    #[test]
    fn write_that_only_passes_through_is_noted() {
        let pages = CodePages::new(GuestPhysical(0x8000_0000), 0x10_0000);
        pages.watch(PAGE);
        pages.note_write(GuestPhysical(0x8000_2fff), 2);
        pages.watch(PAGE.offset(0x2000));
        pages.note_write(GuestPhysical(0x8000_0000), 0x10_0000);
        assert_eq!(pages.take_written(), [PAGE, PAGE.offset(0x2000)]);
    }

    #[test]
    fn first_write_to_each_page_is_noted_while_that_is_tracked() {
        let pages = CodePages::new(GuestPhysical(0x8000_0000), 0x1_0000);
        let touched = || {
            let mut touched = Vec::new();
            pages.take_touched(|page| touched.push(page));
            touched
        };
        pages.note_write(PAGE, 8);
        let before = pages.tracked();
        pages.track();
        assert_ne!(pages.tracked(), before);
        assert_eq!(pages.count_touched(), 0);
        pages.note_write(PAGE.offset(0xfff), 2);
        pages.note_write(GuestPhysical(0x8000_0000), 1);
        assert!(!pages.notes_writes(PAGE), "it is noted once");
        assert_eq!(pages.count_touched(), 3);
        assert_eq!(touched(), [0, 3, 4]);
        assert!(pages.notes_writes(PAGE));
        assert_eq!(touched(), []);
        pages.stop_tracking();
        assert!(!pages.notes_writes(PAGE));
    }

    #[test]
    fn code_and_tracking_keep_apart() {
        let pages = CodePages::new(GuestPhysical(0x8000_0000), 0x1_0000);
        pages.track();
        pages.watch(PAGE);
        pages.note_write(PAGE, 1);
        assert!(pages.is_written(PAGE) && pages.count_touched() == 1);
        assert_eq!(pages.take_written(), [PAGE]);
        pages.take_touched(|_| ());
        pages.watch(PAGE);
        pages.stop_tracking();
        assert!(pages.is_clean(PAGE));
        pages.track();
        pages.forget(PAGE);
        assert!(pages.notes_writes(PAGE) && !pages.is_clean(PAGE));
    }

    #[test]
    fn write_outside_ram_does_nothing() {
        let pages = CodePages::new(GuestPhysical(0x8000_0000), 0x1000);
        pages.note_write(GuestPhysical(0), 8);
        pages.note_write(GuestPhysical(u64::MAX - 4), 4);
        assert!(!pages.has_written());
    }
}
