//! Prints translations: guest code, and the host code that was made of it, side by side.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use rvisor_isa::disassemble;

use crate::backend::x64::placement::Placement;
use crate::ir::{Move, Plan, Step, Superblock};

/// A superblock of the guest physical page `page` and its code, and where that runs. `marks` has where the code
/// of each node starts, and last where branches that are taken and cold code do; `plan` what the second tier made of each.
pub fn listing(
    page: u64,
    block: &Superblock,
    plan: Option<&Plan>,
    placement: Placement,
    code: &[u8],
    marks: &[u32],
) -> String {
    let mut text = String::new();
    let mut add = |line: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    add(format_args!(
        "{} at {:#x}, {} instructions, {} bytes",
        if plan.is_some() { "trace" } else { "block" },
        page + block.entry as u64,
        block.nodes.len(),
        code.len()
    ));
    let mut formatter = IntelFormatter::new();
    let mut host = |from: usize, to: usize, add: &mut dyn FnMut(std::fmt::Arguments<'_>)| {
        let mut line = String::new();
        for instruction in
            Decoder::with_ip(64, &code[from..to], placement.address(from as u32), DecoderOptions::NONE)
        {
            line.clear();
            formatter.format(&instruction, &mut line);
            add(format_args!("                                        {:x}  {line}", instruction.ip()));
        }
    };
    let ends = marks.iter().skip(1).copied().chain([code.len() as u32]);
    for (number, (&start, end)) in marks.iter().zip(ends).enumerate() {
        match block.nodes.get(number) {
            _ if number + 1 == marks.len() => add(format_args!("  cold code")),
            _ if number + 2 == marks.len() => add(format_args!("  taken branches")),
            Some(node) => {
                let step = plan.and_then(|plan| plan.steps.get(number)).filter(|step| **step != Step::Plain);
                let is_loose = plan.and_then(|plan| plan.loose.get(number)).is_some_and(|loose| *loose);
                add(format_args!(
                    "  {:03x}: {}{}{}{}",
                    node.offset,
                    disassemble(&node.instruction, node.offset as u64),
                    if node.taken { "  (taken)" } else { "" },
                    step.map(|step| format!("  ({step})")).unwrap_or_default(),
                    if is_loose { "  (lower half)" } else { "" }
                ));
                let moves = plan.and_then(|plan| plan.allocation.as_ref()?.moves.get(number));
                for Move { host, guest, fills } in moves.into_iter().flatten() {
                    let what = if *fills { "" } else { "the result, " };
                    add(format_args!("        host register {host} for {what}x{guest}"));
                }
            }
            None => add(format_args!("  {:?}", block.end)),
        }
        host(start as usize, end as usize, &mut add);
    }
    text
}
