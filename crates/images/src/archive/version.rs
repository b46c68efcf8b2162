//! Debian version numbers: comparison (Debian Policy, 5.6.12 "Version").

use std::cmp::Ordering;

/// Compares two version numbers: epoch, upstream version, then revision.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (Parts::of(a), Parts::of(b));
    let epochs = digits(a.epoch).cmp(&digits(b.epoch));
    epochs
        .then_with(|| compare_part(a.upstream, b.upstream))
        .then_with(|| compare_part(a.revision, b.revision))
}

struct Parts<'a> {
    epoch: &'a str,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Parts<'a> {
    fn of(version: &'a str) -> Self {
        let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self { epoch, upstream, revision }
    }
}

/// A run of digits as a value that orders like the number, whatever its length.
fn digits(run: &str) -> (usize, &str) {
    let significant = run.trim_start_matches('0');
    (significant.len(), significant)
}

/// Compares upstream versions or revisions: runs of non-digits and of digits in turn.
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = split_run(a, |c| !c.is_ascii_digit());
        let (text_b, rest_b) = split_run(b, |c| !c.is_ascii_digit());
        let (number_a, rest_a) = split_run(rest_a, |c| c.is_ascii_digit());
        let (number_b, rest_b) = split_run(rest_b, |c| c.is_ascii_digit());
        let order = compare_text(text_a, text_b).then_with(|| digits(number_a).cmp(&digits(number_b)));
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn split_run(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// Letters sort before everything else, and a tilde before even the end.
fn compare_text(a: &str, b: &str) -> Ordering {
    let rank = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => c as i64,
        Some(c) => c as i64 + 0x20_0000,
    };
    let (mut a, mut b) = (a.chars(), b.chars());
    loop {
        let (next_a, next_b) = (a.next(), b.next());
        let order = rank(next_a).cmp(&rank(next_b));
        if order != Ordering::Equal || next_a.is_none() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_as_the_policy_says() {
        let ascending = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "0a",
            "0+",
            "1.0~rc1",
            "1.0",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-2",
            "1.0-10",
            "1.0a",
            "1.0+dfsg",
            "1.0.1",
            "1.2",
            "1.10",
            "6.12.94+deb13",
            "6.12.107+deb13",
            "1:0.1",
            "2:0",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
    }

    #[test]
    fn equal_versions_compare_equal() {
        for (a, b) in [("1.0", "1.0-0"), ("0:1", "1"), ("1.01", "1.1"), ("1.0-00", "1.0"), ("1", "1")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} against {b}");
        }
    }

    #[test]
    fn long_digit_runs_compare_without_overflow() {
        assert_eq!(compare("1.99999999999999999999999998", "1.99999999999999999999999999"), Ordering::Less);
    }
}
