//! The hot loop: one operation after the other, with everything that matters in locals.

use rvisor_waist::{GuestMemory, PAGE_SIZE, Word};

use super::code::CodePage;
use super::integer::{self, word};
use super::memory::Fault;
use super::op::Code;
use super::stop::{Stop, stop_of};
use super::system::Outcome;
use super::{Interpreter, atomic, float, system};
use crate::exit::Environment;
use crate::state::Hart;

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// About as many instructions.
    Instructions(u64),
    /// One, without the cache.
    Single,
}

impl Interpreter {
    /// Executes instructions from the hart's program counter on.
    pub fn execute<E: Environment>(&mut self, hart: &mut Hart, env: &E, extent: Extent) -> Stop {
        let memory = env.memory();
        let (limit, mut alone) = match extent {
            Extent::Instructions(count) => (count as i64, false),
            Extent::Single => (1, true),
        };
        // How many instructions are left to do, and how many were when `hart.retired` was last exact.
        let mut remaining = limit;
        let mut counted = limit;
        let mut pc = hart.pc;
        hart.refresh_context();

        let stop = 'fetch: loop {
            if remaining <= 0 {
                break Stop::Pause;
            }
            let place = if alone { Ok(None) } else { self.find(hart, env, pc) };
            let single = match place {
                Ok(Some(_)) => Ok(()),
                Ok(None) => self.fetch_single(hart, env, pc),
                Err(trap) => Err(trap),
            };
            if let Err(trap) = single {
                break Stop::Trap(trap);
            }
            let (page, mut position): (&CodePage, usize) = match place {
                Ok(Some((index, position))) => (self.code.page(index), position),
                _ => (&self.single, CodePage::SINGLE),
            };
            alone = false;
            let x = &mut self.registers;
            let operations = &page.operations[..];
            let base = pc & !(PAGE_SIZE - 1);
            // Position from which instructions are still to be counted.
            let mut start = position;

            loop {
                let operation = &operations[position];

                macro_rules! unary {
                    (|$a:ident| $value:expr) => {{
                        let $a = x[operation.rs1];
                        x[operation.rd] = $value;
                    }};
                }
                macro_rules! binary {
                    (|$a:ident, $b:ident| $value:expr) => {{
                        let ($a, $b) = (x[operation.rs1], x[operation.rs2]);
                        x[operation.rd] = $value;
                    }};
                }
                macro_rules! immediate {
                    (|$a:ident, $b:ident| $value:expr) => {{
                        let ($a, $b) = (x[operation.rs1], operation.imm as u64);
                        x[operation.rd] = $value;
                    }};
                }
                // Counts the instructions up to this one and goes to an address.
                macro_rules! jump_far {
                    ($target:expr) => {{
                        let target = $target;
                        remaining -= position.wrapping_sub(start) as i64 + 1;
                        pc = target;
                        continue 'fetch;
                    }};
                }
                // The same for a halfword of this page.
                macro_rules! jump_near {
                    () => {{
                        remaining -= position.wrapping_sub(start) as i64 + 1;
                        let halfword = operation.imm as usize;
                        position = page.entries[halfword].into();
                        if remaining <= 0 || position == 0 {
                            pc = base + 2 * halfword as u64;
                            continue 'fetch;
                        }
                        start = position;
                        continue;
                    }};
                }
                macro_rules! branch {
                    ($far:literal, |$a:ident, $b:ident| $taken:expr) => {{
                        let ($a, $b) = (x[operation.rs1], x[operation.rs2]);
                        if $taken {
                            if $far {
                                jump_far!(base.wrapping_add(operation.imm as u64));
                            } else {
                                jump_near!();
                            }
                        }
                    }};
                }
                // Stops at this instruction, which isn't retired.
                macro_rules! fail {
                    ($fault:expr) => {{
                        let fault = $fault;
                        remaining -= position.wrapping_sub(start) as i64;
                        pc = base + page.offset(position);
                        break 'fetch stop_of(hart, x, page.bits(position), fault);
                    }};
                }
                // Brings the count of retired instructions up to date.
                macro_rules! count {
                    () => {{
                        remaining -= position.wrapping_sub(start) as i64;
                        start = position;
                        hart.retired = hart.retired.wrapping_add((counted - remaining) as u64);
                        counted = remaining;
                    }};
                }
                macro_rules! address {
                    () => {
                        x[operation.rs1].wrapping_add(operation.imm as u64)
                    };
                }
                macro_rules! load_value {
                    ($t:ty) => {{
                        let address = address!();
                        let cached = hart.tlb.load(address, <$t>::SIZE);
                        match cached.map(|physical| memory.load::<$t>(physical)) {
                            Some(Ok(value)) => value.widen(),
                            _ => match hart.load_uncached::<$t, E>(env, address) {
                                Ok(value) => value,
                                Err(fault) => fail!(fault),
                            },
                        }
                    }};
                }
                macro_rules! load {
                    ($t:ty, $signed:ty) => {
                        x[operation.rd] = load_value!($t) as $signed as u64
                    };
                }
                macro_rules! load_float {
                    ($t:ty) => {{
                        if !hart.float_enabled() {
                            fail!(Fault::Illegal);
                        }
                        let boxing = u64::MAX.checked_shl(8 * <$t>::SIZE as u32).unwrap_or(0);
                        hart.f[usize::from(operation.rd & 31)] = load_value!($t) | boxing;
                        hart.mark_float_dirty();
                    }};
                }
                macro_rules! store_value {
                    ($t:ty, $value:expr) => {{
                        let (address, value): (u64, u64) = (address!(), $value);
                        let cached = hart.tlb.store(address, <$t>::SIZE);
                        match cached.map(|physical| memory.store(physical, <$t>::truncate(value))) {
                            Some(Ok(())) => {}
                            _ => match hart.store_uncached::<$t, E>(env, address, value) {
                                Ok(()) => {}
                                Err(fault) => fail!(fault),
                            },
                        }
                    }};
                }
                macro_rules! store {
                    ($t:ty) => {
                        store_value!($t, x[operation.rs2])
                    };
                }
                macro_rules! store_float {
                    ($t:ty) => {{
                        if !hart.float_enabled() {
                            fail!(Fault::Illegal);
                        }
                        store_value!($t, hart.f[usize::from(operation.rs2 & 31)])
                    }};
                }

                match operation.code {
                    Code::Lui | Code::Li => x[operation.rd] = operation.imm as u64,
                    Code::Move => unary!(|a| a),
                    Code::Nop => {}
                    Code::Auipc => x[operation.rd] = base.wrapping_add(operation.imm as u64),

                    Code::JalNear => {
                        x[operation.rd] = base.wrapping_add(operation.link());
                        jump_near!();
                    }
                    Code::JalFar => {
                        x[operation.rd] = base.wrapping_add(operation.link());
                        jump_far!(base.wrapping_add(operation.imm as u64));
                    }
                    Code::Jalr => {
                        let (offset, link) = operation.jalr();
                        let target = x[operation.rs1].wrapping_add(offset) & !1;
                        x[operation.rd] = base.wrapping_add(link);
                        jump_far!(target);
                    }
                    Code::BeqNear => branch!(false, |a, b| a == b),
                    Code::BneNear => branch!(false, |a, b| a != b),
                    Code::BltNear => branch!(false, |a, b| (a as i64) < b as i64),
                    Code::BgeNear => branch!(false, |a, b| a as i64 >= b as i64),
                    Code::BltuNear => branch!(false, |a, b| a < b),
                    Code::BgeuNear => branch!(false, |a, b| a >= b),
                    Code::BeqFar => branch!(true, |a, b| a == b),
                    Code::BneFar => branch!(true, |a, b| a != b),
                    Code::BltFar => branch!(true, |a, b| (a as i64) < b as i64),
                    Code::BgeFar => branch!(true, |a, b| a as i64 >= b as i64),
                    Code::BltuFar => branch!(true, |a, b| a < b),
                    Code::BgeuFar => branch!(true, |a, b| a >= b),

                    Code::Lb => load!(u8, i8),
                    Code::Lh => load!(u16, i16),
                    Code::Lw => load!(u32, i32),
                    Code::Ld => load!(u64, u64),
                    Code::Lbu => load!(u8, u8),
                    Code::Lhu => load!(u16, u16),
                    Code::Lwu => load!(u32, u32),
                    Code::Flh => load_float!(u16),
                    Code::Flw => load_float!(u32),
                    Code::Fld => load_float!(u64),
                    Code::Sb => store!(u8),
                    Code::Sh => store!(u16),
                    Code::Sw => store!(u32),
                    Code::Sd => store!(u64),
                    Code::Fsh => store_float!(u16),
                    Code::Fsw => store_float!(u32),
                    Code::Fsd => store_float!(u64),

                    Code::Addi => immediate!(|a, i| a.wrapping_add(i)),
                    Code::Slti => immediate!(|a, i| u64::from((a as i64) < i as i64)),
                    Code::Sltiu => immediate!(|a, i| u64::from(a < i)),
                    Code::Xori => immediate!(|a, i| a ^ i),
                    Code::Ori => immediate!(|a, i| a | i),
                    Code::Andi => immediate!(|a, i| a & i),
                    Code::Slli => immediate!(|a, i| a << (i & 63)),
                    Code::Srli => immediate!(|a, i| a >> (i & 63)),
                    Code::Srai => immediate!(|a, i| (a as i64 >> (i & 63)) as u64),
                    Code::Add => binary!(|a, b| a.wrapping_add(b)),
                    Code::Sub => binary!(|a, b| a.wrapping_sub(b)),
                    Code::Sll => binary!(|a, b| a << (b & 63)),
                    Code::Slt => binary!(|a, b| u64::from((a as i64) < b as i64)),
                    Code::Sltu => binary!(|a, b| u64::from(a < b)),
                    Code::Xor => binary!(|a, b| a ^ b),
                    Code::Srl => binary!(|a, b| a >> (b & 63)),
                    Code::Sra => binary!(|a, b| (a as i64 >> (b & 63)) as u64),
                    Code::Or => binary!(|a, b| a | b),
                    Code::And => binary!(|a, b| a & b),
                    Code::Addiw => immediate!(|a, i| word(a.wrapping_add(i) as u32)),
                    Code::Slliw => immediate!(|a, i| word((a as u32) << (i & 31))),
                    Code::Srliw => immediate!(|a, i| word(a as u32 >> (i & 31))),
                    Code::Sraiw => immediate!(|a, i| (a as i32 >> (i & 31)) as u64),
                    Code::Addw => binary!(|a, b| word(a.wrapping_add(b) as u32)),
                    Code::Subw => binary!(|a, b| word(a.wrapping_sub(b) as u32)),
                    Code::Sllw => binary!(|a, b| word((a as u32) << (b & 31))),
                    Code::Srlw => binary!(|a, b| word(a as u32 >> (b & 31))),
                    Code::Sraw => binary!(|a, b| (a as i32 >> (b & 31)) as u64),

                    Code::Mul => binary!(|a, b| a.wrapping_mul(b)),
                    Code::Mulh => binary!(|a, b| integer::mulh(a, b)),
                    Code::Mulhsu => binary!(|a, b| integer::mulhsu(a, b)),
                    Code::Mulhu => binary!(|a, b| integer::mulhu(a, b)),
                    Code::Div => binary!(|a, b| integer::div(a, b)),
                    Code::Divu => binary!(|a, b| integer::divu(a, b)),
                    Code::Rem => binary!(|a, b| integer::rem(a, b)),
                    Code::Remu => binary!(|a, b| integer::remu(a, b)),
                    Code::Mulw => binary!(|a, b| word(a.wrapping_mul(b) as u32)),
                    Code::Divw => binary!(|a, b| integer::divw(a, b)),
                    Code::Divuw => binary!(|a, b| integer::divuw(a, b)),
                    Code::Remw => binary!(|a, b| integer::remw(a, b)),
                    Code::Remuw => binary!(|a, b| integer::remuw(a, b)),

                    Code::Sh1add => binary!(|a, b| (a << 1).wrapping_add(b)),
                    Code::Sh2add => binary!(|a, b| (a << 2).wrapping_add(b)),
                    Code::Sh3add => binary!(|a, b| (a << 3).wrapping_add(b)),
                    Code::AddUw => binary!(|a, b| u64::from(a as u32).wrapping_add(b)),
                    Code::Sh1addUw => binary!(|a, b| (u64::from(a as u32) << 1).wrapping_add(b)),
                    Code::Sh2addUw => binary!(|a, b| (u64::from(a as u32) << 2).wrapping_add(b)),
                    Code::Sh3addUw => binary!(|a, b| (u64::from(a as u32) << 3).wrapping_add(b)),
                    Code::SlliUw => immediate!(|a, i| u64::from(a as u32) << (i & 63)),
                    Code::Andn => binary!(|a, b| a & !b),
                    Code::Orn => binary!(|a, b| a | !b),
                    Code::Xnor => binary!(|a, b| !(a ^ b)),
                    Code::Max => binary!(|a, b| (a as i64).max(b as i64) as u64),
                    Code::Maxu => binary!(|a, b| a.max(b)),
                    Code::Min => binary!(|a, b| (a as i64).min(b as i64) as u64),
                    Code::Minu => binary!(|a, b| a.min(b)),
                    Code::Rol => binary!(|a, b| a.rotate_left(b as u32 & 63)),
                    Code::Ror => binary!(|a, b| a.rotate_right(b as u32 & 63)),
                    Code::Rori => immediate!(|a, i| a.rotate_right(i as u32 & 63)),
                    Code::Rolw => binary!(|a, b| word((a as u32).rotate_left(b as u32 & 31))),
                    Code::Rorw => binary!(|a, b| word((a as u32).rotate_right(b as u32 & 31))),
                    Code::Roriw => immediate!(|a, i| word((a as u32).rotate_right(i as u32 & 31))),
                    Code::Clz => unary!(|a| a.leading_zeros().into()),
                    Code::Ctz => unary!(|a| a.trailing_zeros().into()),
                    Code::Cpop => unary!(|a| a.count_ones().into()),
                    Code::Clzw => unary!(|a| (a as u32).leading_zeros().into()),
                    Code::Ctzw => unary!(|a| (a as u32).trailing_zeros().into()),
                    Code::Cpopw => unary!(|a| (a as u32).count_ones().into()),
                    Code::SextB => unary!(|a| a as i8 as u64),
                    Code::SextH => unary!(|a| a as i16 as u64),
                    Code::ZextH => unary!(|a| u64::from(a as u16)),
                    Code::OrcB => unary!(|a| integer::orc_b(a)),
                    Code::Rev8 => unary!(|a| a.swap_bytes()),
                    Code::Clmul => binary!(|a, b| integer::clmul(a, b)),
                    Code::Clmulr => binary!(|a, b| integer::clmulr(a, b)),
                    Code::Clmulh => binary!(|a, b| integer::clmulh(a, b)),
                    Code::Bclr => binary!(|a, b| a & !(1 << (b & 63))),
                    Code::Bclri => immediate!(|a, i| a & !(1 << (i & 63))),
                    Code::Bext => binary!(|a, b| a >> (b & 63) & 1),
                    Code::Bexti => immediate!(|a, i| a >> (i & 63) & 1),
                    Code::Binv => binary!(|a, b| a ^ 1 << (b & 63)),
                    Code::Binvi => immediate!(|a, i| a ^ 1 << (i & 63)),
                    Code::Bset => binary!(|a, b| a | 1 << (b & 63)),
                    Code::Bseti => immediate!(|a, i| a | 1 << (i & 63)),
                    Code::CzeroEqz => binary!(|a, b| if b == 0 { 0 } else { a }),
                    Code::CzeroNez => binary!(|a, b| if b != 0 { 0 } else { a }),

                    Code::Atomic => {
                        let instruction = &page.side[operation.imm as usize];
                        if let Err(fault) = atomic::execute(hart, env, x, instruction) {
                            fail!(fault);
                        }
                    }
                    Code::Float => {
                        let instruction = &page.side[operation.imm as usize];
                        if float::execute(hart, x, instruction).is_err() {
                            fail!(Fault::Illegal);
                        }
                    }
                    Code::Csr => {
                        count!();
                        let instruction = &page.side[operation.imm as usize];
                        if let Err(fault) = system::access_csr(hart, env, x, instruction) {
                            fail!(fault);
                        }
                    }
                    Code::Status => {
                        count!();
                        let instruction = &page.side[operation.imm as usize];
                        if let Err(fault) = system::access_csr(hart, env, x, instruction) {
                            fail!(fault);
                        }
                        hart.refresh_context();
                        if hart.pending_interrupt_as_seen(env).is_some() {
                            remaining -= 1;
                            pc = base + page.offset(position) + u64::from(instruction.length);
                            break 'fetch Stop::Pause;
                        }
                    }
                    Code::System => {
                        count!();
                        hart.pc = base + page.offset(position);
                        let instruction = &page.side[operation.imm as usize];
                        let behind = hart.pc.wrapping_add(instruction.length.into());
                        if hart.is_observed() {
                            x.save(&mut hart.x);
                        }
                        let (target, retired, stop) = match system::execute(hart, env, x, instruction) {
                            Ok(Outcome::Next) => (behind, 1, Stop::Pause),
                            Ok(Outcome::Jumped) => (hart.pc, 1, Stop::Pause),
                            Ok(Outcome::Leave(exit)) => (behind, 1, Stop::Exit(exit)),
                            Ok(Outcome::Stay(exit)) => (hart.pc, 0, Stop::Exit(exit)),
                            Err(fault) => fail!(fault),
                        };
                        pc = target;
                        remaining -= retired;
                        break 'fetch stop;
                    }
                    Code::Illegal => fail!(Fault::Illegal),
                    Code::Goto => {
                        let target = operation.imm as usize;
                        start = start.wrapping_add(target.wrapping_sub(position));
                        position = target;
                        continue;
                    }
                    Code::Leave => {
                        remaining -= position.wrapping_sub(start) as i64;
                        pc = base.wrapping_add(operation.imm as u64);
                        continue 'fetch;
                    }
                    Code::Unprepared => {
                        let target = usize::from(page.entries[operation.imm as usize]);
                        if target != 0 {
                            start = start.wrapping_add(target.wrapping_sub(position));
                            position = target;
                            continue;
                        }
                        remaining -= position.wrapping_sub(start) as i64;
                        pc = base + 2 * operation.imm as u64;
                        continue 'fetch;
                    }
                    Code::Crossing => {
                        remaining -= position.wrapping_sub(start) as i64;
                        pc = base + page.offset(position);
                        alone = true;
                        continue 'fetch;
                    }
                }
                position += 1;
            }
        };
        hart.pc = pc;
        hart.retired = hart.retired.wrapping_add((counted - remaining) as u64);
        stop
    }
}
