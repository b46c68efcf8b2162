//! Where a hart spends its instructions, learnt from where its slices end: nothing is counted while code runs.

use rustc_hash::FxHashMap;
use rvisor_waist::PAGE_SIZE;

use crate::frontend::is_branch;
use crate::ir::{Node, Offset, Superblock};

/// Slices that end in a block before the second tier translates what is there.
const HOT: u16 = 8;
/// Pages that are remembered.
const PAGES: usize = 512;

/// Slices that ended in a page, by offset in halfwords. Few places of a page are ever seen.
#[derive(Clone, Default)]
struct Counts(Vec<(u16, u16)>);

impl Counts {
    fn add(&mut self, physical: u64) -> u16 {
        let halfword = (physical % PAGE_SIZE / 2) as u16;
        let place = self.0.iter().position(|&(other, _)| other == halfword);
        let place = place.unwrap_or_else(|| {
            self.0.push((halfword, 0));
            self.0.len() - 1
        });
        let count = &mut self.0[place].1;
        *count = count.saturating_add(1);
        *count
    }

    fn at(&self, offset: Offset) -> f32 {
        let found = self.0.iter().find(|&&(halfword, _)| Offset::from(halfword) == offset / 2);
        f32::from(found.map_or(0, |&(_, count)| count))
    }
}

/// Slices that ended in a page.
#[derive(Clone, Default)]
pub struct PageHeat {
    /// By the block that was running, at its entry. A block counts as often as it has instructions.
    spent: Counts,
    /// By the place that the block led to.
    reached: Counts,
}

impl PageHeat {
    /// Which branch of a block, by its offset, leads away more often than not, if one does.
    ///
    /// A way out ends a slice as often as it is taken, times the instructions up to there.
    pub fn taken(&self, block: &Superblock) -> Option<Node> {
        let all = self.spent.at(block.entry);
        let mut rest = all;
        let mut ways: Vec<(Node, f32)> = Vec::new();
        for (node, executed) in block.nodes.iter().zip(1u16..) {
            if is_branch(node.instruction.op) {
                let ended = self.reached.at(node.offset + node.instruction.imm).min(all);
                rest = (rest - ended).max(0.0);
                ways.push((*node, ended / f32::from(executed)));
            }
        }
        let mut onward = rest / block.nodes.len().max(1) as f32;
        let mut found = None;
        for (node, away) in ways.into_iter().rev() {
            if away > onward {
                found = Some(node);
            }
            onward += away;
        }
        found
    }
}

/// Where a hart's slices ended, by guest physical page.
#[derive(Default)]
pub struct Heat(FxHashMap<u64, PageHeat>);

impl Heat {
    /// Notes that a slice ended in the block that starts at `block`, which led to `target`. What is known of the
    /// block's page, if it has just become hot.
    pub fn note(&mut self, block: u64, target: Option<u64>) -> Option<&PageHeat> {
        if self.0.len() >= PAGES {
            self.0.clear();
        }
        if let Some(target) = target {
            self.page(target).reached.add(target);
        }
        let heat = self.page(block);
        let count = heat.spent.add(block);
        // What couldn't be done once is tried again, now and then.
        (count >= HOT && count.is_power_of_two()).then_some(heat)
    }

    fn page(&mut self, physical: u64) -> &mut PageHeat {
        self.0.entry(physical & !(PAGE_SIZE - 1)).or_default()
    }
}

#[cfg(test)]
mod tests {
    use rvisor_isa::{Instruction, Op};

    use super::*;
    use crate::ir::End;

    /// A block of additions with a branch at its third place that leads to offset 0x100.
    fn block() -> Superblock {
        let node = |number: i32| {
            let op = if number == 2 { Op::Beq } else { Op::Addi };
            let imm = if number == 2 { 0x100 - 8 } else { 1 };
            let instruction = Instruction { imm, ..Instruction::new(op, 4) };
            Node { instruction, bits: 0, offset: 4 * number, taken: false }
        };
        let nodes = (0..9).map(node).collect();
        Superblock { entry: 0, nodes, end: End::Indirect, last_reaches_over: false }
    }

    fn heat(away: usize, onward: usize) -> Option<Offset> {
        let mut heat = Heat::default();
        for _ in 0..away {
            heat.note(0x8000_0000, Some(0x8000_0100));
        }
        for _ in 0..onward {
            heat.note(0x8000_0000, None);
        }
        heat.page(0x8000_0000).taken(&block()).map(|node| node.offset)
    }

    #[test]
    fn block_becomes_hot_and_is_named_again_when_twice_as_hot() {
        let mut heat = Heat::default();
        let named: Vec<_> = (1..=32).filter(|_| heat.note(0x8000_0010, None).is_some()).collect();
        assert_eq!(named, [8, 16, 32]);
    }

    #[test]
    fn branch_is_taken_if_it_leads_away_more_often_than_not() {
        // Three instructions up to the branch, nine in all: 10 and 10 times, 9 and 11.
        assert_eq!(heat(33, 90), Some(8));
        assert_eq!(heat(27, 99), None);
        assert_eq!(heat(0, 0), None);
    }
}
