//! What blocks were made from.

use std::ops::Range;

use rvisor_waist::PAGE_SIZE;

use super::PageBytes;
use crate::ir::{End, Offset, Superblock};

/// Guest code that a block was made from.
pub struct Piece {
    pub page: u64,
    pub range: Range<u16>,
    pub bytes: Box<[u8]>,
}

impl Piece {
    /// Whether the page still has it, which holds `bytes` now.
    pub fn is_current(&self, bytes: &PageBytes) -> bool {
        *self.bytes == bytes.0[usize::from(self.range.start)..usize::from(self.range.end)]
    }
}

/// What a superblock was made from.
pub fn pieces(page: u64, block: &Superblock, bytes: &PageBytes) -> Vec<Piece> {
    let piece = |range: Range<u16>| {
        let bytes = &bytes.0[usize::from(range.start)..usize::from(range.end)];
        Piece { page, bytes: bytes.into(), range }
    };
    ranges(block).into_iter().map(piece).collect()
}

/// The runs of bytes that a superblock was made from.
fn ranges(block: &Superblock) -> Vec<Range<u16>> {
    let mut ranges: Vec<Range<u16>> = Vec::new();
    let mut add = |start: Offset, end: Offset| {
        let (start, end) = (start as u16, end.min(PAGE_SIZE as Offset) as u16);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    };
    for node in &block.nodes {
        add(node.offset, node.next());
    }
    if let End::Interpret(offset) = block.end {
        // What it is was read as far as the page goes.
        add(offset, offset + 4);
    }
    ranges
}
