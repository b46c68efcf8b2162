//! Short cuts through the host's own arithmetic, where result and flags are certain.
//!
//! Rust's float operators round to nearest even, so only that mode qualifies, and results that neither
//! overflow nor are tiny. Whether a result is inexact they don't tell: that takes a look at its error, which
//! can be left out once NX has been raised. `None` means: do it the long way.

use super::{Flags, Format, Rounding};

/// What the short cuts need to know of an operation.
#[derive(Clone, Copy)]
pub(super) enum Operator {
    Add,
    Mul,
    Div,
}

/// `a` and `b` under the operator.
#[inline]
pub(super) fn binary<F: Format>(
    operator: Operator,
    a: u64,
    b: u64,
    rounding: Rounding,
    flags: &mut Flags,
) -> Option<u64> {
    if rounding != Rounding::NearestEven {
        return None;
    }
    let result = on_host::<F>(operator, a, b)?;
    let magnitude = result & !F::SIGN;
    // Tiny sums are exact.
    if magnitude >= F::INFINITY || !matches!(operator, Operator::Add) && magnitude <= 1 << F::FRACTION {
        return None;
    }
    if flags.0 & Flags::NX == 0 {
        let inexact = match operator {
            Operator::Add => !is_exact_sum::<F>(a, b, result)?,
            Operator::Mul => !is_exact_product::<F>(a, b)?,
            Operator::Div => {
                !(is_exact_product::<F>(result, b)? && on_host::<F>(Operator::Mul, result, b)? == a)
            }
        };
        flags.raise(u8::from(inexact) * Flags::NX);
    }
    Some(result)
}

#[inline(always)]
fn on_host<F: Format>(operator: Operator, a: u64, b: u64) -> Option<u64> {
    macro_rules! compute {
        ($a:expr, $b:expr) => {
            match operator {
                Operator::Add => $a + $b,
                Operator::Mul => $a * $b,
                Operator::Div => $a / $b,
            }
        };
    }
    match F::BITS {
        32 => Some(compute!(f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits().into()),
        64 => Some(compute!(f64::from_bits(a), f64::from_bits(b)).to_bits()),
        _ => None,
    }
}

/// Whether a finite sum has no error, by Knuth's exact computation of that error; `None` if a step overflows.
#[inline]
fn is_exact_sum<F: Format>(a: u64, b: u64, sum: u64) -> Option<bool> {
    let add = |a, b| on_host::<F>(Operator::Add, a, b);
    let sub = |a, b| on_host::<F>(Operator::Add, a, b ^ F::SIGN);
    let b_taken = sub(sum, a)?;
    let a_taken = sub(sum, b_taken)?;
    let error = add(sub(a, a_taken)?, sub(b, b_taken)?)? & !F::SIGN;
    (error < F::INFINITY).then_some(error == 0)
}

/// Whether a product that is a normal number is exact, by the widths of its factors; `None` if that doesn't
/// decide it.
#[inline]
fn is_exact_product<F: Format>(a: u64, b: u64) -> Option<bool> {
    let precision = F::FRACTION + 1;
    // One less than the product's width, or equal to it.
    let width = width::<F>(a)? + width::<F>(b)?;
    (width != precision + 1).then_some(width <= precision)
}

/// Bits from the first to the last one of a normal number's significand.
#[inline]
fn width<F: Format>(a: u64) -> Option<u32> {
    let is_normal = a & F::INFINITY != 0;
    let significand = a | 1 << F::FRACTION;
    is_normal.then(|| F::FRACTION + 1 - significand.trailing_zeros())
}
