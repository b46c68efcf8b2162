//! What a profile tells of the cache.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::CodeCache;
use crate::backend::x64::placement::Placement;
use crate::ir::{Plan, Superblock};
use crate::runtime::dump::listing;

/// Counts for the profile.
#[derive(Clone, Copy, Default, Debug)]
pub struct CacheCounts {
    /// Superblocks translated.
    pub blocks: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// Bytes of host code.
    pub bytes: u64,
    /// Blocks removed because their guest code changed.
    pub removed: u64,
    /// Times that everything was thrown away to make room.
    pub flushes: u64,
    /// Traces that the second tier translated, and guest instructions in them.
    pub traces: u64,
    pub traced: u64,
}

/// A block whose entries are counted, and its listing.
pub struct Watched {
    pub entered: Box<AtomicU64>,
    pub block: Superblock,
    pub plan: Option<Plan>,
    pub page: u64,
    pub placement: Placement,
    pub code: Box<[u8]>,
    pub marks: Vec<u32>,
}

impl CodeCache {
    /// What was translated, and the blocks in which most instructions were executed.
    pub fn report(&self) -> String {
        /// Blocks that are listed.
        const HOTTEST: usize = 10;
        let CacheCounts { blocks, instructions, bytes, removed, flushes, traces, traced } = self.counts;
        let mut text = format!(
            "{blocks:12}  superblocks of {instructions} instructions made into {bytes} bytes\n\
             {traces:12}  of them traces of {traced} instructions by the second tier\n\
             {removed:12}  superblocks removed because their code changed\n\
             {flushes:12}  times that the cache was full\n"
        );
        let watched = self.blocks.iter().filter_map(|block| block.watched.as_ref());
        let mut watched: Vec<_> = watched
            .map(|watched| {
                let instructions = watched.block.nodes.len() as u64;
                (watched.entered.load(Ordering::Relaxed) * instructions, watched)
            })
            .collect();
        let all: u64 = watched.iter().map(|(executed, _)| executed).sum();
        watched.sort_by_key(|&(executed, _)| std::cmp::Reverse(executed));
        for (executed, watched) in watched.into_iter().take(HOTTEST) {
            let percent = executed as f64 * 100.0 / all.max(1) as f64;
            // Writing to a string can't fail.
            let Watched { block, plan, page, placement, code, marks, .. } = watched;
            let listing = listing(*page, block, plan.as_ref(), *placement, code, marks);
            let _ = write!(text, "\n{percent:.1} % of instructions, at most: {listing}");
        }
        text
    }
}
