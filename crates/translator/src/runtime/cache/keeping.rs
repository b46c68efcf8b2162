//! Blocks of earlier runs, and for later ones.

use super::{Block, BlockId, CodeCache, Piece, append};
use crate::backend::x64::lower::Lowered;
use crate::backend::x64::placement::{Placement, move_apart};
use crate::frontend::LAST;
use crate::ir::Superblock;
use crate::runtime::store::Wanted;
use crate::runtime::store::record::{Origin, Parts, ThunkUse};

impl CodeCache {
    /// Keeps the block that was just translated for later runs.
    pub(super) fn keep(&mut self, page: u64, block: &Superblock, lowered: &Lowered, pieces: &[Piece]) {
        let Some(store) = &mut self.store else { return };
        let thunks = self.thunks.all();
        let uses = self.asm.externals().iter().map(|external| {
            let thunk = thunks.iter().position(|&thunk| thunk == external.target)? as u8;
            Some(ThunkUse { at: external.at, thunk })
        });
        // Code that leads elsewhere can't be found again by a later run.
        let Some(uses) = uses.collect::<Option<Vec<_>>>() else { return };
        let is_across = pieces.iter().any(|piece| piece.page != page);
        let last_matters = lowered.patches.iter().any(|patch| patch.target == LAST);
        let pieces: Vec<_> = pieces.iter().map(|piece| (piece.range.clone(), &*piece.bytes)).collect();
        store.keep(&Parts {
            origin: Origin {
                entry: block.entry,
                is_across,
                reaches_over: (last_matters && !is_across).then_some(block.last_reaches_over),
                nodes: block.nodes.len() as u16,
            },
            pieces: &pieces,
            start: lowered.start,
            thunks: &uses,
            patches: &lowered.patches,
            placement: self.asm.placement(),
            crossings: self.asm.crossings(),
            code: self.asm.code(),
        });
    }

    /// Adds the kept code of a block in `page`, whose instruction across the page's end reaches into `next`.
    pub(super) fn take(&mut self, page: u64, next: u64, wanted: Wanted<'_>) -> Option<BlockId> {
        let (hot, cold) = self.prepare();
        let record = self.store.as_mut()?.take(wanted)?;
        let placement = Placement { hot, cold, split: record.split };
        let first_link = self.links.len() as u32;
        self.moved.clear();
        self.moved.extend_from_slice(record.code);
        move_apart(&mut self.moved, record.split, record.crossings(), placement.gap());
        let mut write = |at: u32, value: u32| {
            self.moved[at as usize..][..4].copy_from_slice(&value.to_le_bytes());
        };
        let thunks = self.thunks.all();
        for ThunkUse { at, thunk } in record.thunks() {
            let behind = placement.address(at) + 4;
            write(at, thunks[usize::from(thunk)].wrapping_sub(behind) as u32);
        }
        let patches: Vec<_> = record.patches().collect();
        for (number, patch) in (first_link..).zip(&patches) {
            write(patch.number, number);
        }
        append(&mut self.memory, &self.moved, placement);
        let pages = [page, next];
        let pieces = record.pieces().enumerate().map(|(number, (range, bytes))| {
            let page = if record.origin.is_across { pages[number] } else { page };
            Piece { page, range, bytes: bytes.into() }
        });
        let block = Block {
            physical: page + record.origin.entry as u64,
            pieces: pieces.collect(),
            incoming: Vec::new(),
            links: 0..0,
            partner: None,
            watched: None,
        };
        let code = placement.address(record.start);
        Some(self.insert(page, placement, code, block, patches.into_iter()))
    }

    /// Writes the translations of this run for later ones, if they are kept and there are enough new ones.
    pub fn save(&mut self) {
        if let Some(store) = &mut self.store {
            log::info!(
                "{} superblocks were translated, {} kept ones taken",
                self.counts.blocks - self.counts.traces,
                store.taken
            );
            store.save();
        }
    }
}
