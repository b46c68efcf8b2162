//! Addition, multiplication, division, square root and fused multiply-add.

use super::fast::{self, Operator};
use super::{
    Class, Flags, Format, Rounding, Unpacked, invalid, normal, normalize_round_pack, propagate,
    shift_right_jam, signed, unpack,
};

/// `a + b`.
#[inline]
#[must_use]
pub fn add<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    match fast::binary::<F>(Operator::Add, a, b, rounding, flags) {
        Some(result) => result,
        None => add_unpacked::<F>(a, b, rounding, flags),
    }
}

/// `a - b`.
#[inline]
#[must_use]
pub fn sub<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    add::<F>(a, b ^ F::SIGN, rounding, flags)
}

/// `a * b`.
#[inline]
#[must_use]
pub fn mul<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    match fast::binary::<F>(Operator::Mul, a, b, rounding, flags) {
        Some(result) => result,
        None => mul_unpacked::<F>(a, b, rounding, flags),
    }
}

/// `a / b`.
#[inline]
#[must_use]
pub fn div<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    match fast::binary::<F>(Operator::Div, a, b, rounding, flags) {
        Some(result) => result,
        None => div_unpacked::<F>(a, b, rounding, flags),
    }
}

fn add_unpacked<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let (left, right) = (unpack::<F>(a), unpack::<F>(b));
    match (left.class, right.class) {
        (Class::Nan { .. }, _) | (_, Class::Nan { .. }) => {
            propagate(F::CANONICAL_NAN, [left.class, right.class], flags)
        }
        (Class::Infinity, Class::Infinity) if left.negative != right.negative => invalid::<F>(flags),
        (Class::Infinity, _) => a,
        (_, Class::Infinity) => b,
        (Class::Zero, Class::Zero) => zero_sum::<F>(left.negative, right.negative, rounding),
        (_, Class::Zero) => a,
        (Class::Zero, _) => b,
        (Class::Finite { exponent: e, significand: s }, Class::Finite { exponent: f, significand: t }) => {
            let left = Term::new(left.negative, (e, s));
            let right = Term::new(right.negative, (f, t));
            add_terms::<F>(left, right, rounding, flags)
        }
    }
}

fn mul_unpacked<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let (left, right) = (unpack::<F>(a), unpack::<F>(b));
    let negative = left.negative != right.negative;
    match (left.class, right.class) {
        (Class::Nan { .. }, _) | (_, Class::Nan { .. }) => {
            propagate(F::CANONICAL_NAN, [left.class, right.class], flags)
        }
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => invalid::<F>(flags),
        (Class::Infinity, _) | (_, Class::Infinity) => signed::<F>(negative, F::INFINITY),
        (Class::Zero, _) | (_, Class::Zero) => signed::<F>(negative, 0),
        (Class::Finite { exponent: e, significand: s }, Class::Finite { exponent: f, significand: t }) => {
            let product = u128::from(s) * u128::from(t);
            normalize_round_pack::<F>(negative, e + f + 1, product, rounding, flags)
        }
    }
}

fn div_unpacked<F: Format>(a: u64, b: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let (left, right) = (unpack::<F>(a), unpack::<F>(b));
    let negative = left.negative != right.negative;
    match (left.class, right.class) {
        (Class::Nan { .. }, _) | (_, Class::Nan { .. }) => {
            propagate(F::CANONICAL_NAN, [left.class, right.class], flags)
        }
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => invalid::<F>(flags),
        (Class::Infinity, _) => signed::<F>(negative, F::INFINITY),
        (_, Class::Infinity) | (Class::Zero, _) => signed::<F>(negative, 0),
        (Class::Finite { .. }, Class::Zero) => {
            flags.raise(Flags::DZ);
            signed::<F>(negative, F::INFINITY)
        }
        (Class::Finite { exponent: e, significand: s }, Class::Finite { exponent: f, significand: t }) => {
            let (numerator, denominator) = (u128::from(s) << 63, u128::from(t));
            let (quotient, rest) = (numerator / denominator, numerator % denominator);
            let jammed = quotient << 64 | u128::from(rest != 0);
            normalize_round_pack::<F>(negative, e - f, jammed, rounding, flags)
        }
    }
}

/// The square root of `a`.
#[must_use]
pub fn sqrt<F: Format>(a: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    let Unpacked { negative, class } = unpack::<F>(a);
    match class {
        Class::Nan { .. } => propagate(F::CANONICAL_NAN, [class], flags),
        Class::Zero => a,
        _ if negative => invalid::<F>(flags),
        Class::Infinity => a,
        Class::Finite { exponent, significand } => {
            let radicand = u128::from(significand) << (63 + (exponent & 1));
            let root = radicand.isqrt();
            let jammed = root << 64 | u128::from(root * root != radicand);
            normalize_round_pack::<F>(false, exponent >> 1, jammed, rounding, flags)
        }
    }
}

/// `a * b + c`, rounded once.
#[must_use]
pub fn fused_multiply_add<F: Format>(a: u64, b: u64, c: u64, rounding: Rounding, flags: &mut Flags) -> u64 {
    if let (Some(left), Some(right), Some(addend)) = (normal::<F>(a), normal::<F>(b), normal::<F>(c)) {
        let product = Term::product((a ^ b) & F::SIGN != 0, left, right);
        return add_terms::<F>(product, Term::new(c & F::SIGN != 0, addend), rounding, flags);
    }
    let (left, right, addend) = (unpack::<F>(a), unpack::<F>(b), unpack::<F>(c));
    let negative = left.negative != right.negative;
    match (left.class, right.class, addend.class) {
        // Invalid even if the addend is a quiet NaN.
        (Class::Infinity, Class::Zero, _) | (Class::Zero, Class::Infinity, _) => invalid::<F>(flags),
        (Class::Nan { .. }, _, _) | (_, Class::Nan { .. }, _) | (_, _, Class::Nan { .. }) => {
            propagate(F::CANONICAL_NAN, [left.class, right.class, addend.class], flags)
        }
        (Class::Infinity, _, Class::Infinity) | (_, Class::Infinity, Class::Infinity)
            if negative != addend.negative =>
        {
            invalid::<F>(flags)
        }
        (Class::Infinity, _, _) | (_, Class::Infinity, _) => signed::<F>(negative, F::INFINITY),
        (_, _, Class::Infinity) => c,
        (Class::Zero, _, Class::Zero) | (_, Class::Zero, Class::Zero) => {
            zero_sum::<F>(negative, addend.negative, rounding)
        }
        (Class::Zero, _, _) | (_, Class::Zero, _) => c,
        (
            Class::Finite { exponent: e, significand: s },
            Class::Finite { exponent: f, significand: t },
            class,
        ) => {
            let product = Term::product(negative, (e, s), (f, t));
            let Class::Finite { exponent, significand } = class else {
                let Term { exponent, significand, .. } = product;
                return normalize_round_pack::<F>(negative, exponent, significand, rounding, flags);
            };
            let addend = Term::new(addend.negative, (exponent, significand));
            add_terms::<F>(product, addend, rounding, flags)
        }
    }
}

/// `significand / 2^127 * 2^exponent`; bit 127 of the significand is free for a carry.
struct Term {
    negative: bool,
    exponent: i32,
    significand: u128,
}

impl Term {
    #[inline]
    fn new(negative: bool, (exponent, significand): (i32, u64)) -> Self {
        Self { negative, exponent: exponent + 1, significand: u128::from(significand) << 63 }
    }

    /// A product has at most 106 significant bits, so that none is lost here or in an alignment after which
    /// much could cancel.
    #[inline]
    fn product(negative: bool, (e, s): (i32, u64), (f, t): (i32, u64)) -> Self {
        Self { negative, exponent: e + f + 2, significand: (u128::from(s) * u128::from(t)) >> 1 }
    }
}

/// The sum of two terms that aren't zero.
#[inline]
fn add_terms<F: Format>(a: Term, b: Term, rounding: Rounding, flags: &mut Flags) -> u64 {
    let (large, small) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
    let aligned = shift_right_jam(small.significand, large.exponent.abs_diff(small.exponent));
    let (negative, significand) = if large.negative == small.negative {
        (large.negative, large.significand + aligned)
    } else if large.significand >= aligned {
        (large.negative, large.significand - aligned)
    } else {
        (small.negative, aligned - large.significand)
    };
    if significand == 0 {
        return signed::<F>(rounding == Rounding::Down, 0);
    }
    normalize_round_pack::<F>(negative, large.exponent, significand, rounding, flags)
}

/// The sum of two zeros (IEEE 754-2019, 6.3).
fn zero_sum<F: Format>(a_negative: bool, b_negative: bool, rounding: Rounding) -> u64 {
    let negative = if a_negative == b_negative { a_negative } else { rounding == Rounding::Down };
    signed::<F>(negative, 0)
}
