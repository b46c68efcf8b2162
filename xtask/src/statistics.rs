//! What is said of repeated measurements.

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.is_empty() {
        None
    } else if sorted.len() % 2 == 1 {
        Some(sorted[middle])
    } else {
        Some(f64::midpoint(sorted[middle - 1], sorted[middle]))
    }
}

/// How many times the one is the other: the middle of the quotients of those measured one after the other, so that what
/// disturbs both for a while counts for nothing; of the medians, where they weren't measured so.
pub fn quotient(numerators: &[f64], denominators: &[f64]) -> Option<f64> {
    if numerators.len() == denominators.len() {
        let quotients =
            numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator);
        median(&quotients.collect::<Vec<_>>())
    } else {
        Some(median(numerators)? / median(denominators)?)
    }
}

/// The distance from the smallest to the largest, as a part of the median.
pub fn spread(values: &[f64]) -> Option<f64> {
    let smallest = values.iter().copied().min_by(f64::total_cmp)?;
    let largest = values.iter().copied().max_by(f64::total_cmp)?;
    Some((largest - smallest) / median(values)?)
}

/// The geometric mean of positive numbers.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logarithms: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logarithms / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotient_is_of_what_was_measured_together() {
        assert_eq!(quotient(&[2.0, 30.0, 4.0], &[1.0, 10.0, 1.0]), Some(3.0));
        assert_eq!(quotient(&[2.0, 30.0, 4.0], &[1.0, 10.0]), Some(4.0 / 5.5));
        assert_eq!(quotient(&[], &[]), None);
        assert_eq!(quotient(&[1.0], &[]), None);
    }

    #[test]
    fn median_is_the_middle_in_any_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn spread_is_relative_to_the_median() {
        assert_eq!(spread(&[2.0, 1.0, 4.0]), Some(1.5));
        assert_eq!(spread(&[7.0]), Some(0.0));
    }

    #[test]
    fn geometric_mean_of_a_number_and_its_inverse_is_one() {
        let mean = geometric_mean(&[8.0, 0.125, 1.0]).unwrap();
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn nothing_has_no_statistics() {
        assert_eq!((median(&[]), spread(&[]), geometric_mean(&[])), (None, None, None));
    }
}
