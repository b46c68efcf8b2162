//! What the harts of one VM share: the code cache, and the ways to keep each other out of harm.
//!
//! A hart is *in code* from before it looks at anything here until it leaves translated code. Two things wait
//! for the others at that line: throwing the whole cache away, and trusting that another hart's stores to a
//! page with code are noted.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rvisor_waist::CodePages;

use crate::backend::x64::thunks::Helpers;
use crate::runtime::Options;
use crate::runtime::cache::{CodeCache, PageBytes};
use crate::runtime::optimizer::{Optimizer, Request};
use crate::runtime::profile::Profile;
use crate::runtime::space::Fresh;

/// Per hart.
#[derive(Default)]
struct HartState {
    in_code: AtomicBool,
    /// Guest physical pages that the hart must not store to unseen any more.
    protect: Mutex<Vec<u64>>,
    posted: AtomicU64,
    done: AtomicU64,
}

/// A page whose protection not all harts have confirmed: hart and ticket.
struct Unsettled {
    page: u64,
    tickets: Vec<(usize, u64)>,
}

/// Shared by the engines of a VM's harts.
pub struct Shared {
    cache: Mutex<CodeCache>,
    harts: Vec<HartState>,
    unsettled: Mutex<Vec<Unsettled>>,
    has_unsettled: AtomicBool,
    /// Some hart wants all others out of code.
    stop: AtomicBool,
    /// Counts of the harts that have ended.
    profile: Mutex<Profile>,
    /// How often the cache was thrown away.
    generation: AtomicU64,
    optimizer: OnceLock<Option<Optimizer>>,
    /// There are more harts than processors to run them.
    is_crowded: bool,
    pub(crate) fresh: Fresh,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// For `harts` harts, with `size` bytes for code.
    pub(crate) fn new(harts: usize, size: usize, helpers: &Helpers, options: Options) -> io::Result<Self> {
        let fresh = Fresh::default();
        Ok(Self {
            cache: Mutex::new(CodeCache::new(size, helpers, harts > 1, options)?),
            harts: (0..harts).map(|_| HartState::default()).collect(),
            unsettled: Mutex::new(Vec::new()),
            has_unsettled: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            profile: Mutex::default(),
            generation: AtomicU64::new(0),
            optimizer: OnceLock::new(),
            is_crowded: std::thread::available_parallelism().is_ok_and(|processors| harts > processors.get()),
            fresh,
        })
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, CodeCache> {
        lock(&self.cache)
    }

    /// Has the second tier translate something.
    pub(crate) fn optimize(self: &Arc<Self>, request: Box<Request>) {
        let optimizer = self.optimizer.get_or_init(|| {
            let started = Optimizer::start(Arc::downgrade(self));
            started.inspect_err(|error| log::warn!("no thread for the second tier: {error}")).ok()
        });
        if let Some(optimizer) = optimizer {
            optimizer.ask(request);
        }
    }

    /// A hart waits for another, which may have no processor to go on with.
    pub(crate) fn pause(&self) {
        if self.is_crowded {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    /// Adds the counts of a hart.
    pub(crate) fn add_profile(&self, profile: &Profile) {
        lock(&self.profile).add(profile);
    }

    /// Where the time went, if that was asked for: of the harts whose engines are dropped.
    pub fn report(&self) -> Option<String> {
        let cache = self.cache();
        cache.is_profiled().then(|| format!("{}{}", lock(&self.profile), cache.report()))
    }

    /// Keeps what was translated for later runs, if there is a [`store`](crate::Options::store): for when the
    /// machine has ended. A failure is told in the log.
    pub fn save(&self) {
        self.cache().save();
    }

    /// Goes into code; calls `protect` for the pages that others asked for. Returns the cache's generation.
    pub(crate) fn enter(&self, hart: usize, mut protect: impl FnMut(u64)) -> u64 {
        let state = &self.harts[hart];
        loop {
            state.in_code.store(true, Ordering::SeqCst);
            if !self.stop.load(Ordering::SeqCst) {
                break;
            }
            state.in_code.store(false, Ordering::SeqCst);
            std::thread::yield_now();
        }
        if state.done.load(Ordering::Relaxed) != state.posted.load(Ordering::SeqCst) {
            let mut pages = lock(&state.protect);
            pages.drain(..).for_each(&mut protect);
            state.done.store(state.posted.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.generation.load(Ordering::Acquire)
    }

    /// Comes out.
    pub(crate) fn leave(&self, hart: usize) {
        self.harts[hart].in_code.store(false, Ordering::Release);
    }

    /// Asks all harts but `hart` to note their stores to a page from now on.
    pub(crate) fn protect_elsewhere(&self, hart: usize, page: u64) {
        let mut tickets = Vec::new();
        for (number, state) in self.harts.iter().enumerate().filter(|&(number, _)| number != hart) {
            let mut pages = lock(&state.protect);
            pages.push(page);
            tickets.push((number, state.posted.fetch_add(1, Ordering::SeqCst) + 1));
        }
        if !tickets.is_empty() {
            lock(&self.unsettled).push(Unsettled { page, tickets });
            self.has_unsettled.store(true, Ordering::SeqCst);
        }
    }

    fn is_settled(&self, page: &Unsettled) -> bool {
        page.tickets.iter().all(|&(hart, ticket)| {
            let state = &self.harts[hart];
            state.done.load(Ordering::SeqCst) >= ticket || !state.in_code.load(Ordering::SeqCst)
        })
    }

    /// `fence.i` of `hart`: removes the code of pages that were written to. `protect` takes away the hart's
    /// own right to store to a page unseen; `read` gets the page's bytes.
    pub(crate) fn fence_instructions(
        &self,
        hart: usize,
        pages: &CodePages,
        mut protect: impl FnMut(u64),
        read: impl Fn(u64) -> PageBytes,
    ) {
        if !pages.has_written() && !self.has_unsettled.load(Ordering::SeqCst) {
            return;
        }
        let mut cache = self.cache();
        // Another hart's fence must not find nothing to do before this one is done.
        self.has_unsettled.store(true, Ordering::SeqCst);
        let doubtful: Vec<u64> = {
            let mut unsettled = lock(&self.unsettled);
            let all = unsettled.iter().map(|entry| entry.page).collect();
            unsettled.retain(|entry| !self.is_settled(entry));
            all
        };
        for page in doubtful {
            cache.validate(page, &read(page));
        }
        for page in pages.take_written() {
            pages.watch(page);
            protect(page.0);
            self.protect_elsewhere(hart, page.0);
            if !cache.validate(page.0, &read(page.0)) {
                pages.forget(page);
            }
        }
        self.has_unsettled.store(!lock(&self.unsettled).is_empty(), Ordering::SeqCst);
    }

    /// Throws the cache away once no hart is in code. The caller isn't.
    pub(crate) fn clear(&self, pages: &CodePages) {
        if self.stop.swap(true, Ordering::SeqCst) {
            return;
        }
        while self.harts.iter().any(|state| state.in_code.load(Ordering::SeqCst)) {
            std::thread::yield_now();
        }
        let mut cache = self.cache();
        if !cache.has_room() {
            for page in cache.pages() {
                pages.forget(rvisor_waist::GuestPhysical(page));
            }
            cache.clear();
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        drop(cache);
        self.stop.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
