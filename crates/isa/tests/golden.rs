//! Encodings whose meaning an independent disassembler (LLVM 19; GNU binutils for the hypervisor's) confirmed: two of every instruction, three
//! of every compressed one, and some that are illegal (written `-`). Branches are relative to address 0.

use rvisor_isa::{decode, disassemble};

#[test]
fn encodings_read_as_an_independent_disassembler_reads_them() {
    for line in include_str!("golden.txt").lines() {
        let (bits, expected) = line.split_once(' ').unwrap();
        let word = u32::from_str_radix(bits, 16).unwrap();
        let text = decode(word).map_or("-".into(), |instruction| disassemble(&instruction, 0).to_string());
        assert_eq!(text, expected, "{bits}");
    }
}
