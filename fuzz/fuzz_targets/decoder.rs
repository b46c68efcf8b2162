#![no_main]
//! Decoder, encoder and disassembler.

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rvisor_isa::{Instruction, Op, compressed, decode, disassemble, encode};

/// An instruction of any operation with any operands, most of them out of range.
#[derive(Arbitrary, Debug)]
struct Made {
    op: u16,
    registers: [u8; 4],
    aux: u8,
    imm: i32,
    length: u8,
}

impl Made {
    fn instruction(&self) -> Instruction {
        let [rd, rs1, rs2, rs3] = self.registers;
        let op = Op::ALL[usize::from(self.op) % Op::ALL.len()];
        Instruction { op, rd, rs1, rs2, rs3, aux: self.aux, imm: self.imm, length: self.length }
    }
}

/// What the decoder makes of `bits` means the same when it is encoded again.
fn check_bits(bits: u32, pc: u64) {
    let Some(instruction) = decode(bits) else { return };
    let text = disassemble(&instruction, pc).to_string();
    assert!(text.starts_with(instruction.op.mnemonic()) || text == "fence.tso", "{bits:#010x}: {text}");
    // With its reserved fields clear, this fence is called pause.
    if (instruction.op, instruction.aux, instruction.imm) == (Op::Fence, 0, 0x10) {
        return;
    }
    let whole = encode(&instruction).map(decode);
    assert_eq!(whole, Some(Some(Instruction { length: 4, ..instruction })), "{bits:#010x}: {text}");
    if bits & 3 != 3 {
        assert!(compressed::name(bits as u16).is_some(), "{bits:#06x}: {text}");
        let half = compressed::encode16(&instruction).map(compressed::decode16);
        assert_eq!(half, Some(Some(instruction)), "{bits:#06x}: {text}");
    }
}

/// What encodes at all means what was asked for.
fn check_instruction(instruction: &Instruction, pc: u64) {
    assert!(!disassemble(instruction, pc).to_string().is_empty());
    if let Some(bits) = encode(instruction) {
        assert_eq!(decode(bits), Some(Instruction { length: 4, ..*instruction }), "{bits:#010x}");
    }
    if let Some(bits) = compressed::encode16(instruction) {
        assert_eq!(decode(bits.into()), Some(Instruction { length: 2, ..*instruction }), "{bits:#06x}");
    }
}

fuzz_target!(|input: (Vec<u32>, Vec<Made>, u64)| {
    let (words, made, pc) = input;
    words.iter().for_each(|&bits| check_bits(bits, pc));
    made.iter().for_each(|made| check_instruction(&made.instruction(), pc));
});
