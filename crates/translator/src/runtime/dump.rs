//! Prints translations: guest code, and the host code that was made of it, side by side.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use rvisor_isa::disassemble;

use crate::ir::Superblock;

/// A superblock of the guest physical page `page` and its code, which runs at `base`. `marks` has where the code
/// of each node starts, and last where cold code does.
pub fn listing(page: u64, block: &Superblock, base: u64, code: &[u8], marks: &[u32]) -> String {
    let mut text = String::new();
    let mut add = |line: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    add(format_args!(
        "block at {:#x}, {} instructions, {} bytes",
        page + block.entry as u64,
        block.nodes.len(),
        code.len()
    ));
    let mut formatter = IntelFormatter::new();
    let mut host = |from: usize, to: usize, add: &mut dyn FnMut(std::fmt::Arguments<'_>)| {
        let mut line = String::new();
        for instruction in Decoder::with_ip(64, &code[from..to], base + from as u64, DecoderOptions::NONE) {
            line.clear();
            formatter.format(&instruction, &mut line);
            add(format_args!("                                        {:x}  {line}", instruction.ip()));
        }
    };
    let ends = marks.iter().skip(1).copied().chain([code.len() as u32]);
    for (number, (&start, end)) in marks.iter().zip(ends).enumerate() {
        match block.nodes.get(number) {
            Some(node) => {
                add(format_args!(
                    "  {:03x}: {}",
                    node.offset,
                    disassemble(&node.instruction, node.offset as u64)
                ));
            }
            None if number == block.nodes.len() => add(format_args!("  {:?}", block.end)),
            None => add(format_args!("  cold code")),
        }
        host(start as usize, end as usize, &mut add);
    }
    text
}
