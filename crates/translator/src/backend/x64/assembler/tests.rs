//! Encodings as an independent disassembler reads them.

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::*;

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const NAMES_32: [&str; 16] = [
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d",
    "r14d", "r15d",
];
const NAMES_16: [&str; 16] = [
    "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w",
    "r15w",
];
const NAMES_8: [&str; 16] = [
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b",
    "r15b",
];

/// The only instruction that `write` writes, without spaces and sizes of memory operands.
fn text(write: impl FnOnce(&mut Assembler)) -> String {
    let mut asm = Assembler::new();
    asm.start(0x1_0000, 0);
    write(&mut asm);
    let code = asm.finish().to_vec();
    let mut decoder = Decoder::with_ip(64, &code, 0x1_0000, DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert!(!instruction.is_invalid() && instruction.len() == code.len(), "{code:02x?}");
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_hex_prefix("0x");
    formatter.options_mut().set_hex_suffix("");
    formatter.options_mut().set_uppercase_hex(false);
    formatter.options_mut().set_small_hex_numbers_in_decimal(false);
    formatter.options_mut().set_branch_leading_zeros(false);
    formatter.options_mut().set_show_branch_size(false);
    let mut out = String::new();
    formatter.format(&instruction, &mut out);
    for size in ["byte ptr ", "dword ptr ", "qword ptr ", "xmmword ptr ", "word ptr "] {
        out = out.replace(size, "");
    }
    out.replace(' ', "")
}

fn registers() -> impl Iterator<Item = Reg> {
    (0..16).map(Reg)
}

fn name(size: Size, register: Reg) -> &'static str {
    if size == Quad { NAMES[usize::from(register.0)] } else { NAMES_32[usize::from(register.0)] }
}

/// Every form of memory operand, and how it is written.
fn places() -> Vec<(Mem, String)> {
    let mut places = Vec::new();
    for base in registers() {
        for displacement in [0, 1, 127, 128, -128, -129, 0x12345, -0x12345] {
            let tail = match displacement {
                0 => String::new(),
                1.. => format!("+{displacement:#x}"),
                _ => format!("-{:#x}", -displacement),
            };
            let at = NAMES[usize::from(base.0)];
            places.push((Mem::new(base, displacement), format!("[{at}{tail}]")));
            for index in registers().filter(|&index| index != RSP) {
                let scale = (index.0 + base.0) & 3;
                let factor = if scale == 0 { String::new() } else { format!("*{}", 1 << scale) };
                let with = NAMES[usize::from(index.0)];
                let mem = Mem::indexed(base, index, scale, displacement);
                places.push((mem, format!("[{at}+{with}{factor}{tail}]")));
            }
        }
    }
    places
}

#[test]
fn every_memory_operand_is_what_was_meant() {
    for (mem, operand) in places() {
        assert_eq!(text(|asm| asm.mov(Quad, RAX, mem)), format!("movrax,{operand}"));
        assert_eq!(text(|asm| asm.lea(Quad, R9, mem)), format!("lear9,{operand}"));
        assert_eq!(text(|asm| asm.mov_to_memory(Double, mem, R12)), format!("mov{operand},r12d"));
        assert_eq!(text(|asm| asm.movq_load(Xmm(9), mem)), format!("movqxmm9,{operand}"));
        assert_eq!(text(|asm| asm.cmp_imm32(mem, 5)), format!("cmp{operand},0x5"));
        let shifted = format!("shlxr10,{operand},r11");
        assert_eq!(text(|asm| asm.shift_into(Shift::Shl, Quad, R10, mem, R11)), shifted);
    }
}

#[test]
fn two_registers_are_what_was_meant() {
    const ALU: [(Alu, &str); 6] = [
        (Alu::Add, "add"),
        (Alu::Or, "or"),
        (Alu::And, "and"),
        (Alu::Sub, "sub"),
        (Alu::Xor, "xor"),
        (Alu::Cmp, "cmp"),
    ];
    for size in [Double, Quad] {
        for (a, b) in registers().flat_map(|a| registers().map(move |b| (a, b))) {
            let (x, y) = (name(size, a), name(size, b));
            for (op, mnemonic) in ALU {
                assert_eq!(text(|asm| asm.alu(op, size, a, b)), format!("{mnemonic}{x},{y}"));
            }
            assert_eq!(text(|asm| asm.mov(size, a, b)), format!("mov{x},{y}"));
            assert_eq!(text(|asm| asm.test(size, a, b)), format!("test{x},{y}"));
            assert_eq!(text(|asm| asm.imul(size, a, b)), format!("imul{x},{y}"));
            assert_eq!(text(|asm| asm.cmov(Cond::Less, size, a, b)), format!("cmovl{x},{y}"));
            assert_eq!(text(|asm| asm.count(0xbd, size, a, b)), format!("lzcnt{x},{y}"));
            assert_eq!(text(|asm| asm.bit(0xab, size, a, b)), format!("bts{x},{y}"));
            assert_eq!(text(|asm| asm.rotate_into(size, a, b, 7)), format!("rorx{x},{y},0x7"));
            for (op, mnemonic) in [(Shift::Shl, "shlx"), (Shift::Shr, "shrx"), (Shift::Sar, "sarx")] {
                let expected = format!("{mnemonic}{x},{y},{}", name(size, RCX));
                assert_eq!(text(|asm| asm.shift_into(op, size, a, b, RCX)), expected);
            }
            let expected = format!("andn{x},{y},{}", name(size, R14));
            assert_eq!(text(|asm| asm.andn(size, a, b, R14)), expected);
        }
    }
}

#[test]
fn narrow_registers_are_the_low_ones() {
    let mem = Mem::new(RSP, 8);
    for register in registers() {
        let at = usize::from(register.0);
        assert_eq!(text(|asm| asm.store(1, mem, register)), format!("mov[rsp+0x8],{}", NAMES_8[at]));
        assert_eq!(text(|asm| asm.store(2, mem, register)), format!("mov[rsp+0x8],{}", NAMES_16[at]));
        assert_eq!(text(|asm| asm.store(4, mem, register)), format!("mov[rsp+0x8],{}", NAMES_32[at]));
        assert_eq!(text(|asm| asm.store(8, mem, register)), format!("mov[rsp+0x8],{}", NAMES[at]));
        assert_eq!(text(|asm| asm.setcc(Cond::Equal, register)), format!("sete{}", NAMES_8[at]));
        for to in registers() {
            let (long, short) = (NAMES[usize::from(to.0)], NAMES_32[usize::from(to.0)]);
            let load = |bytes, signed| text(|asm| asm.load(bytes, signed, to, register));
            assert_eq!(load(1, true), format!("movsx{long},{}", NAMES_8[at]));
            assert_eq!(load(1, false), format!("movzx{short},{}", NAMES_8[at]));
            assert_eq!(load(2, true), format!("movsx{long},{}", NAMES_16[at]));
            assert_eq!(load(2, false), format!("movzx{short},{}", NAMES_16[at]));
            assert_eq!(load(4, true), format!("movsxd{long},{}", NAMES_32[at]));
            assert_eq!(load(4, false), format!("mov{short},{}", NAMES_32[at]));
        }
    }
}

#[test]
fn one_register_is_what_was_meant() {
    for size in [Double, Quad] {
        for r in registers() {
            let x = name(size, r);
            for (op, mnemonic) in [
                (Shift::Rol, "rol"),
                (Shift::Ror, "ror"),
                (Shift::Shl, "shl"),
                (Shift::Shr, "shr"),
                (Shift::Sar, "sar"),
            ] {
                assert_eq!(text(|asm| asm.shift_imm(op, size, r, 9)), format!("{mnemonic}{x},0x9"));
                assert_eq!(text(|asm| asm.shift_cl(op, size, r)), format!("{mnemonic}{x},cl"));
            }
            assert_eq!(text(|asm| asm.not(size, r)), format!("not{x}"));
            assert_eq!(text(|asm| asm.neg(size, r)), format!("neg{x}"));
            assert_eq!(text(|asm| asm.mul_wide(size, r)), format!("mul{x}"));
            assert_eq!(text(|asm| asm.imul_wide(size, r)), format!("imul{x}"));
            assert_eq!(text(|asm| asm.div(size, r)), format!("div{x}"));
            assert_eq!(text(|asm| asm.idiv(size, r)), format!("idiv{x}"));
            assert_eq!(text(|asm| asm.bit_imm(7, size, r, 31)), format!("btc{x},0x1f"));
            assert_eq!(text(|asm| asm.test_imm(size, r, 3)), format!("test{x},0x3"));
            assert_eq!(text(|asm| asm.alu_imm(Alu::Sub, size, r, 127)), format!("sub{x},0x7f"));
            assert_eq!(text(|asm| asm.alu_imm(Alu::And, size, r, 0x800)), format!("and{x},0x800"));
            assert_eq!(
                text(|asm| asm.mov_to_xmm(size, Xmm(9), r)).replace("movd", "movq"),
                format!("movqxmm9,{x}")
            );
            assert_eq!(
                text(|asm| asm.mov_from_xmm(size, r, Xmm(9))).replace("movd", "movq"),
                format!("movq{x},xmm9")
            );
            let locked = format!("lockcmpxchg[r13],{x}");
            assert_eq!(text(|asm| asm.lock_cmpxchg(size, Mem::new(R13, 0), r)), locked);
            assert_eq!(text(|asm| asm.lock_xadd(size, Mem::new(RCX, 0), r)), format!("lockxadd[rcx],{x}"));
            assert_eq!(text(|asm| asm.xchg(size, Mem::new(RCX, 0), r)), format!("xchg[rcx],{x}"));
        }
    }
    for r in registers() {
        let x = name(Quad, r);
        assert_eq!(text(|asm| asm.push(r)), format!("push{x}"));
        assert_eq!(text(|asm| asm.pop(r)), format!("pop{x}"));
        assert_eq!(text(|asm| asm.bswap(r)), format!("bswap{x}"));
        assert_eq!(text(|asm| asm.call_reg(r)), format!("call{x}"));
        assert_eq!(text(|asm| asm.jmp_reg(r)), format!("jmp{x}"));
    }
}

#[test]
fn constants_keep_their_value_in_every_form() {
    for r in registers() {
        let (long, short) = (name(Quad, r), name(Double, r));
        for value in [0u64, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(text(|asm| asm.mov_imm(r, value)), format!("mov{short},{value:#x}"));
        }
        for value in [u64::MAX, -0x8000_0000i64 as u64, 0x1_0000_0000, 0x8000_0000_0000_0000] {
            assert_eq!(text(|asm| asm.mov_imm(r, value)), format!("mov{long},{value:#x}"));
        }
    }
}

#[test]
fn vector_registers_are_what_was_meant() {
    for (a, b) in (0..16).flat_map(|a| (0..16).map(move |b| (a, b))) {
        assert_eq!(text(|asm| asm.movaps(Xmm(a), Xmm(b))), format!("movapsxmm{a},xmm{b}"));
        assert_eq!(text(|asm| asm.sse(Prefix::F2, 0x58, Xmm(a), Xmm(b))), format!("addsdxmm{a},xmm{b}"));
        assert_eq!(text(|asm| asm.sse(Prefix::P66, 0xef, Xmm(a), Xmm(b))), format!("pxorxmm{a},xmm{b}"));
        let fused = format!("vfmadd213sdxmm{a},xmm{b},xmm3");
        assert_eq!(text(|asm| asm.fma(Quad, 0xa9, Xmm(a), Xmm(b), Xmm(3))), fused);
    }
    for (mem, operand) in places() {
        assert_eq!(text(|asm| asm.movq_store(mem, Xmm(10))), format!("movq{operand},xmm10"));
        assert_eq!(text(|asm| asm.movss_store(mem, Xmm(2))), format!("movss{operand},xmm2"));
    }
}

#[test]
fn jumps_lead_where_they_should_and_alignment_counts_the_address() {
    assert_eq!(text(|asm| asm.jmp_to(0x1_1234)), "jmp0x11234");
    assert_eq!(text(|asm| asm.call_to(0x8000)), "call0x8000");
    assert_eq!(text(|asm| asm.jcc_to(Cond::Sign, 0x2_0000)), "js0x20000");
    assert_eq!(text(|asm| asm.no_operation(0x123)).as_str(), "nop[rax+rax+0x1230000]");
    let mut asm = Assembler::new();
    for (base, alignment, ahead) in [(0x1003, 16, 4), (0x1000, 4, 7), (0x100f, 4, 1), (0x1000, 16, 0)] {
        asm.start(base, 0);
        asm.align(alignment, ahead);
        assert!((base as usize + asm.position() + ahead).is_multiple_of(alignment));
    }
}

#[test]
fn what_was_just_stored_is_read_from_its_register() {
    let slot = Mem::new(RSP, 0x40);
    let behind = |write: &dyn Fn(&mut Assembler)| {
        let mut asm = Assembler::new();
        asm.start(0, 0);
        asm.mov_to_memory(Quad, slot, RAX);
        let before = asm.position();
        write(&mut asm);
        asm.code()[before..].to_vec()
    };
    let alone = |write: &dyn Fn(&mut Assembler)| {
        let mut asm = Assembler::new();
        asm.start(0, 0);
        write(&mut asm);
        asm.code().to_vec()
    };
    assert!(behind(&|asm| asm.mov(Quad, RAX, slot)).is_empty());
    assert_eq!(behind(&|asm| asm.mov(Quad, RCX, slot)), alone(&|asm| asm.mov(Quad, RCX, RAX)));
    assert_eq!(behind(&|asm| asm.mov(Double, RAX, slot)), alone(&|asm| asm.mov(Double, RAX, RAX)));
    assert_eq!(
        behind(&|asm| asm.alu(Alu::Add, Quad, RCX, slot)),
        alone(&|asm| asm.alu(Alu::Add, Quad, RCX, RAX))
    );
    // Another place, another instruction in between, or somebody who jumps here.
    let other = Mem::new(RSP, 0x48);
    assert_eq!(behind(&|asm| asm.mov(Quad, RAX, other)), alone(&|asm| asm.mov(Quad, RAX, other)));
    let between = |asm: &mut Assembler| {
        asm.zero(RAX);
        asm.mov(Quad, RCX, slot);
    };
    assert_eq!(behind(&between), alone(&between));
    let bound = |asm: &mut Assembler| {
        asm.here();
        asm.mov(Quad, RAX, slot);
    };
    assert_eq!(behind(&bound), alone(&bound));
}
