//! Decoding and encoding are inverse, over every operation and every compressed encoding.

use rvisor_isa::{Instruction, Op, compressed, decode, disassemble, encode};

/// SplitMix64: enough randomness for operands.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn every_operation_round_trips_with_random_operands() {
    let mut random = Random(1);
    for &op in Op::ALL {
        let (mask, fixed) = op.encoding();
        let mut decoded = 0;
        for _ in 0..1000 {
            let bits = random.next() as u32 & !mask | fixed;
            let Some(instruction) = decode(bits) else { continue };
            if instruction.op != op {
                continue;
            }
            decoded += 1;
            let again = encode(&instruction).unwrap_or_else(|| panic!("{}", op.mnemonic()));
            assert_eq!(decode(again), Some(instruction), "{}", disassemble(&instruction, 0));
            if !matches!(op, Op::Fence | Op::FenceI) {
                assert_eq!(again, bits, "{}", disassemble(&instruction, 0));
            }
        }
        assert!(decoded > 500, "{} decodes too rarely: {decoded}", op.mnemonic());
    }
}

#[test]
fn compressed_encodings_round_trip_and_expand() {
    let mut legal = 0;
    for bits in 0..=u16::MAX {
        // Bits above the halfword belong to the next instruction.
        let decoded = decode(u32::from(bits) | 0xabcd_0000);
        if bits & 3 == 3 {
            assert_eq!(compressed::decode16(bits), None);
            continue;
        }
        assert_eq!(decoded, compressed::decode16(bits));
        let Some(instruction) = decoded else { continue };
        legal += 1;
        assert_eq!(instruction.length, 2);
        assert!(compressed::name(bits).is_some_and(|(name, _)| name.starts_with("c.")));
        let expansion = encode(&instruction).unwrap_or_else(|| panic!("{bits:#06x} has no expansion"));
        assert_eq!(decode(expansion), Some(Instruction { length: 4, ..instruction }));
        let again = compressed::encode16(&instruction).unwrap();
        assert_eq!(compressed::decode16(again), Some(instruction), "{bits:#06x}");
    }
    assert!(legal > 40_000, "{legal}");
}

#[test]
fn reserved_compressed_encodings_are_none() {
    // Illegal by definition; c.addi4spn, c.addiw, c.addi16sp, c.lui, c.lwsp, c.ldsp and c.jr with a zero that
    // is reserved; holes in quadrants 0 and 1.
    for bits in [
        0x0000,
        0x0004,
        0x2001,
        0x6101,
        0x6281,
        0x4002,
        0x6002,
        0x8002,
        0x8c40 | 1 << 12,
        0x9c79,
        0x9c7d,
        0x8c60,
    ] {
        assert_eq!(compressed::decode16(bits), None, "{bits:#06x}");
    }
}

#[test]
fn random_words_decode_to_what_encodes_back() {
    let mut random = Random(2);
    for _ in 0..1_000_000 {
        let bits = random.next() as u32 | 3;
        if let Some(instruction) = decode(bits) {
            let again = encode(&instruction).unwrap_or_else(|| panic!("{bits:#010x}"));
            assert_eq!(decode(again), Some(instruction), "{bits:#010x}");
        }
    }
}

#[test]
fn operands_out_of_range_do_not_encode() {
    let addi = Instruction { rd: 1, rs1: 2, ..Instruction::new(Op::Addi, 4) };
    assert!(encode(&addi).is_some());
    assert_eq!(encode(&Instruction { imm: 2048, ..addi }), None);
    assert_eq!(encode(&Instruction { rd: 32, ..addi }), None);
    assert_eq!(encode(&Instruction { rs2: 1, ..addi }), None);
    assert_eq!(encode(&Instruction { imm: 1, ..Instruction::new(Op::Jal, 4) }), None);
    assert_eq!(encode(&Instruction { rd: 1, ..Instruction::new(Op::AmocasQ, 4) }), None);
    assert_eq!(encode(&Instruction { aux: 5, ..Instruction::new(Op::FaddS, 4) }), None);
}

#[test]
fn hint_space_encodes_under_its_own_name_only() {
    let prefetch = Instruction { rs1: 10, imm: -32, ..Instruction::new(Op::PrefetchW, 4) };
    let bits = encode(&prefetch).unwrap();
    assert_eq!(decode(bits), Some(prefetch));
    let ori = Instruction { rs1: 10, imm: -32 | 3, ..Instruction::new(Op::Ori, 4) };
    assert_eq!(encode(&ori), None);
    assert_eq!(decode(0x0100_000f), Some(Instruction::new(Op::Pause, 4)));
    assert_eq!(decode(0x0100_008f).map(|fence| fence.op), Some(Op::Fence));
}

#[test]
fn reserved_rounding_modes_are_illegal() {
    let (_, fadd) = Op::FaddS.encoding();
    let legal = |rm: u32| decode(fadd | rm << 12).is_some();
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(legal), [true, true, true, true, true, false, false, true]);
}

#[test]
fn text_follows_the_assembler() {
    let text = |bits: u32| disassemble(&decode(bits).unwrap(), 0x8000_0000).to_string();
    assert_eq!(text(0xfe01_0ce3), "beq sp, zero, 0x7ffffff8");
    assert_eq!(text(0x0050_0513), "addi a0, zero, 5");
    assert_eq!(text(0xff01_0113), "addi sp, sp, -16");
    assert_eq!(text(0x0081_3083), "ld ra, 8(sp)");
    assert_eq!(text(0x1805_1073), "csrrw zero, satp, a0");
    assert_eq!(text(0x0ff0_000f), "fence iorw, iorw");
    assert_eq!(text(0x06b5_252f), "amoadd.w.aqrl a0, a1, (a0)");
    assert_eq!(text(0x4501), "addi a0, zero, 0");
}
