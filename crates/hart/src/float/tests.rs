use super::*;

const ONE: u64 = 0x3ff0_0000_0000_0000;
const SIGNALLING: u64 = 0x7ff0_0000_0000_0001;
const QUIET: u64 = 0x7ff8_0000_0000_0123;

#[test]
fn formats_have_the_standard_parameters() {
    assert_eq!((Half::INFINITY, Half::CANONICAL_NAN, Half::MIN_EXPONENT), (0x7c00, 0x7e00, -14));
    assert_eq!(
        (Single::INFINITY, Single::CANONICAL_NAN, Single::MIN_EXPONENT),
        (0x7f80_0000, 0x7fc0_0000, -126)
    );
    assert_eq!((Double::INFINITY, Double::CANONICAL_NAN), (0x7ff0 << 48, 0x7ff8 << 48));
    assert_eq!(Double::MIN_EXPONENT, -1022);
}

#[test]
fn boxing_round_trips_and_unboxed_garbage_is_nan() {
    assert_eq!(nan_box::<Single>(0x3f80_0000), 0xffff_ffff_3f80_0000);
    assert_eq!(nan_box::<Half>(0x3c00), 0xffff_ffff_ffff_3c00);
    assert_eq!(nan_box::<Double>(ONE), ONE);
    assert_eq!(unbox::<Single>(0xffff_ffff_3f80_0000), 0x3f80_0000);
    assert_eq!(unbox::<Single>(0xffff_fffe_3f80_0000), Single::CANONICAL_NAN);
    assert_eq!(unbox::<Half>(0xffff_ffff_3f80_3c00), Half::CANONICAL_NAN);
    assert_eq!(unbox::<Double>(1), 1);
}

#[test]
fn classify_tells_all_ten_classes() {
    let classes = [0xfc00, 0xbc00, 0x8001, 0x8000, 0, 1, 0x3c00, 0x7c00, 0x7c01, 0x7e00];
    for (bit, value) in classes.into_iter().enumerate() {
        assert_eq!(classify::<Half>(value), 1 << bit, "{value:#x}");
    }
}

#[test]
fn minimum_and_maximum_order_the_zeros() {
    let (zero, minus_zero) = (0, Double::SIGN);
    let flags = &mut Flags::default();
    for (a, b) in [(zero, minus_zero), (minus_zero, zero)] {
        assert_eq!(minimum_number::<Double>(a, b, flags), minus_zero);
        assert_eq!(maximum_number::<Double>(a, b, flags), zero);
        assert_eq!(minimum::<Double>(a, b, flags), minus_zero);
        assert_eq!(maximum::<Double>(a, b, flags), zero);
    }
    assert_eq!(*flags, Flags(0));
}

#[test]
fn minimum_number_prefers_numbers_and_minimum_prefers_nan() {
    for (nan, raised) in [(QUIET, 0), (SIGNALLING, Flags::NV)] {
        for (a, b) in [(nan, ONE), (ONE, nan)] {
            let flags = &mut Flags::default();
            assert_eq!(minimum_number::<Double>(a, b, flags), ONE);
            assert_eq!(maximum_number::<Double>(a, b, flags), ONE);
            assert_eq!(flags.0, raised);
            let flags = &mut Flags::default();
            assert_eq!(minimum::<Double>(a, b, flags), Double::CANONICAL_NAN);
            assert_eq!(maximum::<Double>(a, b, flags), Double::CANONICAL_NAN);
            assert_eq!(flags.0, raised);
        }
        let flags = &mut Flags::default();
        assert_eq!(minimum_number::<Double>(nan, QUIET, flags), Double::CANONICAL_NAN);
        assert_eq!(flags.0, raised);
    }
}

#[test]
fn modular_conversion_keeps_the_low_bits() {
    let cases = [
        (0.0, 0, 0),
        (-1.5, -1, Flags::NX),
        (2147483647.0, i32::MAX, 0),
        (2147483648.0, i32::MIN, Flags::NV),
        (-2147483648.0, i32::MIN, 0),
        (-2147483648.5, i32::MIN, Flags::NX),
        (-2147483649.5, i32::MAX, Flags::NV),
        (4294967297.5, 1, Flags::NV),
        (4503599627370497.0 * 2048.0, 2048, Flags::NV),
        (-4503599627370497.0 * 2048.0, -2048, Flags::NV),
        (18446744073709551616.0 * 3.0, 0, Flags::NV),
        (4503599627370497.0 * 65536.0, 65536, Flags::NV),
        (1e300, 0, Flags::NV),
        (f64::INFINITY, 0, Flags::NV),
        (f64::NAN, 0, Flags::NV),
    ];
    for (value, expected, raised) in cases {
        let mut flags = Flags::default();
        assert_eq!(to_i32_modular(value.to_bits(), &mut flags), expected, "{value}");
        assert_eq!(flags.0, raised, "{value}");
    }
}

#[test]
fn immediates_follow_the_table() {
    assert_eq!(load_immediate::<Single>(0), 0xbf80_0000);
    assert_eq!(load_immediate::<Single>(1), 0x0080_0000);
    assert_eq!(load_immediate::<Double>(1), 0x0010_0000_0000_0000);
    assert_eq!(load_immediate::<Half>(1), 0x0400);
    assert_eq!(load_immediate::<Half>(2), 0x0100);
    assert_eq!(load_immediate::<Half>(3), 0x0200);
    assert_eq!(load_immediate::<Half>(29), Half::INFINITY);
    assert_eq!(load_immediate::<Single>(29), 65536_f32.to_bits().into());
    assert_eq!(load_immediate::<Double>(30), Double::INFINITY);
    assert_eq!(load_immediate::<Double>(31), Double::CANONICAL_NAN);
}

#[test]
fn reserved_rounding_modes_are_none() {
    assert_eq!(Rounding::from_bits(4), Some(Rounding::NearestMaxMagnitude));
    assert!((5..=7).all(|bits| Rounding::from_bits(bits).is_none()));
}
