//! What the cache knows of one page of guest code.

use super::BlockId;

/// One page.
#[derive(Default)]
pub struct PageCode {
    /// Blocks that were made from bytes of the page.
    pub blocks: Vec<BlockId>,
    /// Jumps inside the page whose targets have no block yet, sorted: offsets in halfwords, and numbers of links.
    waiting: Vec<(u16, u32)>,
}

const fn halfword(offset: u64) -> u16 {
    (offset / 2) as u16
}

impl PageCode {
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
