//! Guests' states are kept on the disk, and guests go on from them.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use rvisor_machine::memory_map::RAM_BASE;
use rvisor_machine::persist::{MemoryRun, MemoryRuns, SavedState};
use rvisor_machine::save_area::{Content, SaveArea, SaveError};
use rvisor_machine::{PowerRequest, VirtualHart};
use rvisor_waist::{Clock, GuestMemory, PAGE_SIZE, StateError};
use thiserror::Error;

use super::{Home, MILLISECOND, say};
use crate::arch::Partition;
use crate::backend::area::Area;
use crate::driver::blk::Blk;
use crate::guest::{Guest, StartError};

const PAGE: usize = PAGE_SIZE as usize;

/// Why a guest can't be saved.
#[derive(Debug, Error)]
pub enum KeepError {
    /// It is off.
    #[error("it is off")]
    Off,
    /// It is about to be off.
    #[error("it is ending")]
    Ending,
    /// There is no room for it.
    #[error("it has no save area; give it save = {{ start = … }} in the bundle's description")]
    NoArea,
    /// The rest.
    #[error("it can't be saved, and goes on: {0}")]
    Save(#[from] SaveError),
}

/// What a guest begins with.
enum Beginning {
    Kernel,
    Bundle,
    Area,
}

impl Home {
    fn area(&self, guest: &Guest) -> Result<Option<SaveArea<Area<Blk>>>, SaveError> {
        let Some(range) = guest.bundled.save else { return Ok(None) };
        let area = self.hardware.area(range).ok_or(SaveError::Disk)?;
        let size = area.size();
        SaveArea::open(area, size).map(Some)
    }

    /// The harts of a guest that is being switched on: where it was saved, if it was, else at its kernel. What a guest goes
    /// on from is used up before it runs.
    pub(super) fn first_harts(&self, guest: &Guest) -> Result<Vec<VirtualHart>, StartError> {
        let (mut area, origin) = (self.area(guest)?, guest.origin());
        let content = area.as_ref().and_then(SaveArea::content);
        let left = || self.frames.unreserved();
        let beginning = beginning(content, origin, guest.has_run.load(Ordering::SeqCst))?;
        let harts = match (&beginning, &mut area, &guest.bundled.saved) {
            (Beginning::Area, Some(area), _) => {
                let state = area.state()?;
                wait_for_time(guest, &state)?;
                guest.resume(&state, |memory| fill(memory, |pages, take| area.memory(pages, take)), left)?
            }
            (Beginning::Bundle, _, Some(saved)) => {
                let state = SavedState::new(saved.state.to_vec()).map_err(SaveError::from)?;
                wait_for_time(guest, &state)?;
                guest.resume(
                    &state,
                    |memory| fill(memory, |pages, take| runs(saved.memory, pages, take)),
                    left,
                )?
            }
            _ => guest.power_on(&self.hardware.seed(), left)?,
        };
        if let Some(area) = area.as_mut().filter(|_| !matches!(beginning, Beginning::Kernel))
            && let Err(error) = area.note_use(origin)
        {
            guest.power_off();
            return Err(error.into());
        }
        Ok(harts)
    }

    /// Keeps a guest's state, and switches it off. Returns how many bytes that are. Until all of it is on the disk, the guest
    /// stands still; if that fails, it goes on.
    pub(super) fn save(&self, index: usize) -> Result<u64, KeepError> {
        let guest = &self.guests[index];
        // Whoever switches guests off waits meanwhile.
        let _power = self.power.lock();
        if !guest.is_on.load(Ordering::SeqCst) {
            return Err(KeepError::Off);
        }
        let mut area = self.area(guest)?.ok_or(KeepError::NoArea)?;
        let was_paused = self.queue.lock().is_paused(guest.group);
        self.queue.lock().pause(guest.group, true);
        self.harts.iter().for_each(|hart| hart.preempted.store(true, Ordering::SeqCst));
        self.interrupt_others();
        // Who has one of its tasks gives it back now.
        let mut tasks: Vec<_> = guest.tasks.iter().map(|id| self.tasks[*id].1.lock()).collect();
        let kept = if guest.vm.power_requested().is_some() {
            Err(KeepError::Ending)
        } else {
            guest.vm.board().freeze();
            let ticks = guest.clock.ticks();
            let harts: Result<Vec<_>, _> = tasks.iter_mut().map(|task| task.hart.save(&guest.vm)).collect();
            keep(guest, harts, ticks, &mut area).map_err(KeepError::from)
        };
        drop(tasks);
        if kept.is_ok() {
            guest.is_kept.store(true, Ordering::SeqCst);
            // Its harts look at that before they enter the guest.
            guest.vm.request_power(PowerRequest::PowerOff);
        } else {
            guest.vm.board().thaw();
        }
        self.queue.lock().pause(guest.group, was_paused && kept.is_err());
        self.interrupt_others();
        kept
    }
}

/// Waits until a guest's time can be what its state says; not for long.
fn wait_for_time(guest: &Guest, state: &SavedState) -> Result<(), StartError> {
    const SECOND: u64 = 1000 * MILLISECOND;
    const LONGEST: u64 = 60 * SECOND;
    let ticks = state.shape().map_err(SaveError::from)?.ticks;
    let behind = guest.clock.behind(ticks);
    if behind > LONGEST {
        return Err(StartError::Time(behind.div_ceil(SECOND)));
    }
    if behind > 0 {
        let seconds = behind.div_ceil(SECOND);
        say(format_args!(
            "guest {}: waits {seconds} s for the hardware's time to be its own",
            guest.bundled.name
        ));
    }
    while guest.clock.behind(ticks) > 0 {
        core::hint::spin_loop();
    }
    Ok(())
}

/// What a guest begins with. `content` is its save area's, `origin` is of the state that the bundle has, or 0.
fn beginning(content: Option<Content>, origin: u64, has_run: bool) -> Result<Beginning, StartError> {
    match content {
        Some(content) if content.is_kept && content.origin != origin => Err(StartError::OtherBundle),
        Some(content) if content.is_kept => Ok(Beginning::Area),
        Some(content) if content.origin == origin => Ok(Beginning::Kernel),
        _ if origin == 0 || has_run => Ok(Beginning::Kernel),
        _ => Ok(Beginning::Bundle),
    }
}

/// Writes a guest down that stands still.
fn keep(
    guest: &Guest,
    harts: Result<Vec<Vec<u8>>, StateError>,
    ticks: u64,
    area: &mut SaveArea<Area<Blk>>,
) -> Result<u64, SaveError> {
    let state = guest.vm.save(&harts?, ticks)?;
    let memory = guest.vm.memory();
    area.keep(guest.origin(), &state, |put| {
        let mut page = [0; PAGE];
        for (start, length) in memory.chunks() {
            for offset in (0..length).step_by(PAGE) {
                let address = start.offset(offset);
                memory.read(address, &mut page).map_err(|_| SaveError::Damaged)?;
                put((address.0 - RAM_BASE.0) / PAGE_SIZE, &page)?;
            }
        }
        Ok(())
    })
}

/// Fills memory with the runs that `give` has for so many pages.
fn fill(
    memory: &Partition,
    give: impl FnOnce(u64, &mut dyn FnMut(MemoryRun) -> Result<(), SaveError>) -> Result<(), SaveError>,
) -> Result<(), SaveError> {
    let range = memory.range();
    give((range.end.0 - range.start.0) / PAGE_SIZE, &mut |run| {
        memory.write(range.start.offset(run.first * PAGE_SIZE), &run.bytes).map_err(|_| SaveError::Damaged)
    })
}

/// Takes the runs of memory apart that a bundle has.
fn runs(
    mut bytes: &[u8],
    pages: u64,
    take: &mut dyn FnMut(MemoryRun) -> Result<(), SaveError>,
) -> Result<(), SaveError> {
    let mut runs = MemoryRuns::new(pages, |buffer: &mut [u8]| {
        let (head, rest) = bytes.split_at_checked(buffer.len()).ok_or(SaveError::Damaged)?;
        buffer.copy_from_slice(head);
        bytes = rest;
        Ok::<_, SaveError>(())
    });
    while let Some(run) = runs.next_run()? {
        take(run)?;
    }
    Ok(())
}
