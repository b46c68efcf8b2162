//! Cache of translations: a software TLB for loads, one for stores, one for fetches.
//!
//! A hit must cost a handful of host instructions, so everything that decides whether an entry may be used
//! (address space, privilege, SUM, MXR) is folded into one number, the *context*, which shares a word with
//! the page's address: one comparison decides. Walking page tables is [`mmu`](crate::mmu)'s.
//!
//! Source: Privileged ISA, "Supervisor Address Translation and Protection (satp) Register" and
//! "Supervisor Memory-Management Fence Instruction".

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rvisor_isa::Privilege;
use rvisor_waist::{GuestPhysical, GuestVirtual, PAGE_SIZE};

use crate::mmu::{Access, Translation, TranslationContext};

/// Entries of each direct-mapped array.
const ENTRIES: usize = 512;
const PAGE_MASK: u64 = !(PAGE_SIZE - 1);

/// A context holds the space's number above three bits: may use user pages, may use supervisor pages, MXR.
const USER: u64 = 1;
const SUPERVISOR: u64 = 2;
const EXECUTABLE_READABLE: u64 = 4;
const SPACE_SHIFT: u32 = 3;
const SPACE_MASK: u64 = PAGE_SIZE - (1 << SPACE_SHIFT);
/// Spaces: M-mode; S- and U-mode without translation; virtual machines without and with a first stage of
/// translation; and one for each ASID in use. All of the last kind have the highest bit set: a global mapping
/// belongs to them alone. The last number that fits stays unused, so that [`Entry::EMPTY`] matches nothing.
const SPACE_MACHINE: u64 = 0;
const SPACE_BARE: u64 = 1;
const SPACE_GUEST_BARE: u64 = 2;
const SPACE_GUEST: u64 = 64;
const SPACE_END: u64 = (PAGE_SIZE >> SPACE_SHIFT) - 1;
const SPACE_FIRST: u64 = (PAGE_SIZE >> SPACE_SHIFT) / 2;
const TRANSLATED: u64 = SPACE_FIRST << SPACE_SHIFT;
/// Contexts from this one on tell user pages from supervisor pages.
const HAS_PAGES: u64 = SPACE_GUEST << SPACE_SHIFT;

/// What has a number of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SpaceKey {
    /// An ASID.
    Supervisor(u16),
    /// A VMID, and an ASID in it if there is a first stage.
    Guest(u16, Option<u16>),
}

impl SpaceKey {
    /// The first number of its kind, and the number behind the last.
    const fn numbers(self) -> (u64, u64) {
        match self {
            Self::Supervisor(_) => (SPACE_FIRST, SPACE_END),
            Self::Guest(_, None) => (SPACE_GUEST_BARE, SPACE_GUEST),
            Self::Guest(_, Some(_)) => (SPACE_GUEST, SPACE_FIRST),
        }
    }

    const fn kind(self) -> usize {
        match self {
            Self::Supervisor(_) => 0,
            Self::Guest(_, None) => 1,
            Self::Guest(_, Some(_)) => 2,
        }
    }
}

/// A fence of what is cached of virtual machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestFence {
    /// Of which one; `None` for all.
    pub vmid: Option<u16>,
    /// Whether the second stage has changed, so that everything is concerned whatever its address.
    pub is_second_stage: bool,
    /// Of which page of the first stage; `None` for all.
    pub address: Option<GuestVirtual>,
    /// Of which address space of the first stage; `None` for all.
    pub asid: Option<u16>,
}

/// One cached translation of a base page.
#[derive(Clone, Copy)]
struct Entry {
    /// Address of the page, and the bits of the context that it needs.
    tag: u64,
    /// The bits of `tag` that count.
    mask: u64,
    /// Guest physical minus guest virtual address.
    addend: u64,
    /// Binary logarithm of the size of the page that the page tables map.
    size_shift: u32,
    /// For fetches: what the interpreter keeps for the page.
    cookie: u32,
}

impl Entry {
    const EMPTY: Self = Self { tag: u64::MAX, mask: u64::MAX, addend: 0, size_shift: 12, cookie: 0 };

    #[inline(always)]
    fn matches(&self, page: u64, context: u64) -> bool {
        ((page | context) ^ self.tag) & self.mask == 0
    }
}

type Array = Box<[Entry; ENTRIES]>;

fn empty() -> Array {
    Box::new([Entry::EMPTY; ENTRIES])
}

#[inline(always)]
fn index(address: u64) -> usize {
    (address / PAGE_SIZE) as usize % ENTRIES
}

/// Translations that loads, stores and fetches may use without a walk.
pub struct Tlb {
    load: Array,
    store: Array,
    fetch: Array,
    data_context: u64,
    fetch_context: u64,
    /// The contexts may be out of date.
    stale: bool,
    /// Numbers of the address spaces in use. A number is never used again before everything is forgotten.
    spaces: BTreeMap<SpaceKey, u64>,
    /// How many numbers of each kind have been given.
    given: [u64; 3],
    /// The space used last, which is the one needed next most often.
    last_space: Option<(SpaceKey, u64)>,
    /// Where entries stem from pages larger than a base page: there, forgetting one address is more than
    /// looking at its own entry.
    large_pages: Span,
    large_global_pages: Span,
    log: FenceLog,
    /// Counts fences, for whatever else caches translations.
    pub fences: u64,
}

/// What was fenced since an engine with translations of its own looked last.
struct FenceLog {
    everything: bool,
    fences: Vec<(Option<GuestVirtual>, Option<u16>)>,
    guests: Vec<GuestFence>,
}

impl FenceLog {
    /// More fences than this are merged into one of everything.
    const CAPACITY: usize = 64;

    fn add(&mut self, address: Option<GuestVirtual>, asid: Option<u16>) {
        if self.everything {
            return;
        }
        if address.is_none() && asid.is_none() || self.fences.len() == Self::CAPACITY {
            self.add_everything();
        } else {
            self.fences.push((address, asid));
        }
    }

    fn add_guest(&mut self, fence: GuestFence) {
        if self.everything {
            return;
        }
        if self.guests.len() == Self::CAPACITY {
            self.add_everything();
        } else {
            self.guests.push(fence);
        }
    }

    fn add_everything(&mut self) {
        self.everything = true;
        self.fences.clear();
        self.guests.clear();
    }
}

/// A range of virtual addresses, which count as signed: a kernel's are all next to each other then.
#[derive(Clone, Copy)]
pub struct Span {
    first: i64,
    last: i64,
}

impl Span {
    /// Of no address.
    pub const EMPTY: Self = Self { first: i64::MAX, last: i64::MIN };

    /// Widens it by the page of `page_size` bytes, a power of two, around an address.
    pub fn add(&mut self, address: u64, page_size: u64) {
        let first = address & !(page_size - 1);
        self.first = self.first.min(first as i64);
        self.last = self.last.max((first + (page_size - 1)) as i64);
    }

    /// Whether the address is between the first and the last.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        (self.first..=self.last).contains(&(address as i64))
    }
}

impl Tlb {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            load: empty(),
            store: empty(),
            fetch: empty(),
            data_context: 0,
            fetch_context: 0,
            stale: true,
            spaces: BTreeMap::new(),
            given: [0; 3],
            last_space: None,
            large_pages: Span::EMPTY,
            large_global_pages: Span::EMPTY,
            log: FenceLog { everything: true, fences: Vec::new(), guests: Vec::new() },
            fences: 0,
        }
    }

    /// Where a load of `size` bytes goes, if that is known. An access that crosses pages isn't.
    #[inline(always)]
    pub fn load(&self, address: u64, size: u64) -> Option<GuestPhysical> {
        let entry = Self::lookup(&self.load, address, size, self.data_context)?;
        Some(GuestPhysical(address.wrapping_add(entry.addend)))
    }

    /// Where a store of `size` bytes goes, if that is known.
    #[inline(always)]
    pub fn store(&self, address: u64, size: u64) -> Option<GuestPhysical> {
        let entry = Self::lookup(&self.store, address, size, self.data_context)?;
        Some(GuestPhysical(address.wrapping_add(entry.addend)))
    }

    /// Where a fetch goes, and the cookie of its page.
    #[inline(always)]
    pub fn fetch(&self, address: u64) -> Option<(GuestPhysical, u32)> {
        let entry = Self::lookup(&self.fetch, address, 1, self.fetch_context)?;
        Some((GuestPhysical(address.wrapping_add(entry.addend)), entry.cookie))
    }

    /// The last byte's page is compared, in the entry of the first byte's: they match only together.
    #[inline(always)]
    fn lookup(array: &[Entry; ENTRIES], address: u64, size: u64, context: u64) -> Option<&Entry> {
        let entry = &array[index(address)];
        let last_page = address.wrapping_add(size - 1) & PAGE_MASK;
        entry.matches(last_page, context).then_some(entry)
    }

    /// Whether [`set_context`](Self::set_context) has to be called before the next look-up.
    #[inline(always)]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Makes look-ups use `context`.
    pub fn set_context(&mut self, context: TranslationContext) {
        self.stale = false;
        let space = match (context.guest, context.asid) {
            (None, None) => SPACE_BARE,
            (None, Some(asid)) => self.space(SpaceKey::Supervisor(asid)),
            (Some(vmid), asid) => self.space(SpaceKey::Guest(vmid, asid)),
        };
        let space_of = |privilege| if privilege == Privilege::Machine { SPACE_MACHINE } else { space };
        let rights = match context.data {
            Privilege::User => USER,
            Privilege::Supervisor if context.sum => USER | SUPERVISOR,
            Privilege::Supervisor | Privilege::Machine => SUPERVISOR,
        };
        let mxr = if context.mxr { EXECUTABLE_READABLE } else { 0 };
        self.data_context = space_of(context.data) << SPACE_SHIFT | rights | mxr;
        let rights = if context.fetch == Privilege::User { USER } else { SUPERVISOR };
        self.fetch_context = space_of(context.fetch) << SPACE_SHIFT | rights;
    }

    fn space(&mut self, key: SpaceKey) -> u64 {
        if let Some((last, space)) = self.last_space
            && last == key
        {
            return space;
        }
        let space = self.spaces.get(&key).copied().unwrap_or_else(|| self.new_space(key));
        self.last_space = Some((key, space));
        space
    }

    fn new_space(&mut self, key: SpaceKey) -> u64 {
        let (first, end) = key.numbers();
        if first + self.given[key.kind()] == end {
            self.flush_all();
            self.stale = false;
        }
        let given = &mut self.given[key.kind()];
        let space = first + *given;
        *given += 1;
        self.spaces.insert(key, space);
        space
    }

    /// Remembers a translation, and what else it says about loads and stores of the page. `cookie` is for
    /// fetches.
    pub fn insert(&mut self, address: GuestVirtual, access: Access, translation: &Translation, cookie: u32) {
        if !translation.whole_page {
            return;
        }
        let slot = index(address.0);
        if access == Access::Execute {
            self.fetch[slot] = Entry { cookie, ..self.entry(address, self.fetch_context, translation) };
            return;
        }
        let entry = self.entry(address, self.data_context, translation);
        if access == Access::Store || translation.writable {
            self.store[slot] = entry;
        }
        if translation.readable {
            self.load[slot] = entry;
        } else if access == Access::Load {
            let mxr = EXECUTABLE_READABLE;
            self.load[slot] = Entry { tag: entry.tag | mxr, mask: entry.mask | mxr, ..entry };
        }
    }

    fn entry(&mut self, address: GuestVirtual, context: u64, translation: &Translation) -> Entry {
        let page = address.page().0;
        let (space, rights) = if context & SPACE_MASK < HAS_PAGES {
            (SPACE_MASK, 0)
        } else {
            // A virtual machine's global pages aren't another's.
            let global = translation.global && context & TRANSLATED != 0;
            if translation.fenced_size > PAGE_SIZE {
                let span = if global { &mut self.large_global_pages } else { &mut self.large_pages };
                span.add(address.0, translation.fenced_size);
            }
            let rights = if translation.user { USER } else { SUPERVISOR };
            (if global { TRANSLATED } else { SPACE_MASK }, rights)
        };
        Entry {
            tag: page | context & space | rights,
            mask: PAGE_MASK | space | rights,
            addend: translation.physical.page().0.wrapping_sub(page),
            size_shift: translation.fenced_size.max(PAGE_SIZE).trailing_zeros(),
            cookie: 0,
        }
    }

    /// Forgets the translations of a page (or of all), of an address space (or of all; a given one spares
    /// global mappings).
    pub fn flush(&mut self, address: Option<GuestVirtual>, asid: Option<u16>) {
        self.log.add(address, asid);
        self.fences += 1;
        match (address, asid) {
            (None, None) => self.flush_all(),
            (None, Some(asid)) => {
                self.spaces.remove(&SpaceKey::Supervisor(asid));
                self.last_space = None;
                self.stale = true;
            }
            (Some(address), _) => self.flush_page(address.0, asid.is_some()),
        }
    }

    /// Forgets what a fence of virtual machines says, and more where that is cheaper than finding out.
    pub fn flush_guest(&mut self, fence: GuestFence) {
        self.log.add_guest(fence);
        self.fences += 1;
        if let Some(address) = fence.address {
            return self.flush_page(address.0, false);
        }
        let GuestFence { vmid, asid, .. } = fence;
        self.spaces.retain(|key, _| match *key {
            SpaceKey::Supervisor(_) => true,
            SpaceKey::Guest(guest, space) => {
                let is_concerned = vmid.is_none_or(|vmid| vmid == guest)
                    && asid.is_none_or(|asid| space.is_some_and(|space| space == asid));
                !is_concerned
            }
        });
        self.last_space = None;
        self.stale = true;
    }

    fn flush_all(&mut self) {
        for array in [&mut self.load, &mut self.store, &mut self.fetch] {
            array.fill(Entry::EMPTY);
        }
        self.spaces.clear();
        self.given = [0; 3];
        self.last_space = None;
        self.large_pages = Span::EMPTY;
        self.large_global_pages = Span::EMPTY;
        self.stale = true;
    }

    /// Forgets a page in every space: more than was asked for, and cheaper than finding out whose it is.
    fn flush_page(&mut self, address: u64, spare_global: bool) {
        let scan =
            self.large_pages.contains(address) || !spare_global && self.large_global_pages.contains(address);
        for array in [&mut self.load, &mut self.store, &mut self.fetch] {
            let entries = if scan { &mut array[..] } else { &mut array[index(address)..][..1] };
            for entry in entries {
                if (entry.tag ^ address) >> entry.size_shift == 0 {
                    *entry = Entry::EMPTY;
                }
            }
        }
    }

    /// Gives what was fenced since the last call to `apply`; `(None, None)` is everything.
    pub fn take_fences(&mut self, mut apply: impl FnMut(Option<GuestVirtual>, Option<u16>)) {
        if core::mem::take(&mut self.log.everything) {
            apply(None, None);
        }
        self.log.fences.drain(..).for_each(|(address, asid)| apply(address, asid));
    }

    /// The same for virtual machines.
    pub fn take_guest_fences(&mut self, apply: impl FnMut(GuestFence)) {
        self.log.guests.drain(..).for_each(apply);
    }

    /// Forgets where fetches lead: the interpreter's cookies are void.
    pub fn flush_fetches(&mut self) {
        self.fetch.fill(Entry::EMPTY);
    }

    /// Called after anything but the page tables that decides what an access may do has changed: privilege,
    /// `satp`, `mstatus` (MPRV, MPP, SUM, MXR).
    pub fn context_changed(&mut self) {
        self.stale = true;
    }
}

#[cfg(test)]
mod tests;
