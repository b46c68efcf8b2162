//! Short cuts through the host's own arithmetic, where result and flags are certain.
//!
//! Rust's float operators round to nearest even, so only that mode qualifies. What they can't tell is whether
//! a result was inexact; so they serve only where NX has been raised already, as it has in any program after
//! its first few operations. `None` means: do it the long way.

use super::{Flags, Format, Rounding};

/// `a + b`. A finite sum raises nothing but NX: tiny ones are exact.
#[inline]
pub(super) fn add<F: Format>(a: u64, b: u64, rounding: Rounding, flags: Flags) -> Option<u64> {
    let result = on_host::<F>(a, b, rounding, flags, |a, b| a + b, |a, b| a + b)?;
    (result & !F::SIGN < F::INFINITY).then_some(result)
}

/// `a * b`.
#[inline]
pub(super) fn mul<F: Format>(a: u64, b: u64, rounding: Rounding, flags: Flags) -> Option<u64> {
    on_host::<F>(a, b, rounding, flags, |a, b| a * b, |a, b| a * b).filter(is_well_inside::<F>)
}

/// `a / b`.
#[inline]
pub(super) fn div<F: Format>(a: u64, b: u64, rounding: Rounding, flags: Flags) -> Option<u64> {
    on_host::<F>(a, b, rounding, flags, |a, b| a / b, |a, b| a / b).filter(is_well_inside::<F>)
}

/// Whether a rounded result is finite and above the smallest normal number, so that it neither overflowed nor
/// was tiny.
#[inline]
fn is_well_inside<F: Format>(result: &u64) -> bool {
    result & !F::SIGN > 1 << F::FRACTION && result & !F::SIGN < F::INFINITY
}

#[inline]
fn on_host<F: Format>(
    a: u64,
    b: u64,
    rounding: Rounding,
    flags: Flags,
    single: impl Fn(f32, f32) -> f32,
    double: impl Fn(f64, f64) -> f64,
) -> Option<u64> {
    if rounding != Rounding::NearestEven || flags.0 & Flags::NX == 0 {
        return None;
    }
    match F::BITS {
        32 => Some(single(f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits().into()),
        64 => Some(double(f64::from_bits(a), f64::from_bits(b)).to_bits()),
        _ => None,
    }
}
