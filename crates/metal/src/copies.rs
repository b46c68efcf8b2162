//! *Copies* of pages of a guest's text, in which hot privileged instructions are `c.ebreak`.
//!
//! Where firmware takes illegal instructions first, each costs a detour through it; breakpoints come directly. So a page
//! of a guest's kernel with such an instruction is copied, the instruction's first half is replaced in the copy, and
//! the shadow tables have the guest's kernel execute the copy, which can't be read. The guest's own memory stays as it is, and
//! so does the second half of each instruction: a jump there does what it ever did.
//!
//! A copy is what the page is, as long as it is there: no table that the hardware uses allows a write to the page, and
//! whoever writes to it by other ways tells ([`written`](Copies::written)). Then the copy goes, and until all harts have
//! stopped executing it the write isn't done.
//!
//! Who runs a guest says so ([`enter`](Copies::enter)) with the generation that its tables are of. What changes here begins
//! a new one, and waits until no hart runs with an older one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::array;
use core::ops::Range;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

use rvisor_waist::GuestPhysical;
use spin::Mutex;

use crate::address::MachineAddress;

/// Copies that a guest may have.
pub const SLOTS: usize = 64;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Copies are counted for each so many bytes.
pub const LARGE: u64 = 2 << 20;
/// How often a page is copied again after it was written to.
const MOST: u8 = 4;
/// Pages of which that is known; then no others are copied.
const KNOWN: usize = 1024;
/// Loads from a page that are emulated before its copy goes.
const LOADS: u32 = 256;
/// `c.ebreak`.
const BREAKPOINT: u16 = 0x9002;

/// A copy: a page in halfwords. What guests execute is followed by what it was made of, for the monitor.
#[repr(C, align(4096))]
pub struct Text {
    executed: Halves,
    original: Halves,
}

type Halves = [AtomicU16; PAGE as usize / 2];

impl Text {
    const fn new() -> Self {
        let executed = [const { AtomicU16::new(0) }; PAGE as usize / 2];
        Self { executed, original: [const { AtomicU16::new(0) }; PAGE as usize / 2] }
    }
}

/// What a copy is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Original {
    /// The page.
    pub page: GuestPhysical,
    /// Where it is.
    pub machine: MachineAddress,
    /// Where the copy is.
    pub copy: MachineAddress,
    /// The copy's place among the guest's.
    pub slot: usize,
    /// No other copy has or had this number.
    pub number: u64,
}

struct Copied {
    original: Original,
    loads: u32,
}

struct State {
    slots: [Option<Copied>; SLOTS],
    /// How often a page's copy went.
    gone: BTreeMap<u64, u8>,
    next: u64,
}

/// The copies of one guest.
pub struct Copies {
    texts: Box<[Text]>,
    machine: MachineAddress,
    base: GuestPhysical,
    /// How many pages of each 2 MiB have copies. Changed with the state locked.
    counts: Box<[AtomicU16]>,
    generation: AtomicU64,
    /// The generation, plus one, that each physical hart runs the guest with; zero while it doesn't.
    inside: Box<[AtomicU64]>,
    interrupt: fn(usize),
    state: Mutex<State>,
}

impl Copies {
    /// Bytes of memory for a guest's copies.
    pub const SIZE: u64 = (SLOTS * size_of::<Text>()) as u64;

    /// None yet, of a guest with this RAM. `locate` tells where the first one will be, which the others follow; `interrupt` makes
    /// a physical hart leave its guest.
    pub fn new(
        ram: &Range<GuestPhysical>,
        harts: usize,
        locate: impl FnOnce(&[Text]) -> MachineAddress,
        interrupt: fn(usize),
    ) -> Self {
        let texts: Box<[Text]> = (0..SLOTS).map(|_| Text::new()).collect();
        let machine = locate(&texts);
        let size = ram.end.0 - ram.start.0;
        Self {
            texts,
            machine,
            base: ram.start,
            counts: (0..size.div_ceil(LARGE)).map(|_| AtomicU16::new(0)).collect(),
            generation: AtomicU64::new(0),
            inside: (0..harts).map(|_| AtomicU64::new(0)).collect(),
            interrupt,
            state: Mutex::new(State { slots: array::from_fn(|_| None), gone: BTreeMap::new(), next: 1 }),
        }
    }

    /// Whether a machine address is a copy's.
    #[must_use]
    pub fn contains(&self, address: MachineAddress) -> bool {
        address.0.wrapping_sub(self.machine.0) < Self::SIZE
    }

    /// The generation, and all copies.
    pub fn all(&self) -> (u64, Vec<Original>) {
        let state = self.state.lock();
        let all = state.slots.iter().flatten().map(|copied| copied.original);
        (self.generation.load(Ordering::SeqCst), all.collect())
    }

    /// How many were made since the monitor started.
    pub fn made(&self) -> u64 {
        self.state.lock().next - 1
    }

    /// The copies of pages in the `size` bytes around an address, which is in RAM: 4 KiB or 2 MiB.
    pub fn near(&self, address: GuestPhysical, size: u64) -> Vec<Original> {
        if self.count(address).load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let is_near = |original: &Original| (original.page.0 ^ address.0) & !(size - 1) == 0;
        let state = self.state.lock();
        state.slots.iter().flatten().map(|copied| copied.original).filter(is_near).collect()
    }

    fn count(&self, address: GuestPhysical) -> &AtomicU16 {
        &self.counts[((address.0 - self.base.0) / LARGE) as usize]
    }

    /// Before a physical hart runs the guest with tables of this generation. False if there is a newer one.
    #[inline]
    pub fn enter(&self, hart: usize, generation: u64) -> bool {
        self.inside[hart].store(generation + 1, Ordering::SeqCst);
        let is_current = self.generation.load(Ordering::SeqCst) == generation;
        if !is_current {
            self.leave(hart);
        }
        is_current
    }

    /// A physical hart runs the guest no more.
    #[inline]
    pub fn leave(&self, hart: usize) {
        self.inside[hart].store(0, Ordering::Release);
    }

    /// Begins a new generation, and waits until no hart runs with an older one.
    fn renew(&self) {
        let old = self.generation.fetch_add(1, Ordering::SeqCst);
        let is_in_the_way = |inside: &AtomicU64| (1..=old + 1).contains(&inside.load(Ordering::SeqCst));
        for (hart, inside) in self.inside.iter().enumerate() {
            if is_in_the_way(inside) {
                (self.interrupt)(hart);
            }
            while is_in_the_way(inside) {
                core::hint::spin_loop();
            }
        }
        fence(Ordering::SeqCst);
    }

    /// The copy of a page, which is at `machine`; made if need be, of what `read` reads. `None` where there can't be one.
    pub fn copy(
        &self,
        page: GuestPhysical,
        machine: MachineAddress,
        read: impl FnOnce(&mut [u8]) -> bool,
    ) -> Option<Original> {
        let mut state = self.state.lock();
        let known = state.slots.iter().flatten().find(|copied| copied.original.page == page);
        if let Some(copied) = known {
            return Some(copied.original);
        }
        let gone = state.gone.get(&page.0).copied();
        if gone.map_or(state.gone.len() >= KNOWN, |times| times >= MOST) {
            return None;
        }
        let slot = state.slots.iter().position(Option::is_none)?;
        let copy = self.machine.offset((size_of::<Text>() * slot) as u64);
        let original = Original { page, machine, copy, slot, number: state.next };
        state.next += 1;
        // From now on writes are told; once no hart has a table from before, the page stays what it is.
        self.count(page).fetch_add(1, Ordering::SeqCst);
        self.renew();
        let mut bytes = [0; PAGE as usize];
        if !read(&mut bytes) {
            self.count(page).fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        for halves in [&self.texts[slot].executed, &self.texts[slot].original] {
            for (half, bytes) in halves.iter().zip(bytes.chunks_exact(2)) {
                half.store(u16::from_le_bytes([bytes[0], bytes[1]]).to_le(), Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
        state.slots[slot] = Some(Copied { original, loads: 0 });
        Some(original)
    }

    /// Replaces the instruction at an offset in a copy, unless that is gone. Harts that fetch what was there before
    /// do what it does.
    pub fn patch(&self, original: &Original, offset: u64) {
        let state = self.state.lock();
        if state.slots[original.slot].as_ref().is_some_and(|copied| copied.original == *original) {
            self.texts[original.slot].executed[(offset % PAGE / 2) as usize]
                .store(BREAKPOINT.to_le(), Ordering::SeqCst);
        }
    }

    /// The instruction at an offset in the page that a copy is of, as long as this generation lasts; `None` afterwards, and where it
    /// doesn't end on the page. What is before a shorter one is zero.
    pub fn instruction(&self, original: &Original, offset: u64, generation: u64) -> Option<u32> {
        let halves = &self.texts[original.slot].original;
        let half = |index: usize| Some(u32::from(u16::from_le(halves.get(index)?.load(Ordering::Relaxed))));
        let index = (offset % PAGE / 2) as usize;
        let low = half(index)?;
        let bits = if low & 3 == 3 { low | half(index + 1)? << 16 } else { low };
        // Only then was nothing else put there meanwhile.
        fence(Ordering::SeqCst);
        (self.generation.load(Ordering::SeqCst) == generation).then_some(bits)
    }

    /// The page is to be written to, or mapped in a way that a copy isn't made for: its copy goes.
    pub fn remove(&self, page: GuestPhysical) {
        self.remove_where(&mut self.state.lock(), |original| original.page == page);
    }

    /// A load from a page that has a copy is emulated; when there are many, the copy goes.
    pub fn loaded(&self, page: GuestPhysical) {
        let mut state = self.state.lock();
        let Some(copied) = state.slots.iter_mut().flatten().find(|copied| copied.original.page == page)
        else {
            return;
        };
        copied.loads += 1;
        if copied.loads >= LOADS {
            self.remove_where(&mut state, |original| original.page == page);
        }
    }

    fn remove_where(&self, state: &mut State, is_meant: impl Fn(&Original) -> bool) {
        let mut pages = Vec::new();
        for slot in &mut state.slots {
            if let Some(copied) = slot.take_if(|copied| is_meant(&copied.original)) {
                pages.push(copied.original.page);
            }
        }
        if pages.is_empty() {
            return;
        }
        self.renew();
        for page in pages {
            let times = state.gone.entry(page.0).or_default();
            *times = times.saturating_add(1);
            self.count(page).fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whoever writes to the guest's RAM, other than by the hardware's tables, calls this before and after; the range is
    /// inside.
    #[inline]
    pub fn written(&self, address: GuestPhysical, length: u64) {
        fence(Ordering::SeqCst);
        if length == 0 {
            return;
        }
        let (first, last) = (address.0 - self.base.0, address.0 - self.base.0 + (length - 1));
        let counts = &self.counts[(first / LARGE) as usize..=(last / LARGE) as usize];
        if counts.iter().any(|count| count.load(Ordering::SeqCst) != 0) {
            self.remove_written(address, length);
        }
    }

    #[cold]
    fn remove_written(&self, address: GuestPhysical, length: u64) {
        let is_hit = |original: &Original| {
            let page = original.page.0;
            page < address.0 + length && address.0 < page + PAGE
        };
        self.remove_where(&mut self.state.lock(), is_hit);
    }

    /// The guest is off, and what it knows of its memory void.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        self.remove_where(&mut state, |_| true);
        state.gone.clear();
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use core::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    const RAM: GuestPhysical = GuestPhysical(0x8000_0000);
    const MACHINE: MachineAddress = MachineAddress(0x9000_0000);
    const COPIES: MachineAddress = MachineAddress(0xa000_0000);

    fn copies(interrupt: fn(usize)) -> Copies {
        Copies::new(&(RAM..RAM.offset(4 << 20)), 2, |_| COPIES, interrupt)
    }

    fn copy(copies: &Copies, page: u64) -> Option<Original> {
        copies.copy(RAM.offset(page), MACHINE.offset(page), |bytes| {
            bytes.fill(0x73);
            true
        })
    }

    fn half(copies: &Copies, original: &Original, offset: usize) -> u16 {
        u16::from_le(copies.texts[original.slot].executed[offset / 2].load(Ordering::Relaxed))
    }

    #[test]
    fn copy_differs_in_the_first_half_of_what_is_patched() {
        let copies = copies(|_| panic!("nobody is inside"));
        let original = copy(&copies, 0x3000).unwrap();
        assert_eq!(copy(&copies, 0x3000), Some(original));
        // The last two bytes of the page: the instruction's second half is on the next one.
        copies.patch(&original, 0x6);
        copies.patch(&original, 0xffe);
        for offset in (0..0x1000).step_by(2) {
            let expected = if matches!(offset, 6 | 0xffe) { 0x9002 } else { 0x7373 };
            assert_eq!(half(&copies, &original, offset), expected);
        }
        let (generation, _) = copies.all();
        let instruction = |offset, generation| copies.instruction(&original, offset, generation);
        assert_eq!(instruction(6, generation), Some(0x7373_7373));
        assert_eq!((instruction(0xffe, generation), instruction(6, generation - 1)), (None, None));
    }

    #[test]
    fn write_to_any_byte_of_the_page_removes_its_copy_alone() {
        let copies = copies(|_| ());
        let (one, two) = (copy(&copies, 0x3000).unwrap(), copy(&copies, 0x20_0000).unwrap());
        for (address, length) in [(0x2ff8, 8), (0x4000, 8), (0x3000, 0)] {
            copies.written(RAM.offset(address), length);
        }
        let (generation, all) = copies.all();
        assert_eq!(all, [one, two]);
        assert_eq!(copies.near(RAM.offset(0x3ff8), PAGE), [one]);
        assert_eq!((copies.near(RAM, PAGE), copies.near(RAM, LARGE)), (Vec::new(), alloc::vec![one]));
        for (address, length) in [(0x2fff, 2), (0x3fff, 1), (0x3800, 0x10_0000)] {
            copies.written(RAM.offset(address), length);
            assert_eq!(copies.all().1, [two]);
            copy(&copies, 0x3000).unwrap();
        }
        assert_eq!(copies.all().0, generation + 6);
        copies.written(RAM, 4 << 20);
        assert_eq!(copies.all().1, []);
        assert!(copies.near(RAM, LARGE).is_empty());
    }

    #[test]
    fn page_that_is_written_to_again_and_again_is_copied_no_more() {
        let copies = copies(|_| ());
        for _ in 0..MOST {
            assert!(copy(&copies, 0).is_some());
            copies.remove(RAM);
        }
        assert_eq!(copy(&copies, 0), None);
        assert!(copy(&copies, 0x1000).is_some());
        // Switched off and on, it is another.
        copies.clear();
        assert!(copy(&copies, 0).is_some());
    }

    #[test]
    fn copies_and_what_is_known_of_pages_have_limits() {
        let copies = copies(|_| ());
        assert_eq!((0..100).filter(|page| copy(&copies, page * PAGE).is_some()).count(), SLOTS);
        for page in 0..1024 {
            copies.written(RAM, 4 << 20);
            copy(&copies, page % 1024 * PAGE);
        }
        assert!(copies.state.lock().gone.len() <= KNOWN + SLOTS);
    }

    #[test]
    fn many_loads_remove_the_copy() {
        let copies = copies(|_| ());
        copy(&copies, 0x3000).unwrap();
        (1..LOADS).for_each(|_| copies.loaded(RAM.offset(0x3000)));
        assert_eq!(copies.all().1.len(), 1);
        copies.loaded(RAM.offset(0x3000));
        assert_eq!(copies.all().1.len(), 0);
    }

    #[test]
    fn removed_copy_takes_no_patch() {
        let copies = copies(|_| ());
        let old = copy(&copies, 0x3000).unwrap();
        copies.remove(old.page);
        let new = copy(&copies, 0x5000).unwrap();
        assert_eq!(old.slot, new.slot);
        copies.patch(&old, 0);
        assert_eq!(half(&copies, &new, 0), 0x7373);
    }

    #[test]
    fn tables_of_an_older_generation_are_not_entered_with() {
        let copies = copies(|_| ());
        let (before, _) = copies.all();
        assert!(copies.enter(1, before));
        copies.leave(1);
        copy(&copies, 0).unwrap();
        assert!(!copies.enter(1, before));
        assert!(copies.enter(1, copies.all().0));
    }

    #[test]
    fn removal_waits_for_harts_that_run_the_copy_and_for_no_others() {
        static INTERRUPTED: AtomicUsize = AtomicUsize::new(0);
        let copies = Arc::new(copies(|hart| _ = INTERRUPTED.fetch_or(1 << hart, Ordering::SeqCst)));
        copy(&copies, 0).unwrap();
        let (generation, _) = copies.all();
        assert!(copies.enter(1, generation));
        let remover = thread::spawn({
            let copies = Arc::clone(&copies);
            move || copies.remove(RAM)
        });
        while INTERRUPTED.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert!(!remover.is_finished());
        // It leaves, and comes again with the tables of today.
        copies.leave(1);
        assert!(copies.enter(1, generation + 1));
        remover.join().unwrap();
        assert_eq!(INTERRUPTED.load(Ordering::SeqCst), 2);
    }
}
