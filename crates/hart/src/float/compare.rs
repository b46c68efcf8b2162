//! Comparisons, minimum and maximum, classification.

use core::cmp::Ordering;

use super::{Flags, Format, invalid};

fn is_nan<F: Format>(a: u64) -> bool {
    a & !F::SIGN > F::INFINITY
}

fn is_signalling<F: Format>(a: u64) -> bool {
    is_nan::<F>(a) && a & F::QUIET == 0
}

/// An integer that orders like the number, with the two zeros apart.
fn ordinal<F: Format>(a: u64) -> i64 {
    let magnitude = (a & !F::SIGN) as i64;
    if a & F::SIGN != 0 { !magnitude } else { magnitude }
}

/// How two numbers compare; `None` if one is NaN, which is invalid if it is signalling, or in any case where
/// the comparison itself is `signalling`.
fn order<F: Format>(a: u64, b: u64, signalling: bool, flags: &mut Flags) -> Option<Ordering> {
    if is_nan::<F>(a) || is_nan::<F>(b) {
        if signalling || is_signalling::<F>(a) || is_signalling::<F>(b) {
            flags.raise(Flags::NV);
        }
        return None;
    }
    if (a | b) & !F::SIGN == 0 {
        return Some(Ordering::Equal);
    }
    Some(ordinal::<F>(a).cmp(&ordinal::<F>(b)))
}

/// `a == b` (`feq`): quiet.
#[must_use]
pub fn equal<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    order::<F>(a, b, false, flags).is_some_and(Ordering::is_eq)
}

/// `a < b` (`flt`): any NaN is invalid.
#[must_use]
pub fn less<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    order::<F>(a, b, true, flags).is_some_and(Ordering::is_lt)
}

/// `a <= b` (`fle`): any NaN is invalid.
#[must_use]
pub fn less_or_equal<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    order::<F>(a, b, true, flags).is_some_and(Ordering::is_le)
}

/// `a < b` (`fltq`): quiet.
#[must_use]
pub fn less_quiet<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    order::<F>(a, b, false, flags).is_some_and(Ordering::is_lt)
}

/// `a <= b` (`fleq`): quiet.
#[must_use]
pub fn less_or_equal_quiet<F: Format>(a: u64, b: u64, flags: &mut Flags) -> bool {
    order::<F>(a, b, false, flags).is_some_and(Ordering::is_le)
}

/// The smaller number; a NaN gives way to a number (`fmin`, IEEE 754-2019 minimumNumber).
#[must_use]
pub fn minimum_number<F: Format>(a: u64, b: u64, flags: &mut Flags) -> u64 {
    choose_number::<F>(a, b, Ordering::Less, flags)
}

/// The larger number; a NaN gives way to a number (`fmax`, IEEE 754-2019 maximumNumber).
#[must_use]
pub fn maximum_number<F: Format>(a: u64, b: u64, flags: &mut Flags) -> u64 {
    choose_number::<F>(a, b, Ordering::Greater, flags)
}

/// The smaller number, or NaN if either is (`fminm`, IEEE 754-2019 minimum).
#[must_use]
pub fn minimum<F: Format>(a: u64, b: u64, flags: &mut Flags) -> u64 {
    choose::<F>(a, b, Ordering::Less, flags)
}

/// The larger number, or NaN if either is (`fmaxm`, IEEE 754-2019 maximum).
#[must_use]
pub fn maximum<F: Format>(a: u64, b: u64, flags: &mut Flags) -> u64 {
    choose::<F>(a, b, Ordering::Greater, flags)
}

fn choose_number<F: Format>(a: u64, b: u64, wanted: Ordering, flags: &mut Flags) -> u64 {
    if is_nan::<F>(a) == is_nan::<F>(b) {
        return choose::<F>(a, b, wanted, flags);
    }
    let (nan, number) = if is_nan::<F>(a) { (a, b) } else { (b, a) };
    if is_signalling::<F>(nan) {
        flags.raise(Flags::NV);
    }
    number
}

fn choose<F: Format>(a: u64, b: u64, wanted: Ordering, flags: &mut Flags) -> u64 {
    if is_signalling::<F>(a) || is_signalling::<F>(b) {
        return invalid::<F>(flags);
    }
    if is_nan::<F>(a) || is_nan::<F>(b) {
        return F::CANONICAL_NAN;
    }
    if ordinal::<F>(a).cmp(&ordinal::<F>(b)) == wanted { a } else { b }
}

/// The mask of `fclass`: one bit of ten, from negative infinity (bit 0) to quiet NaN (bit 9).
#[must_use]
pub fn classify<F: Format>(a: u64) -> u64 {
    let magnitude = a & !F::SIGN;
    // Steps away from the two zeros, which are bits 3 and 4.
    let steps = match magnitude {
        _ if is_nan::<F>(a) => return if is_signalling::<F>(a) { 1 << 8 } else { 1 << 9 },
        0 => 0,
        _ if magnitude == F::INFINITY => 3,
        _ if magnitude >> F::FRACTION == 0 => 1,
        _ => 2,
    };
    if a & F::SIGN != 0 { 1 << (3 - steps) } else { 1 << (4 + steps) }
}
