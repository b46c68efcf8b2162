//! Floating-point instructions between registers (Unprivileged ISA, chapters "F", "D", "Zfh" and "Zfa").
//!
//! Loads and stores of `f` registers are with the other loads and stores; the arithmetic itself is in
//! [`crate::float`].

use rvisor_isa::{Instruction, Op};

use super::registers::Registers;
use crate::IllegalInstruction;
use crate::float::{self, Double, Flags, Format, Half, Rounding, Single, nan_box, unbox};
use crate::state::Hart;

/// Rounding mode of an instruction that takes it from `frm`.
const DYNAMIC: u8 = 7;

/// Dispatches an operation. A row names an operation in its three formats, of which `F` is the one at hand.
macro_rules! by_format {
    (
        match $op:expr, $F:ident {
            $($half:ident $single:ident $double:ident => $action:expr,)*
        }
        $($others:tt)*
    ) => {
        match $op {
            $(
                Op::$half => { type $F = Half; $action }
                Op::$single => { type $F = Single; $action }
                Op::$double => { type $F = Double; $action }
            )*
            $($others)*
        }
    };
}

/// Executes an instruction of F, D, Zfhmin, Zfh or Zfa that isn't a load or store. Illegal while `mstatus.FS`
/// is Off, with a reserved rounding mode, and if it is no such instruction.
#[inline(never)]
pub fn execute(
    hart: &mut Hart,
    x: &mut Registers,
    instruction: &Instruction,
) -> Result<(), IllegalInstruction> {
    if !hart.float_enabled() {
        return Err(IllegalInstruction);
    }
    // Instructions without the field have a zero there.
    let mode = if instruction.aux == DYNAMIC { hart.rounding_mode() } else { instruction.aux };
    let mode = Rounding::from_bits(mode).ok_or(IllegalInstruction)?;
    let flags = &mut Flags(hart.csr.fflags);
    let run = &mut Operands { hart, x, i: instruction };
    by_format! {
        match instruction.op, F {
            FaddH FaddS FaddD => run.binary::<F>(|a, b| float::add::<F>(a, b, mode, flags)),
            FsubH FsubS FsubD => run.binary::<F>(|a, b| float::sub::<F>(a, b, mode, flags)),
            FmulH FmulS FmulD => run.binary::<F>(|a, b| float::mul::<F>(a, b, mode, flags)),
            FdivH FdivS FdivD => run.binary::<F>(|a, b| float::div::<F>(a, b, mode, flags)),
            FsqrtH FsqrtS FsqrtD => run.unary::<F>(|a| float::sqrt::<F>(a, mode, flags)),

            FmaddH FmaddS FmaddD => run.fused::<F>(0, 0, mode, flags),
            FmsubH FmsubS FmsubD => run.fused::<F>(0, F::SIGN, mode, flags),
            FnmsubH FnmsubS FnmsubD => run.fused::<F>(F::SIGN, 0, mode, flags),
            FnmaddH FnmaddS FnmaddD => run.fused::<F>(F::SIGN, F::SIGN, mode, flags),

            FsgnjH FsgnjS FsgnjD => run.binary::<F>(|a, b| a & !F::SIGN | b & F::SIGN),
            FsgnjnH FsgnjnS FsgnjnD => run.binary::<F>(|a, b| a & !F::SIGN | !b & F::SIGN),
            FsgnjxH FsgnjxS FsgnjxD => run.binary::<F>(|a, b| a ^ b & F::SIGN),

            FminH FminS FminD => run.binary::<F>(|a, b| float::minimum_number::<F>(a, b, flags)),
            FmaxH FmaxS FmaxD => run.binary::<F>(|a, b| float::maximum_number::<F>(a, b, flags)),
            FminmH FminmS FminmD => run.binary::<F>(|a, b| float::minimum::<F>(a, b, flags)),
            FmaxmH FmaxmS FmaxmD => run.binary::<F>(|a, b| float::maximum::<F>(a, b, flags)),

            FeqH FeqS FeqD => run.test::<F>(|a, b| float::equal::<F>(a, b, flags)),
            FltH FltS FltD => run.test::<F>(|a, b| float::less::<F>(a, b, flags)),
            FleH FleS FleD => run.test::<F>(|a, b| float::less_or_equal::<F>(a, b, flags)),
            FltqH FltqS FltqD => run.test::<F>(|a, b| float::less_quiet::<F>(a, b, flags)),
            FleqH FleqS FleqD => run.test::<F>(|a, b| float::less_or_equal_quiet::<F>(a, b, flags)),
            FclassH FclassS FclassD => run.x_from_f::<F>(float::classify::<F>),

            FroundH FroundS FroundD => {
                run.unary::<F>(|a| float::round_to_integral::<F>(a, mode, flags));
            },
            FroundnxH FroundnxS FroundnxD => {
                run.unary::<F>(|a| float::round_to_integral_exact::<F>(a, mode, flags));
            },

            FcvtWH FcvtWS FcvtWD => run.x_from_f::<F>(|a| float::to_i32::<F>(a, mode, flags) as u64),
            FcvtWuH FcvtWuS FcvtWuD => {
                run.x_from_f::<F>(|a| float::to_u32::<F>(a, mode, flags) as i32 as u64);
            },
            FcvtLH FcvtLS FcvtLD => run.x_from_f::<F>(|a| float::to_i64::<F>(a, mode, flags) as u64),
            FcvtLuH FcvtLuS FcvtLuD => run.x_from_f::<F>(|a| float::to_u64::<F>(a, mode, flags)),

            FcvtHW FcvtSW FcvtDW => run.f_from_x::<F>(|x| float::from_i32::<F>(x as i32, mode, flags)),
            FcvtHWu FcvtSWu FcvtDWu => {
                run.f_from_x::<F>(|x| float::from_u32::<F>(x as u32, mode, flags));
            },
            FcvtHL FcvtSL FcvtDL => run.f_from_x::<F>(|x| float::from_i64::<F>(x as i64, mode, flags)),
            FcvtHLu FcvtSLu FcvtDLu => run.f_from_x::<F>(|x| float::from_u64::<F>(x, mode, flags)),

            FmvHX FmvWX FmvDX => run.f_from_x::<F>(|x| x),
            FmvXH FmvXW FmvXD => run.move_to_x::<F>(),
            FliH FliS FliD => run.set_f::<F>(float::load_immediate::<F>(instruction.rs1)),
        }
        Op::FcvtSH => run.convert::<Half, Single>(mode, flags),
        Op::FcvtDH => run.convert::<Half, Double>(mode, flags),
        Op::FcvtHS => run.convert::<Single, Half>(mode, flags),
        Op::FcvtDS => run.convert::<Single, Double>(mode, flags),
        Op::FcvtHD => run.convert::<Double, Half>(mode, flags),
        Op::FcvtSD => run.convert::<Double, Single>(mode, flags),
        Op::FcvtmodWD => run.x_from_f::<Double>(|a| float::to_i32_modular(a, flags) as u64),
        _ => return Err(IllegalInstruction),
    }
    hart.raise_float_flags(flags.0);
    Ok(())
}

/// The registers that an instruction names. `F` is always the format that they are read or written in.
struct Operands<'a> {
    hart: &'a mut Hart,
    x: &'a mut Registers,
    i: &'a Instruction,
}

impl Operands<'_> {
    #[inline(always)]
    fn f(&self, register: u8) -> u64 {
        self.hart.f[usize::from(register & 31)]
    }

    #[inline(always)]
    fn set_f<F: Format>(&mut self, bits: u64) {
        self.hart.f[usize::from(self.i.rd & 31)] = nan_box::<F>(bits);
        self.hart.mark_float_dirty();
    }

    #[inline(always)]
    fn unary<F: Format>(&mut self, operation: impl FnOnce(u64) -> u64) {
        self.set_f::<F>(operation(unbox::<F>(self.f(self.i.rs1))));
    }

    #[inline(always)]
    fn binary<F: Format>(&mut self, operation: impl FnOnce(u64, u64) -> u64) {
        self.set_f::<F>(operation(unbox::<F>(self.f(self.i.rs1)), unbox::<F>(self.f(self.i.rs2))));
    }

    /// `rs1 * rs2 + rs3`, with signs of the product and of `rs3` changed by the masks.
    fn fused<F: Format>(&mut self, product: u64, addend: u64, mode: Rounding, flags: &mut Flags) {
        let [a, b, c] = [self.i.rs1, self.i.rs2, self.i.rs3].map(|register| unbox::<F>(self.f(register)));
        self.set_f::<F>(float::fused_multiply_add::<F>(a ^ product, b, c ^ addend, mode, flags));
    }

    fn convert<From: Format, To: Format>(&mut self, mode: Rounding, flags: &mut Flags) {
        self.set_f::<To>(float::convert::<From, To>(unbox::<From>(self.f(self.i.rs1)), mode, flags));
    }

    #[inline(always)]
    fn test<F: Format>(&mut self, predicate: impl FnOnce(u64, u64) -> bool) {
        let holds = predicate(unbox::<F>(self.f(self.i.rs1)), unbox::<F>(self.f(self.i.rs2)));
        self.x.write(self.i.rd, holds.into());
    }

    #[inline(always)]
    fn x_from_f<F: Format>(&mut self, operation: impl FnOnce(u64) -> u64) {
        self.x.write(self.i.rd, operation(unbox::<F>(self.f(self.i.rs1))));
    }

    #[inline(always)]
    fn f_from_x<F: Format>(&mut self, operation: impl FnOnce(u64) -> u64) {
        self.set_f::<F>(operation(self.x[self.i.rs1]));
    }

    /// `fmv.x.*`: the low bits whatever they are, NaN-boxed or not, sign-extended.
    fn move_to_x<F: Format>(&mut self) {
        let unused = 64 - F::BITS;
        let bits = self.f(self.i.rs1) << unused;
        self.x.write(self.i.rd, (bits as i64 >> unused) as u64);
    }
}

#[cfg(test)]
mod tests;
