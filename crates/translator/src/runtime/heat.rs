//! Where a hart spends its instructions, learnt from where its slices end: nothing is counted while code runs.

use rustc_hash::FxHashMap;
use rvisor_waist::PAGE_SIZE;

use crate::ir::Offset;

/// Slices that end at an address before the second tier translates what is there.
const HOT: u16 = 8;
/// Pages that are remembered.
const PAGES: usize = 1024;

/// Slices that ended at each halfword of a page, as it goes.
#[derive(Clone)]
pub struct PageHeat(Box<[u16; PAGE_SIZE as usize / 2]>);

impl PageHeat {
    /// Slices that ended at an even offset.
    pub fn at(&self, offset: Offset) -> u16 {
        self.0.get(offset as usize / 2).copied().unwrap_or(0)
    }
}

/// Slices that ended at each guest physical address.
#[derive(Default)]
pub struct Heat(FxHashMap<u64, PageHeat>);

impl Heat {
    /// Notes that a slice ended at an address. What is known of its page, if the address has just become hot.
    pub fn note(&mut self, physical: u64) -> Option<&PageHeat> {
        if self.0.len() >= PAGES {
            self.0.clear();
        }
        let page = physical & !(PAGE_SIZE - 1);
        let heat = self.0.entry(page).or_insert_with(|| PageHeat(Box::new([0; PAGE_SIZE as usize / 2])));
        let count = &mut heat.0[(physical % PAGE_SIZE) as usize / 2];
        *count = count.saturating_add(1);
        // What couldn't be done once is tried again, now and then.
        (*count >= HOT && count.is_power_of_two()).then_some(heat)
    }
}
