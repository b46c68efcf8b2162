//! What the rest of the VM tells a running hart: interrupt wires, inter-processor requests, and whether it is
//! started at all.
//!
//! One [`HartSignals`] stands for each virtual hart and is shared by every thread of the VM. It holds no
//! architectural state: that belongs to the hart's own thread.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rvisor_waist::{GuestVirtual, InterruptLine};
use spin::{Mutex, Once};

use crate::exits::ExitCounts;

/// A fence that another hart asked for (SBI 2.0, chapter "RFENCE Extension").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// `fence.i`.
    Instructions,
    /// `sfence.vma` over a range of addresses, for one address space or all.
    Memory {
        /// First byte of the range; 0 with a `size` of `u64::MAX` stands for everything.
        start: GuestVirtual,
        /// Bytes in the range.
        size: u64,
        /// Address space, or all.
        asid: Option<u16>,
    },
}

/// A [`Fence::Memory`] of everything.
pub const FENCE_ALL: Fence = Fence::Memory { start: GuestVirtual(0), size: u64::MAX, asid: None };

/// State of a hart (SBI 2.0, chapter "Hart State Management Extension", table of hart states).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HartState {
    /// Executes guest code.
    Started,
    /// Waits for `hart_start`.
    Stopped,
    /// Was told to start and has not yet.
    StartPending(Entry),
    /// Suspended until an interrupt is pending; `resume` where the suspension was not retentive.
    Suspended {
        /// Where to go on, or behind the call if `None`.
        resume: Option<Entry>,
    },
}

/// Where a hart enters S-mode, with its hart id in `a0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Program counter; a physical address, since translation is off.
    pub address: u64,
    /// Value of `a1`.
    pub opaque: u64,
}

/// More fences than this waiting at once are merged into a full one.
const FENCE_QUEUE: usize = 16;

struct Fences {
    queue: Vec<Fence>,
    posted: u64,
}

/// Signals of one virtual hart.
pub struct HartSignals {
    lines: AtomicU64,
    software_interrupt: AtomicBool,
    attention: AtomicBool,
    in_guest: AtomicBool,
    machine_timer: Arc<AtomicU64>,
    fences: Mutex<Fences>,
    fences_done: AtomicU64,
    state: Mutex<HartState>,
    waker: Once<Box<dyn Fn() + Send + Sync>>,
    exits: ExitCounts,
}

impl HartSignals {
    /// Signals of a hart that has just been powered on, in `state`.
    #[must_use]
    pub fn new(state: HartState) -> Self {
        Self {
            lines: AtomicU64::new(0),
            software_interrupt: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            machine_timer: Arc::new(AtomicU64::new(u64::MAX)),
            fences: Mutex::new(Fences { queue: Vec::new(), posted: 0 }),
            fences_done: AtomicU64::new(0),
            state: Mutex::new(state),
            waker: Once::new(),
            exits: ExitCounts::default(),
        }
    }

    /// Back to power-on, in `state`. The waker stays.
    pub fn reset(&self, state: HartState) {
        self.lines.store(0, Ordering::SeqCst);
        self.software_interrupt.store(false, Ordering::SeqCst);
        self.machine_timer.store(u64::MAX, Ordering::SeqCst);
        let mut fences = self.fences.lock();
        fences.queue.clear();
        self.fences_done.store(fences.posted, Ordering::SeqCst);
        *self.state.lock() = state;
    }

    /// Tells how to wake the thread that runs this hart. Only the first call counts.
    pub fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>) {
        self.waker.call_once(|| waker);
    }

    /// How often the hart handed control back.
    #[must_use]
    pub fn exits(&self) -> &ExitCounts {
        &self.exits
    }

    /// Makes the hart leave guest code or its sleep soon.
    pub fn kick(&self) {
        self.attention.store(true, Ordering::SeqCst);
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }

    /// Whether the hart was kicked since [`clear_attention`](Self::clear_attention).
    #[inline]
    pub fn attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// The hart's own thread looks at everything now.
    pub fn clear_attention(&self) {
        self.attention.swap(false, Ordering::SeqCst);
    }

    /// The bits of `mip` driven by wires.
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Acquire)
    }

    /// Drives the bits of `mask` in `mip`.
    pub fn set_lines(&self, mask: u64, level: bool) {
        if level {
            if self.lines.fetch_or(mask, Ordering::SeqCst) & mask != mask {
                self.kick();
            }
        } else {
            // A falling wire needs no kick: the hart reads the wires before it takes an interrupt.
            self.lines.fetch_and(!mask, Ordering::SeqCst);
        }
    }

    /// Asks for `mip.SSIP` to be set.
    pub fn post_software_interrupt(&self) {
        self.software_interrupt.store(true, Ordering::SeqCst);
        self.kick();
    }

    /// Whether [`post_software_interrupt`](Self::post_software_interrupt) was called since the last time.
    pub fn take_software_interrupt(&self) -> bool {
        self.software_interrupt.load(Ordering::Relaxed)
            && self.software_interrupt.swap(false, Ordering::SeqCst)
    }

    /// `mtimecmp` of the ACLINT MTIMER, in ticks.
    #[must_use]
    pub fn machine_timer(&self) -> &Arc<AtomicU64> {
        &self.machine_timer
    }

    /// Queues a fence; returns the ticket to give to [`has_fenced`](Self::has_fenced).
    pub fn post_fence(&self, fence: Fence) -> u64 {
        let ticket = {
            let mut fences = self.fences.lock();
            if fences.queue.len() >= FENCE_QUEUE {
                fences.queue.clear();
                fences.queue.extend([Fence::Instructions, FENCE_ALL]);
            } else {
                fences.queue.push(fence);
            }
            fences.posted += 1;
            fences.posted
        };
        self.kick();
        ticket
    }

    /// Whether no instruction before the fence with this ticket can take effect any more. A hart outside
    /// guest code counts: it carries out its fences before it enters again.
    pub fn has_fenced(&self, ticket: u64) -> bool {
        self.fences_done.load(Ordering::SeqCst) >= ticket || !self.in_guest.load(Ordering::SeqCst)
    }

    /// Called by the hart's thread before it enters guest code: announces it, then gives the fences to carry
    /// out first to `apply`. The order (announce, then look) is what makes [`has_fenced`](Self::has_fenced)
    /// right.
    pub fn enter_guest(&self, mut apply: impl FnMut(Fence)) {
        self.in_guest.store(true, Ordering::SeqCst);
        core::sync::atomic::fence(Ordering::SeqCst);
        let mut fences = self.fences.lock();
        if self.fences_done.load(Ordering::Relaxed) != fences.posted {
            fences.queue.drain(..).for_each(&mut apply);
            self.fences_done.store(fences.posted, Ordering::SeqCst);
        }
    }

    /// Called by the hart's thread when it is back.
    pub fn leave_guest(&self) {
        self.in_guest.store(false, Ordering::SeqCst);
    }

    /// Whether the hart runs, and if not, why.
    pub fn state(&self) -> HartState {
        *self.state.lock()
    }

    /// Changes the state with `change`, atomically; kicks the hart if it did change.
    pub fn update_state(&self, change: impl FnOnce(HartState) -> Option<HartState>) -> bool {
        let changed = {
            let mut state = self.state.lock();
            match change(*state) {
                Some(new) => {
                    *state = new;
                    true
                }
                None => false,
            }
        };
        if changed {
            self.kick();
        }
        changed
    }
}

/// A wire into some bits of one hart's `mip`.
pub struct HartLine {
    signals: Arc<HartSignals>,
    mask: u64,
}

impl HartLine {
    /// A wire that drives `mask` in `mip` of the hart behind `signals`.
    #[must_use]
    pub fn new(signals: &Arc<HartSignals>, mask: u64) -> Self {
        Self { signals: Arc::clone(signals), mask }
    }
}

impl InterruptLine for HartLine {
    fn set(&self, level: bool) {
        self.signals.set_lines(self.mask, level);
    }
}

/// The ACLINT SSWI's effect on one hart: a pulse that sets `mip.SSIP`.
pub struct SoftwareInterruptPulse(pub Arc<HartSignals>);

impl InterruptLine for SoftwareInterruptPulse {
    fn set(&self, level: bool) {
        if level {
            self.0.post_software_interrupt();
        }
    }
}

/// Tells a hart that its `mtimecmp` was written.
pub struct TimerChanged(pub Arc<HartSignals>);

impl InterruptLine for TimerChanged {
    fn set(&self, _level: bool) {
        self.0.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals() -> HartSignals {
        HartSignals::new(HartState::Started)
    }

    #[test]
    fn rising_line_asks_for_attention_once() {
        let signals = signals();
        signals.set_lines(0x200, true);
        assert!(signals.attention());
        signals.clear_attention();
        signals.set_lines(0x200, true);
        assert!(!signals.attention());
        signals.set_lines(0x200, false);
        assert_eq!(signals.lines(), 0);
    }

    #[test]
    fn fence_holds_its_sender_only_while_the_target_is_in_the_guest() {
        let signals = signals();
        signals.enter_guest(|_| panic!("nothing was posted"));
        let ticket = signals.post_fence(Fence::Instructions);
        assert!(!signals.has_fenced(ticket));
        signals.leave_guest();
        assert!(signals.has_fenced(ticket));
        let mut seen = Vec::new();
        signals.enter_guest(|fence| seen.push(fence));
        assert_eq!(seen, [Fence::Instructions]);
        assert!(signals.has_fenced(ticket));
    }

    #[test]
    fn overflowing_fences_become_full_ones() {
        let signals = signals();
        for page in 0..100 {
            signals.post_fence(Fence::Memory { start: GuestVirtual(page << 12), size: 4096, asid: Some(1) });
        }
        let mut seen = Vec::new();
        signals.enter_guest(|fence| seen.push(fence));
        assert!(seen.len() <= FENCE_QUEUE && seen.contains(&FENCE_ALL), "{seen:?}");
    }
}
