//! Cached translations of one hart, by address space: a software TLB for data and a cache of jump targets for
//! code. What `satp`, privilege, SUM and MXR select is which space is current, so that switching between
//! spaces forgets nothing.
//!
//! Supervisor code shares one space whatever the ASID, because kernels map themselves globally; translations in
//! it that aren't global are forgotten when the ASID changes.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustc_hash::FxHashMap;
use rvisor_hart::{GuestFence, Span, Translation, TranslationContext};
use rvisor_isa::Privilege;
use rvisor_waist::PAGE_SIZE;

/// Entries of a space's TLB.
pub const TLB_ENTRIES: usize = 2048;
/// Entries of the kernel's jump cache, and of every other space's: a kernel has far more code that is jumped to,
/// by returns above all, than most programs.
const KERNEL_JUMPS: usize = 1 << 16;
const JUMPS: usize = 1 << 14;
/// Bits by which the jump cache's index is folded: code of other pages shall not meet at the same offset.
pub const JUMP_FOLD: u8 = 11;
/// Spaces of each kind that a hart keeps.
const SPACES: usize = 48;

/// One page's translation for data.
#[derive(Clone, Copy)]
pub struct TlbEntry {
    /// Virtual page that loads may use this entry for, or a page that never belongs to this entry.
    pub load: u64,
    /// The same for stores.
    pub store: u64,
    /// Host address minus guest virtual address.
    pub addend: u64,
    /// Guest physical page.
    pub physical: u64,
}

/// One page's translation for loads, or for stores.
#[repr(C)]
#[derive(Clone, Copy)]
struct Way {
    /// See [`TlbEntry`].
    page: u64,
    addend: u64,
}

/// The TLB of a space. What loads need of it stands close together: a large working set's entries compete with
/// its data for the host's caches.
#[repr(C, align(64))]
pub struct Tlb {
    loads: [Way; TLB_ENTRIES],
    stores: [Way; TLB_ENTRIES],
    physical: [u64; TLB_ENTRIES],
}

/// Offsets that translated code uses, from the start of the TLB plus the entry's index times [`TLB_STEP`].
pub const TLB_LOAD: i32 = offset_of!(Tlb, loads) as i32;
pub const TLB_STORE: i32 = offset_of!(Tlb, stores) as i32;
/// Of the addend, behind either.
pub const TLB_ADDEND: i32 = offset_of!(Way, addend) as i32;
/// Bytes from one entry to the next.
pub const TLB_STEP: usize = size_of::<Way>();

impl Tlb {
    fn new() -> Box<Self> {
        let empty = Way { page: 0, addend: 0 };
        let mut tlb = Box::new(Self {
            loads: [empty; TLB_ENTRIES],
            stores: [empty; TLB_ENTRIES],
            physical: [u64::MAX; TLB_ENTRIES],
        });
        (0..TLB_ENTRIES).for_each(|index| tlb.clear(index));
        tlb
    }

    fn set(&mut self, index: usize, entry: &TlbEntry) {
        self.loads[index] = Way { page: entry.load, addend: entry.addend };
        self.stores[index] = Way { page: entry.store, addend: entry.addend };
        self.physical[index] = entry.physical;
    }

    fn clear(&mut self, index: usize) {
        self.loads[index].page = TlbEntry::no_page(index);
        self.stores[index].page = TlbEntry::no_page(index);
    }

    /// Takes away all rights to store.
    fn protect_all(&mut self) {
        for (index, way) in self.stores.iter_mut().enumerate() {
            way.page = TlbEntry::no_page(index);
        }
    }

    /// Takes away the right to store to a guest physical page, if the entry is of it.
    fn protect(&mut self, index: usize, physical: u64) {
        if self.physical[index] == physical {
            self.stores[index].page = TlbEntry::no_page(index);
        }
    }
}

/// A known jump target.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct JumpEntry {
    /// Guest virtual address; one of another index matches nothing.
    pub target: u64,
    /// Code of it.
    pub code: u64,
}

impl JumpEntry {
    /// What matches nothing at an index, be the address even or odd. It is all zero nearly everywhere, so that a jump cache takes host memory
    /// only where it is used.
    const fn empty(index: usize) -> Self {
        Self { target: if index == 0 { 2 } else { 0 }, code: 0 }
    }
}

/// The TLB entry of an address.
#[inline]
pub const fn tlb_index(address: u64) -> usize {
    (address / PAGE_SIZE) as usize % TLB_ENTRIES
}

/// Jump targets, directly mapped by their addresses.
struct JumpCache {
    /// A power of two of them.
    entries: Box<[JumpEntry]>,
    /// Entries in use, as long as they are few enough to be worth listing.
    used: Vec<u16>,
}

impl JumpCache {
    fn new(entries: usize) -> Self {
        // SAFETY: all zero is a value of an entry.
        let mut entries = unsafe { Box::<[JumpEntry]>::new_zeroed_slice(entries).assume_init() };
        entries[0] = JumpEntry::empty(0);
        Self { entries, used: Vec::new() }
    }

    /// Selects the bits of an entry's index in a target that is folded; the lowest doesn't count.
    const fn mask(&self) -> u32 {
        (self.entries.len() as u32 - 1) << 1
    }

    fn index(&self, target: u64) -> usize {
        ((target as u32 ^ target as u32 >> JUMP_FOLD) & self.mask()) as usize / 2
    }

    /// Most entries that are listed.
    const fn listed(&self) -> usize {
        self.entries.len() / 4
    }

    fn set(&mut self, target: u64, code: u64) {
        let index = self.index(target);
        if self.used.len() <= self.listed() {
            self.used.push(index as u16);
        }
        self.entries[index] = JumpEntry { target, code };
    }

    fn forget(&mut self, target: u64) {
        let index = self.index(target);
        self.entries[index] = JumpEntry::empty(index);
    }

    fn clear(&mut self) {
        if self.used.len() <= self.listed() {
            self.used.iter().for_each(|&index| self.entries[usize::from(index)] = JumpEntry::empty(1));
        } else {
            self.entries.fill(JumpEntry::empty(1));
        }
        self.entries[0] = JumpEntry::empty(0);
        self.used.clear();
    }
}

impl TlbEntry {
    /// A page that maps to another entry, so that no address can match it in this one.
    pub const fn no_page(index: usize) -> u64 {
        ((index ^ 1) as u64) * PAGE_SIZE
    }
}

/// Which accesses share translations of data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DataKey {
    /// Without translation: M-mode, or `satp.MODE` Bare.
    Physical(bool),
    /// U-mode in an address space.
    User(u16, bool),
    /// S-mode without access to user pages.
    Supervisor(bool),
    /// S-mode with access to user pages (SUM).
    SupervisorAndUser(u16, bool),
    /// A virtual machine, by its VMID, without translation of its own.
    GuestPhysical(u16),
    /// VU-mode in an address space of a virtual machine.
    GuestUser(u16, u16),
    /// VS-mode without access to user pages.
    GuestSupervisor(u16),
    /// VS-mode with access to user pages.
    GuestSupervisorAndUser(u16, u16),
}

impl DataKey {
    /// The virtual machine's VMID, and the ASID where the space is one address space's.
    const fn guest(self) -> Option<(u16, Option<u16>)> {
        match self {
            Self::GuestPhysical(vmid) | Self::GuestSupervisor(vmid) => Some((vmid, None)),
            Self::GuestUser(vmid, asid) | Self::GuestSupervisorAndUser(vmid, asid) => {
                Some((vmid, Some(asid)))
            }
            _ => None,
        }
    }
}

/// Which fetches share jump targets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CodeKey {
    /// Without translation; M-mode or not, since PMP tells them apart.
    Physical(bool),
    /// U-mode in an address space.
    User(u16),
    /// S-mode.
    Supervisor,
    /// A virtual machine, by its VMID, without translation of its own.
    GuestPhysical(u16),
    /// VU-mode in an address space of a virtual machine.
    GuestUser(u16, u16),
    /// VS-mode.
    GuestSupervisor(u16),
}

impl CodeKey {
    /// The same as [`DataKey::guest`].
    const fn guest(self) -> Option<(u16, Option<u16>)> {
        match self {
            Self::GuestPhysical(vmid) | Self::GuestSupervisor(vmid) => Some((vmid, None)),
            Self::GuestUser(vmid, asid) => Some((vmid, Some(asid))),
            _ => None,
        }
    }

    /// Whether it is a kernel's.
    const fn is_kernel(self) -> bool {
        matches!(self, Self::Supervisor | Self::GuestSupervisor(_))
    }
}

/// The keys of a context.
pub fn keys(context: &TranslationContext) -> (DataKey, CodeKey) {
    if let Some(vmid) = context.guest {
        return guest_keys(context, vmid);
    }
    let data = match (context.data, context.asid) {
        (Privilege::Machine, _) => DataKey::Physical(true),
        (_, None) => DataKey::Physical(false),
        (Privilege::User, Some(asid)) => DataKey::User(asid, context.mxr),
        (Privilege::Supervisor, Some(asid)) if context.sum => DataKey::SupervisorAndUser(asid, context.mxr),
        (Privilege::Supervisor, Some(_)) => DataKey::Supervisor(context.mxr),
    };
    let code = match (context.fetch, context.asid) {
        (Privilege::Machine, _) => CodeKey::Physical(true),
        (_, None) => CodeKey::Physical(false),
        (Privilege::User, Some(asid)) => CodeKey::User(asid),
        (Privilege::Supervisor, Some(_)) => CodeKey::Supervisor,
    };
    (data, code)
}

/// The same in a virtual machine; M-mode is never in one.
fn guest_keys(context: &TranslationContext, vmid: u16) -> (DataKey, CodeKey) {
    let data = match (context.data, context.asid) {
        (Privilege::Machine, _) => DataKey::Physical(true),
        (_, None) => DataKey::GuestPhysical(vmid),
        (Privilege::User, Some(asid)) => DataKey::GuestUser(vmid, asid),
        (Privilege::Supervisor, Some(asid)) if context.sum => DataKey::GuestSupervisorAndUser(vmid, asid),
        (Privilege::Supervisor, Some(_)) => DataKey::GuestSupervisor(vmid),
    };
    let code = match (context.fetch, context.asid) {
        (Privilege::Machine, _) => CodeKey::Physical(true),
        (_, None) => CodeKey::GuestPhysical(vmid),
        (Privilege::User, Some(asid)) => CodeKey::GuestUser(vmid, asid),
        (Privilege::Supervisor, Some(_)) => CodeKey::GuestSupervisor(vmid),
    };
    (data, code)
}

/// Translations of data in one space.
pub struct DataSpace {
    key: DataKey,
    tlb: Box<Tlb>,
    /// Entries in use, as long as they are few enough to be worth listing.
    used: Vec<u16>,
    large: Span,
    /// The ASID of what isn't global, in the space of all ASIDs.
    private: Option<u16>,
    last_use: u64,
}

/// More used entries than this aren't listed.
const LISTED: usize = 256;

impl DataSpace {
    fn new(key: DataKey) -> Self {
        Self { key, tlb: Tlb::new(), used: Vec::new(), large: Span::EMPTY, private: None, last_use: 0 }
    }

    pub fn tlb(&mut self) -> *mut Tlb {
        &raw mut *self.tlb
    }

    /// Sets an entry; `large` is the size of a page larger than a base page.
    pub fn insert(&mut self, address: u64, entry: TlbEntry, large: Option<u64>) {
        let index = tlb_index(address);
        if self.used.len() <= LISTED {
            self.used.push(index as u16);
        }
        if let Some(size) = large {
            self.large.add(address, size);
        }
        self.tlb.set(index, &entry);
    }

    /// Whether the TLB lets accesses to an address's page through.
    pub fn answers(&self, address: u64, stores: bool) -> bool {
        let index = tlb_index(address);
        let way = if stores { self.tlb.stores[index] } else { self.tlb.loads[index] };
        way.page == address & !(PAGE_SIZE - 1)
    }

    fn flush(&mut self) {
        if self.used.len() <= LISTED {
            self.used.iter().for_each(|&index| self.tlb.clear(index.into()));
        } else {
            (0..TLB_ENTRIES).for_each(|index| self.tlb.clear(index));
        }
        self.used.clear();
        self.large = Span::EMPTY;
        self.private = None;
    }

    fn flush_page(&mut self, address: u64) {
        if self.large.contains(address) {
            self.flush();
        } else {
            self.tlb.clear(tlb_index(address));
        }
    }

    fn fence(&mut self, address: Option<u64>) {
        match address {
            Some(address) => self.flush_page(address),
            None => self.flush(),
        }
    }

    /// Takes away the right to store to a guest physical page.
    fn protect(&mut self, physical: u64) {
        if self.used.len() <= LISTED {
            self.used.iter().for_each(|&index| self.tlb.protect(index.into(), physical));
        } else {
            (0..TLB_ENTRIES).for_each(|index| self.tlb.protect(index, physical));
        }
    }
}

/// Jump targets in one space.
pub struct CodeSpace {
    key: CodeKey,
    jumps: JumpCache,
    /// See [`Frame::mappings`](super::frame::Frame::mappings).
    pub mappings: u32,
    /// Pages of code that was reached in this space: virtual and physical.
    pages: FxHashMap<u64, u64>,
    /// Where each physical page of code was reached. One that is reached at two places makes links between
    /// pages unsafe, since they are kept by physical page.
    places: FxHashMap<u64, u64>,
    aliased: bool,
    /// The mappings that all this relies on, by the virtual address of their first byte.
    mapped: FxHashMap<u64, Mapping>,
    /// A fence was of them: they have to be looked up again before anything here is used.
    is_doubtful: bool,
    /// Around all pages.
    bounds: Span,
    large: Span,
    private: Option<u16>,
    last_use: u64,
}

impl CodeSpace {
    fn new(key: CodeKey) -> Self {
        Self {
            key,
            jumps: JumpCache::new(if key.is_kernel() { KERNEL_JUMPS } else { JUMPS }),
            mappings: 0,
            pages: FxHashMap::default(),
            places: FxHashMap::default(),
            aliased: false,
            mapped: FxHashMap::default(),
            is_doubtful: false,
            bounds: Span::EMPTY,
            large: Span::EMPTY,
            private: None,
            last_use: 0,
        }
    }

    pub fn jumps(&mut self) -> *mut JumpEntry {
        self.jumps.entries.as_mut_ptr()
    }

    /// See [`Frame::jump_mask`](super::frame::Frame::jump_mask).
    pub fn jump_mask(&self) -> u32 {
        self.jumps.mask()
    }

    /// Code that is known for a target.
    pub fn find(&self, target: u64) -> Option<u64> {
        let entry = &self.jumps.entries[self.jumps.index(target)];
        (entry.target == target).then_some(entry.code)
    }

    /// Forgets the code of a target.
    pub fn forget(&mut self, target: u64) {
        self.jumps.forget(target);
    }

    /// The physical page that a virtual page of code is known to map to.
    pub fn physical(&self, page: u64) -> Option<u64> {
        self.pages.get(&page).copied()
    }

    pub fn insert(&mut self, target: u64, code: u64) {
        self.jumps.set(target, code);
    }

    /// Whether jumps across pages may be linked under `mappings`.
    pub fn may_link(&self) -> bool {
        !self.aliased
    }

    /// Notes that code is reached at a virtual page through a mapping.
    fn reach(&mut self, page: u64, mapping: Mapping, fresh: &Fresh) {
        let Mapping { physical, size, .. } = mapping;
        self.mapped.insert(page & !(size - 1), mapping);
        let physical = physical + (page & (size - 1));
        self.pages.insert(page, physical);
        self.bounds.add(page, PAGE_SIZE);
        if size > PAGE_SIZE {
            self.large.add(page, size);
        }
        if *self.places.entry(physical).or_insert(page) != page && !self.aliased {
            self.aliased = true;
            self.mappings = fresh.next();
        }
    }

    fn flush(&mut self, fresh: &Fresh) {
        self.jumps.clear();
        self.bounds = Span::EMPTY;
        self.mappings = fresh.next();
        self.pages.clear();
        self.places.clear();
        self.aliased = false;
        self.mapped.clear();
        self.is_doubtful = false;
        self.large = Span::EMPTY;
        self.private = None;
    }

    /// Most fences are of mappings that stay as they are, or of others: what they were is compared when the space
    /// is used again.
    fn fence(&mut self, address: Option<u64>) {
        let is_concerned = |address| {
            let is_known = || self.pages.contains_key(&(address & !(PAGE_SIZE - 1)));
            self.large.contains(address) || self.bounds.contains(address) && is_known()
        };
        self.is_doubtful |= address.is_none_or(is_concerned);
    }
}

/// A page of any size that code was reached through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Guest physical address of its first byte.
    pub physical: u64,
    /// Bytes.
    pub size: u64,
    /// Whether it is the same in all address spaces.
    pub global: bool,
}

impl Mapping {
    /// What a translation went through.
    pub fn of(translation: &Translation) -> Self {
        let (size, global) = (translation.page_size, translation.global);
        Self { physical: translation.physical.0 & !(size - 1), size, global }
    }
}

/// Numbers never used before, for all harts that share code.
#[derive(Clone, Default)]
pub struct Fresh(Arc<AtomicU32>);

impl Fresh {
    /// Zero stands for no mappings at all, and is never given.
    fn next(&self) -> u32 {
        loop {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            if number != 0 {
                return number;
            }
        }
    }
}

/// All spaces of a hart.
pub struct Spaces {
    data: Vec<DataSpace>,
    code: Vec<CodeSpace>,
    data_by_key: FxHashMap<DataKey, usize>,
    code_by_key: FxHashMap<CodeKey, usize>,
    current_data: usize,
    current_code: usize,
    context: Option<TranslationContext>,
    /// The data spaces of S-mode without and with access to user pages, where the current context is S-mode's.
    supervisor: Option<[usize; 2]>,
    /// The spaces of contexts that were current of late.
    known: Vec<Known>,
    fresh: Fresh,
    clock: u64,
}

/// The spaces of a context, by their numbers.
#[derive(Clone, Copy)]
struct Known {
    context: TranslationContext,
    data: usize,
    code: usize,
    supervisor: Option<[usize; 2]>,
}

/// Contexts that are remembered.
const KNOWN: usize = 8;

impl Spaces {
    /// No space.
    pub fn new(fresh: Fresh) -> Self {
        Self {
            data: Vec::new(),
            code: Vec::new(),
            data_by_key: FxHashMap::default(),
            code_by_key: FxHashMap::default(),
            current_data: 0,
            current_code: 0,
            context: None,
            supervisor: None,
            known: Vec::new(),
            fresh,
            clock: 0,
        }
    }

    /// Makes the spaces of `context` current.
    pub fn enter(&mut self, context: TranslationContext) {
        if self.context == Some(context) {
            return;
        }
        self.context = Some(context);
        self.clock += 1;
        let known = self.known.iter().find(|known| known.context == context).copied();
        let Known { data, code, supervisor, .. } = known.unwrap_or_else(|| self.find(context));
        (self.current_data, self.current_code, self.supervisor) = (data, code, supervisor);
        self.use_data(data);
        supervisor.into_iter().flatten().for_each(|space| self.use_data(space));
        let space = &mut self.code[code];
        space.last_use = self.clock;
        if space.private.is_some() && space.private != context.asid {
            space.flush(&self.fresh);
        }
    }

    /// Makes a data space one of the current context.
    fn use_data(&mut self, index: usize) {
        let asid = self.context.and_then(|context| context.asid);
        let space = &mut self.data[index];
        space.last_use = self.clock;
        if space.private.is_some() && space.private != asid {
            space.flush();
        }
    }

    /// Finds the spaces of a context, and remembers which they are.
    fn find(&mut self, context: TranslationContext) -> Known {
        let (data, code) = keys(&context);
        let (data, code) = (self.find_data(data), self.find_code(code));
        let is_supervisor = context.fetch == Privilege::Supervisor && context.data == Privilege::Supervisor;
        let supervisor = context
            .asid
            .filter(|_| is_supervisor)
            .map(|_| [false, true].map(|sum| self.find_data(keys(&TranslationContext { sum, ..context }).0)));
        if self.known.len() == KNOWN {
            self.known.clear();
        }
        let known = Known { context, data, code, supervisor };
        self.known.push(known);
        known
    }

    /// Forgets which context is current: the spaces are looked up afresh at the next entry.
    pub fn leave(&mut self) {
        self.context = None;
    }

    fn find_data(&mut self, key: DataKey) -> usize {
        if let Some(&index) = self.data_by_key.get(&key) {
            self.data[index].last_use = self.clock;
            return index;
        }
        let index = if self.data.len() < SPACES {
            self.data.push(DataSpace::new(key));
            self.data.len() - 1
        } else {
            let oldest = (0..SPACES).min_by_key(|&index| self.data[index].last_use).unwrap_or(0);
            self.known.clear();
            self.data[oldest].flush();
            self.data_by_key.remove(&self.data[oldest].key);
            self.data[oldest].key = key;
            oldest
        };
        // Not the oldest any more, when the next one looks for a place.
        self.data[index].last_use = self.clock;
        self.data_by_key.insert(key, index);
        index
    }

    fn find_code(&mut self, key: CodeKey) -> usize {
        if let Some(&index) = self.code_by_key.get(&key) {
            return index;
        }
        let index = if self.code.len() < SPACES {
            self.code.push(CodeSpace::new(key));
            self.code.len() - 1
        } else {
            let oldest = (0..SPACES).min_by_key(|&index| self.code[index].last_use).unwrap_or(0);
            self.known.clear();
            self.code_by_key.remove(&self.code[oldest].key);
            if self.code[oldest].key.is_kernel() != key.is_kernel() {
                // Its jump cache has another size.
                self.code[oldest] = CodeSpace::new(key);
            }
            self.code[oldest].key = key;
            oldest
        };
        self.code[index].flush(&self.fresh);
        self.code_by_key.insert(key, index);
        index
    }

    pub fn data(&mut self) -> &mut DataSpace {
        &mut self.data[self.current_data]
    }

    pub fn code(&mut self) -> &mut CodeSpace {
        &mut self.code[self.current_code]
    }

    /// Which data space is current, for [`protect_entry`](Self::protect_entry).
    pub fn data_number(&self) -> usize {
        self.current_data
    }

    /// Notes a translation of data that isn't global.
    pub fn note_private_data(&mut self) {
        self.data[self.current_data].private = self.context.and_then(|context| context.asid);
    }

    /// Notes that code is reached at a virtual page through a mapping.
    pub fn reach(&mut self, page: u64, mapping: Mapping) {
        let space = &mut self.code[self.current_code];
        space.reach(page, mapping, &self.fresh);
        if !mapping.global {
            space.private = self.context.and_then(|context| context.asid);
        }
    }

    /// Whether a fence has put the current code space in doubt.
    pub fn is_doubtful(&self) -> bool {
        self.code[self.current_code].is_doubtful
    }

    /// Removes the doubt: `map` tells what maps a virtual address now, and forgets all code of the space if one of
    /// the mappings is another.
    pub fn settle(&mut self, mut map: impl FnMut(u64) -> Option<Mapping>) {
        let space = &mut self.code[self.current_code];
        if space.mapped.iter().all(|(&address, &mapping)| map(address) == Some(mapping)) {
            space.is_doubtful = false;
        } else {
            space.flush(&self.fresh);
        }
    }

    /// `sfence.vma`: forgets the translations of a page (or of all), of an address space (or of all). More is
    /// forgotten where that is cheaper than finding out.
    pub fn fence(&mut self, address: Option<u64>, asid: Option<u16>) {
        match asid {
            None => {
                self.data.iter_mut().for_each(|space| space.fence(address));
                self.code.iter_mut().for_each(|space| space.fence(address));
            }
            Some(asid) => self.fence_one(address, asid),
        }
    }

    fn fence_one(&mut self, address: Option<u64>, asid: u16) {
        for mxr in [false, true] {
            for key in [DataKey::User(asid, mxr), DataKey::SupervisorAndUser(asid, mxr)] {
                if let Some(&index) = self.data_by_key.get(&key) {
                    self.data[index].fence(address);
                }
            }
            if let Some(&index) = self.data_by_key.get(&DataKey::Supervisor(mxr))
                && self.data[index].private == Some(asid)
            {
                self.data[index].fence(address);
            }
        }
        if let Some(&index) = self.code_by_key.get(&CodeKey::User(asid)) {
            self.code[index].fence(address);
        }
        if let Some(&index) = self.code_by_key.get(&CodeKey::Supervisor)
            && self.code[index].private == Some(asid)
        {
            self.code[index].fence(address);
        }
    }

    /// The same for virtual machines; where the second stage has changed, everything of theirs.
    pub fn fence_guest(&mut self, fence: &GuestFence) {
        let is_concerned = |guest: Option<(u16, Option<u16>)>, private: Option<u16>| {
            guest.is_some_and(|(vmid, asid)| {
                let asid = asid.or(private);
                fence.vmid.is_none_or(|fenced| fenced == vmid)
                    && fence.asid.is_none_or(|fenced| asid == Some(fenced))
            })
        };
        let address = fence.address.map(|address| address.0);
        for space in &mut self.data {
            if is_concerned(space.key.guest(), space.private) {
                space.fence(address);
            }
        }
        for space in &mut self.code {
            if is_concerned(space.key.guest(), space.private) {
                // The first stage's page may be larger than what is known of it here.
                space.fence(None);
            }
        }
    }

    /// The TLBs of S-mode without and with access to user pages, in the current address space, where the
    /// current context is S-mode's; else null.
    pub fn supervisor_tlbs(&mut self) -> [*mut Tlb; 2] {
        self.supervisor.map_or([std::ptr::null_mut(); 2], |spaces| spaces.map(|space| self.data[space].tlb()))
    }

    /// Forgets all code: it has moved.
    pub fn forget_code(&mut self) {
        for space in &mut self.code {
            space.flush(&self.fresh);
        }
    }

    /// Takes away the right to store to a guest physical page, wherever it may be mapped.
    pub fn protect(&mut self, physical: u64) {
        self.data.iter_mut().for_each(|space| space.protect(physical));
    }

    /// Takes away all rights to store.
    pub fn protect_all(&mut self) {
        self.data.iter_mut().for_each(|space| space.tlb.protect_all());
    }

    /// The same as [`protect`](Self::protect) where the page is known to be mapped at one place only.
    pub fn protect_entry(&mut self, space: usize, index: usize, physical: u64) {
        self.data[space].tlb.protect(index, physical);
    }
}

#[cfg(test)]
mod tests;
