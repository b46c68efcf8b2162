//! Which pages of RAM an engine keeps translated code of, and which of them were written to since.
//!
//! The architecture lets a hart go on with stale code until it executes `fence.i` (Unprivileged ISA,
//! "Zifencei"). So a write to a page with code is only noted; whoever executes `fence.i` takes the notes and
//! compares. Everything that writes to RAM calls [`CodePages::note_write`]; an engine that writes by itself
//! must look at [`CodePages::is_clean`] before it lets stores through unseen.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use spin::Mutex;

use crate::{GuestPhysical, PAGE_SIZE};

const NO_CODE: u8 = 0;
/// Has code, and wasn't written to since that was looked at.
const CLEAN: u8 = 1;
/// Has code, and is among the noted.
const WRITTEN: u8 = 2;

/// States of the pages of one VM's RAM.
pub struct CodePages {
    first: GuestPhysical,
    states: Box<[AtomicU8]>,
    written: Mutex<Vec<GuestPhysical>>,
    /// Length of `written`; one more while a page is being noted.
    count: AtomicUsize,
}

impl CodePages {
    /// No code anywhere in `size` bytes of RAM from `first`.
    #[must_use]
    pub fn new(first: GuestPhysical, size: u64) -> Self {
        let pages = size.div_ceil(PAGE_SIZE) as usize;
        Self {
            first: first.page(),
            states: (0..pages).map(|_| AtomicU8::new(NO_CODE)).collect(),
            written: Mutex::new(Vec::new()),
            count: AtomicUsize::new(0),
        }
    }

    #[inline(always)]
    fn state(&self, address: GuestPhysical) -> Option<&AtomicU8> {
        self.states.get((address.0.wrapping_sub(self.first.0) / PAGE_SIZE) as usize)
    }

    /// Whether writes to the page must be noted.
    #[inline(always)]
    #[must_use]
    pub fn is_clean(&self, address: GuestPhysical) -> bool {
        self.state(address).is_some_and(|state| state.load(Ordering::Relaxed) == CLEAN)
    }

    /// Whether the page was written to since it was watched: what code there is of it may be out of date.
    #[must_use]
    pub fn is_written(&self, address: GuestPhysical) -> bool {
        self.state(address).is_some_and(|state| state.load(Ordering::Relaxed) == WRITTEN)
    }

    /// Notes a write of `length` bytes that is about to be made, or was just made.
    #[inline(always)]
    pub fn note_write(&self, address: GuestPhysical, length: u64) {
        let at_ends = self.is_clean(address) || length > 1 && self.is_clean(address.offset(length - 1));
        if at_ends || length > PAGE_SIZE {
            self.note_pages(address, length);
        }
    }

    #[cold]
    fn note_pages(&self, address: GuestPhysical, length: u64) {
        let mut page = address.page();
        while page.0 < address.0.saturating_add(length) {
            if let Some(state) = self.state(page).filter(|_| self.is_clean(page)) {
                // Others that write to the page note nothing once its state says so: by then their `fence.i`
                // must find that there is something, and wait for it.
                let mut written = self.written.lock();
                self.count.store(written.len() + 1, Ordering::SeqCst);
                if state.compare_exchange(CLEAN, WRITTEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    written.push(page);
                }
                self.count.store(written.len(), Ordering::SeqCst);
            }
            page = page.offset(PAGE_SIZE);
        }
    }

    /// Says that the page has code now, looked at from this moment on: writes are noted again.
    pub fn watch(&self, page: GuestPhysical) {
        if let Some(state) = self.state(page) {
            state.store(CLEAN, Ordering::SeqCst);
        }
    }

    /// Says that the page has no code any more.
    pub fn forget(&self, page: GuestPhysical) {
        if let Some(state) = self.state(page) {
            state.store(NO_CODE, Ordering::SeqCst);
        }
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
    fn write_outside_ram_does_nothing() {
        let pages = CodePages::new(GuestPhysical(0x8000_0000), 0x1000);
        pages.note_write(GuestPhysical(0), 8);
        pages.note_write(GuestPhysical(u64::MAX - 4), 4);
        assert!(!pages.has_written());
    }
}
