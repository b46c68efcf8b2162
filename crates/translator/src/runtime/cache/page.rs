//! What the cache knows of one page of guest code.

use super::BlockId;

/// One page: short sorted lists side by side, because what is looked for in a page comes in bunches.
#[derive(Default)]
pub struct PageCode {
    /// Blocks that were made from bytes of the page.
    pub blocks: Vec<BlockId>,
    /// Offsets at which blocks are entered, in halfwords, and which ones.
    offsets: Vec<u16>,
    entries: Vec<BlockId>,
    /// Jumps inside the page whose targets have no block yet: offsets in halfwords, and numbers of links.
    waiting: Vec<(u16, u32)>,
}

const fn halfword(offset: u64) -> u16 {
    (offset / 2) as u16
}

impl PageCode {
    /// The block that is entered at an offset.
    pub fn find(&self, offset: u64) -> Option<BlockId> {
        self.offsets.binary_search(&halfword(offset)).ok().map(|place| self.entries[place])
    }

    /// From now on `block` is the one that is entered at an offset.
    pub fn enter(&mut self, offset: u64, block: BlockId) {
        match self.offsets.binary_search(&halfword(offset)) {
            Ok(place) => self.entries[place] = block,
            Err(place) => {
                self.offsets.insert(place, halfword(offset));
                self.entries.insert(place, block);
            }
        }
    }

    /// Takes the block away that is entered at an offset, if it is `block`.
    pub fn leave(&mut self, offset: u64, block: BlockId) {
        if let Ok(place) = self.offsets.binary_search(&halfword(offset))
            && self.entries[place] == block
        {
            self.offsets.remove(place);
            self.entries.remove(place);
        }
    }

    /// A link to an offset waits for the block there.
    pub fn wait(&mut self, offset: u64, link: u32) {
        let waiting = (halfword(offset), link);
        let place = self.waiting.partition_point(|&other| other < waiting);
        self.waiting.insert(place, waiting);
    }

    /// Links that have waited for a block at an offset.
    pub fn waited(&mut self, offset: u64) -> Vec<u32> {
        let offset = halfword(offset);
        let first = self.waiting.partition_point(|&(other, _)| other < offset);
        let length = self.waiting[first..].iter().take_while(|&&(other, _)| other == offset).count();
        self.waiting.drain(first..first + length).map(|(_, link)| link).collect()
    }

    /// Links of a block that is gone don't wait any more.
    pub fn forget_links(&mut self, links: &std::ops::Range<u32>) {
        self.waiting.retain(|(_, link)| !links.contains(link));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_where_they_are_entered() {
        let mut page = PageCode::default();
        page.enter(0x10, 1);
        page.enter(0xffe, 2);
        assert_eq!([0x10, 0xffe, 0x12].map(|offset| page.find(offset)), [Some(1), Some(2), None]);
        page.enter(0x10, 3);
        assert_eq!(page.find(0x10), Some(3));
        page.leave(0x10, 1);
        assert_eq!(page.find(0x10), Some(3));
        page.leave(0x10, 3);
        assert_eq!([0x10, 0xffe].map(|offset| page.find(offset)), [None, Some(2)]);
    }

    #[test]
    fn links_wait_until_their_target_or_their_own_block_is_gone() {
        let mut page = PageCode::default();
        for (offset, link) in [(0x10, 0), (0x20, 1), (0x10, 2), (0x10, 3)] {
            page.wait(offset, link);
        }
        page.forget_links(&(2..3));
        assert_eq!(page.waited(0x10), [0, 3]);
        assert_eq!((page.waited(0x10), page.waited(0x20)), (vec![], vec![1]));
    }
}
