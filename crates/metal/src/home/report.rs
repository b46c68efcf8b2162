//! What guests and physical harts have used, in words.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use rvisor_machine::PowerRequest;

use super::{Home, MILLISECOND, say};
use crate::arch;
use crate::copies::Copies;
use crate::engine::Statistics;
use crate::guest::Guest;

const MIB: u64 = 1 << 20;

/// Parts of a thousand, with one more digit: 1234 are 123.4 per thousand, written as 12.34 %.
fn percent(part: u64, whole: u64) -> (u64, u64) {
    let hundredths = (u128::from(part) * 10_000 / u128::from(whole.max(1))) as u64;
    (hundredths / 100, hundredths % 100)
}

impl Home {
    /// Ticks that a guest's harts have run, and how often one was picked.
    fn used(&self, guest: &Guest) -> (u64, u64) {
        let queue = self.queue.lock();
        let used = guest.tasks.iter().map(|id| queue.ran(*id));
        used.fold((0, 0), |sum, used| (sum.0 + used.0, sum.1 + used.1))
    }

    /// What the engine counted for a guest, and pages filled.
    fn engine_statistics(&self, guest: &Guest) -> (Statistics, u64) {
        let (mut sum, mut fills) = (Statistics::default(), 0);
        for id in &guest.tasks {
            // A task that runs is counted up to its last slice, some milliseconds ago.
            let task = self.tasks[*id].1.lock();
            sum += task.statistics;
            fills += task.tables.fills();
        }
        (sum, fills)
    }

    /// Says how a guest ended and what it cost.
    pub(super) fn report_end(&self, guest: &Guest, request: Option<PowerRequest>) {
        let (sum, fills) = self.engine_statistics(guest);
        let (ran, _) = self.used(guest);
        let copied = guest.vm.memory().copies().map(Copies::made);
        let copied = copied.map_or(String::new(), |made| format!(", {made} pages of text copied"));
        say(format_args!(
            "guest {}: {} after {} ms of processor time; {sum}, {fills} shadow pages filled{copied}",
            guest.bundled.name,
            if guest.is_kept.swap(false, Ordering::SeqCst) { "was saved" } else { Guest::ending(request) },
            ran / MILLISECOND
        ));
    }

    /// Says what a guest is doing: one line.
    pub(super) fn list(&self, index: usize) {
        let guest = &self.guests[index];
        let is_paused = self.queue.lock().is_paused(guest.group);
        let state = match (guest.is_on.load(Ordering::SeqCst), is_paused) {
            (false, _) => "off",
            (true, true) => "paused",
            (true, false) => "on",
        };
        let (has, limit) = guest.memory();
        let bundled = &guest.bundled;
        say(format_args!(
            "{:16} {state:6} {} harts, {} of {} MiB, weight {}",
            bundled.name,
            bundled.harts,
            has / MIB,
            limit / MIB,
            bundled.weight
        ));
    }

    /// Says what a guest has used.
    pub(super) fn statistics(&self, index: usize) {
        let guest = &self.guests[index];
        let (ran, switches) = self.used(guest);
        let on = arch::now().saturating_sub(guest.since.load(Ordering::SeqCst));
        let (whole, fraction) = percent(ran, on);
        let (sum, fills) = self.engine_statistics(guest);
        let [read, written] = self.hardware.moved(index);
        let (lost, name) = (self.hardware.lost(index), guest.bundled.name);
        say(format_args!(
            "{name}: {} ms on a processor, {whole}.{fraction:02} % of one, {switches} slices; {sum}, {fills} shadow pages \
             filled; {} KiB read, {} KiB written, {lost} frames lost",
            ran / MILLISECOND,
            read / 1024,
            written / 1024,
        ));
        let microseconds = sum.service().map(|ticks| ticks * 1000 / MILLISECOND);
        let [instructions, calls, page_faults, interrupts, rest] = microseconds;
        say(format_args!(
            "{name}: the monitor's time, in microseconds: {instructions} for privileged instructions, {calls} for calls, \
             {page_faults} for page faults, {interrupts} for interrupts, {rest} for others"
        ));
    }

    /// Says what the physical harts do.
    pub(super) fn hart_statistics(&self) {
        for (index, hart) in self.harts.iter().enumerate() {
            let load = |ticks: &core::sync::atomic::AtomicU64| ticks.load(Ordering::Relaxed);
            let (asleep, own) = (load(&hart.asleep), load(&hart.own));
            say(format_args!(
                "hart {index}: asleep for {} ms, the monitor's own for {} ms",
                asleep / MILLISECOND,
                own / MILLISECOND
            ));
        }
        let (left, total) = (self.frames.unreserved(), self.frames.total());
        say(format_args!("memory: {} of {} MiB are promised to no guest", left / MIB, total / MIB));
    }
}
