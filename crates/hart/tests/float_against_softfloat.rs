//! Every operation of `float`, result and flags, against Berkeley SoftFloat on random operands that lean
//! towards the edges. `RVISOR_FLOAT_CASES` sets how many for each operation, format and rounding mode.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use rvisor_hart::float::{self, Double, Flags, Format, Half, Rounding, Single};
use softfloat_wrapper::{ExceptionFlags, F16, F32, F64, Float, RoundingMode};

const MODES: [(Rounding, RoundingMode); 5] = [
    (Rounding::NearestEven, RoundingMode::TiesToEven),
    (Rounding::TowardZero, RoundingMode::TowardZero),
    (Rounding::Down, RoundingMode::TowardNegative),
    (Rounding::Up, RoundingMode::TowardPositive),
    (Rounding::NearestMaxMagnitude, RoundingMode::TiesToAway),
];

/// A format here and there.
trait Pair {
    type Ours: Format;
    type Theirs: Float;
    fn theirs(bits: u64) -> Self::Theirs;
    fn bits(value: Self::Theirs) -> u64;
}

macro_rules! pair {
    ($($name:ident $theirs:ident $bits:ident)*) => {$(
        impl Pair for $name {
            type Ours = $name;
            type Theirs = $theirs;
            fn theirs(bits: u64) -> $theirs {
                $theirs::from_bits(bits as $bits)
            }
            fn bits(value: $theirs) -> u64 {
                value.to_bits().into()
            }
        }
    )*};
}
pair!(Half F16 u16 Single F32 u32 Double F64 u64);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bits with long runs of equal ones, short ones, or none at all.
    fn pattern(&mut self) -> u64 {
        let shift = self.below(64) as u32;
        match self.below(6) {
            0 => 1 << shift,
            1 => u64::MAX << shift,
            2 => u64::MAX >> shift,
            3 => self.next() & self.next() & self.next(),
            4 => self.next() << shift,
            _ => self.next(),
        }
    }

    fn value<F: Format>(&mut self) -> u64 {
        let fraction = self.pattern() & ((1 << F::FRACTION) - 1);
        let fields = 2 * F::MAX_EXPONENT as u64 + 2;
        let field = match self.below(8) {
            0 => 0,
            1 => fields - 1,
            2 => self.below(4).min(fields - 1),
            3 => fields - 1 - self.below(4),
            4 => (F::MAX_EXPONENT as u64 + self.below(140)).saturating_sub(70).min(fields - 1),
            5 => F::MAX_EXPONENT as u64 + self.below(3) - 1,
            _ => self.below(fields),
        };
        let fraction = if self.below(8) == 0 { 0 } else { fraction };
        self.below(2) << (F::BITS - 1) | field << F::FRACTION | fraction
    }

    /// A value that is often close to another, or to its negative.
    fn value_near<F: Format>(&mut self, other: u64) -> u64 {
        let mask = u64::MAX >> (64 - F::BITS);
        match self.below(3) {
            0 => {
                let nearby = other.wrapping_add(self.below(9)).wrapping_sub(4) & mask;
                nearby ^ self.below(2) << (F::BITS - 1)
            }
            1 => {
                let exponents_apart = self.below(2 * u64::from(F::FRACTION) + 8) << F::FRACTION;
                let value = (other & F::INFINITY).wrapping_sub(exponents_apart) & F::INFINITY;
                value | self.value::<F>() & !F::INFINITY
            }
            _ => self.value::<F>(),
        }
    }
}

/// The operand of an operation that has one: with binary16, every value in turn.
fn single_operand<F: Format>() -> impl FnMut(&mut Random) -> [u64; 1] {
    let mut next = 0;
    move |random| {
        next += 1;
        [if F::BITS == 16 { next & 0xffff } else { random.value::<F>() }]
    }
}

fn cases() -> u64 {
    std::env::var("RVISOR_FLOAT_CASES").map_or(1 << 16, |count| count.parse().expect("a number"))
}

/// Runs one operation on both sides over all modes, from flags that are clear or hold NX.
fn compare<const N: usize>(
    name: &str,
    mut operands: impl FnMut(&mut Random) -> [u64; N],
    ours: impl Fn([u64; N], Rounding, &mut Flags) -> u64,
    theirs: impl Fn([u64; N], RoundingMode) -> u64,
) {
    let random = &mut Random(name.bytes().fold(1, |seed: u64, byte| seed.rotate_left(7) ^ u64::from(byte)));
    for (our_mode, their_mode) in MODES {
        for _ in 0..cases() {
            let operands = operands(random);
            let before = random.below(2) as u8 * Flags::NX;
            let mut our_flags = Flags(before);
            let our_result = ours(operands, our_mode, &mut our_flags);
            let mut their_flags = ExceptionFlags::from_bits(before);
            their_flags.set();
            let their_result = theirs(operands, their_mode);
            their_flags.get();
            assert_eq!(
                (our_result, our_flags.0),
                (their_result, their_flags.to_bits()),
                "{name} of {operands:#x?}, {our_mode:?}: ({our_result:#x}, flags) here, ({their_result:#x}, flags) there"
            );
        }
    }
    println!("{name}: {} cases agree", MODES.len() as u64 * cases());
}

fn arithmetic<P: Pair>() {
    let name = |operation: &str| format!("{operation}, binary{}", P::Ours::BITS);
    let two = |random: &mut Random| {
        let a = random.value::<P::Ours>();
        [a, random.value_near::<P::Ours>(a)]
    };
    macro_rules! binary {
        ($($operation:ident)*) => {$(
            compare(
                &name(stringify!($operation)),
                two,
                |[a, b], mode, flags| float::$operation::<P::Ours>(a, b, mode, flags),
                |[a, b], mode| P::bits(P::theirs(a).$operation(P::theirs(b), mode)),
            );
        )*};
    }
    binary!(add sub mul div);
    compare(
        &name("sqrt"),
        single_operand::<P::Ours>(),
        |[a], mode, flags| float::sqrt::<P::Ours>(a, mode, flags),
        |[a], mode| P::bits(P::theirs(a).sqrt(mode)),
    );
    compare(
        &name("fused_multiply_add"),
        |random| {
            let (a, b) = (random.value::<P::Ours>(), random.value::<P::Ours>());
            let product = float::mul::<P::Ours>(a, b, Rounding::NearestEven, &mut Flags::default());
            [a, b, random.value_near::<P::Ours>(product)]
        },
        |[a, b, c], mode, flags| float::fused_multiply_add::<P::Ours>(a, b, c, mode, flags),
        |[a, b, c], mode| P::bits(P::theirs(a).fused_mul_add(P::theirs(b), P::theirs(c), mode)),
    );
}

#[test]
fn arithmetic_agrees() {
    arithmetic::<Half>();
    arithmetic::<Single>();
    arithmetic::<Double>();
}

fn comparisons<P: Pair>() {
    let name = |operation: &str| format!("{operation}, binary{}", P::Ours::BITS);
    let two = |random: &mut Random| {
        let a = random.value::<P::Ours>();
        [a, random.value_near::<P::Ours>(a)]
    };
    macro_rules! predicates {
        ($($ours:ident $theirs:ident)*) => {$(
            compare(
                &name(stringify!($ours)),
                two,
                |[a, b], _, flags| float::$ours::<P::Ours>(a, b, flags).into(),
                |[a, b], _| P::theirs(a).$theirs(P::theirs(b)).into(),
            );
        )*};
    }
    predicates!(equal eq less lt less_or_equal le less_quiet lt_quiet less_or_equal_quiet le_quiet);

    // SoftFloat has no minimum and maximum, but all they are made of.
    let extreme = |[a, b]: [u64; 2], less: bool, prefer_numbers: bool| {
        let (x, y) = (P::theirs(a), P::theirs(b));
        // Signals for signalling NaNs only.
        let a_first = x.lt_quiet(&y) || x.eq(&y) && (a & P::Ours::SIGN != 0);
        match (x.is_nan(), y.is_nan()) {
            (true, false) if prefer_numbers => b,
            (false, true) if prefer_numbers => a,
            (false, false) => {
                if a_first == less {
                    a
                } else {
                    b
                }
            }
            _ => P::Ours::CANONICAL_NAN,
        }
    };
    macro_rules! extremes {
        ($($ours:ident $less:literal $numbers:literal)*) => {$(
            compare(
                &name(stringify!($ours)),
                two,
                |[a, b], _, flags| float::$ours::<P::Ours>(a, b, flags),
                |operands, _| extreme(operands, $less, $numbers),
            );
        )*};
    }
    extremes!(minimum_number true true maximum_number false true minimum true false maximum false false);
}

#[test]
fn comparisons_agree() {
    comparisons::<Half>();
    comparisons::<Single>();
    comparisons::<Double>();
}

fn integers<P: Pair>() {
    let name = |operation: &str| format!("{operation}, binary{}", P::Ours::BITS);
    let one = single_operand::<P::Ours>;
    let integer = |random: &mut Random| [random.pattern()];
    macro_rules! each {
        ($($to:ident $from:ident $integer:ty)*) => {$(
            compare(
                &name(stringify!($to)),
                one(),
                |[a], mode, flags| float::$to::<P::Ours>(a, mode, flags) as u64,
                |[a], mode| P::theirs(a).$to(mode, true) as u64,
            );
            compare(
                &name(stringify!($from)),
                integer,
                |[a], mode, flags| float::$from::<P::Ours>(a as $integer, mode, flags),
                |[a], mode| P::bits(<P::Theirs as Float>::$from(a as $integer, mode)),
            );
        )*};
    }
    each!(to_i32 from_i32 i32 to_u32 from_u32 u32 to_i64 from_i64 i64 to_u64 from_u64 u64);
    compare(
        &name("round_to_integral"),
        one(),
        |[a], mode, flags| float::round_to_integral::<P::Ours>(a, mode, flags),
        |[a], mode| P::bits(P::theirs(a).round_to_integral(mode)),
    );
    compare(
        &name("round_to_integral_exact"),
        one(),
        |[a], mode, flags| float::round_to_integral_exact::<P::Ours>(a, mode, flags),
        |[a], mode| {
            let result = P::theirs(a).round_to_integral(mode);
            // The binding never asks for NX.
            if !result.is_nan() && !result.eq(P::theirs(a)) {
                let mut flags = ExceptionFlags::default();
                flags.get();
                ExceptionFlags::from_bits(flags.to_bits() | Flags::NX).set();
            }
            P::bits(result)
        },
    );
}

#[test]
fn integer_conversions_agree() {
    integers::<Half>();
    integers::<Single>();
    integers::<Double>();
}

fn conversion<A: Pair, B: Pair>(theirs: impl Fn(A::Theirs, RoundingMode) -> B::Theirs) {
    compare(
        &format!("convert, binary{} to binary{}", A::Ours::BITS, B::Ours::BITS),
        single_operand::<A::Ours>(),
        |[a], mode, flags| float::convert::<A::Ours, B::Ours>(a, mode, flags),
        |[a], mode| B::bits(theirs(A::theirs(a), mode)),
    );
}

#[test]
fn format_conversions_agree() {
    conversion::<Half, Single>(|a, mode| a.to_f32(mode));
    conversion::<Half, Double>(|a, mode| a.to_f64(mode));
    conversion::<Single, Half>(|a, mode| a.to_f16(mode));
    conversion::<Single, Double>(|a, mode| a.to_f64(mode));
    conversion::<Double, Half>(|a, mode| a.to_f16(mode));
    conversion::<Double, Single>(|a, mode| a.to_f32(mode));
}
