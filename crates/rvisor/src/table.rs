//! Tables for people.

use std::time::{SystemTime, UNIX_EPOCH};

/// Prints rows under a header, columns aligned.
pub fn print<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
        println!("{}", line.trim_end());
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// How long ago a moment, in seconds since 1970, was.
pub fn age(moment: u64) -> String {
    let (count, unit) = match (now() / 1000).saturating_sub(moment) {
        seconds @ 0..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..86_400 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// A moment, in milliseconds since 1970, as RFC 3339 has it in UTC.
pub fn moment(milliseconds: u64) -> String {
    let (days, in_day) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    // Days are counted from 1 March of the year 0, so that a leap day is a year's last day.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, rest) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:03}Z")
}

/// The moment that a time stamp as RFC 3339 has them tells, in milliseconds since 1970.
pub fn parse_moment(text: &str) -> Option<u64> {
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        if is_number { digits.parse::<i64>().ok() } else { None }
    };
    let part = |from: usize| number(text.get(from..from + 2)?);
    let has = |at: usize, marks: &[u8]| text.as_bytes().get(at).is_some_and(|byte| marks.contains(byte));
    if !([4, 7].iter().all(|&at| has(at, b"-"))
        && has(10, b"Tt ")
        && [13, 16].iter().all(|&at| has(at, b":")))
    {
        return None;
    }
    let (year, month, day) = (number(text.get(..4)?)?, part(5)?, part(8)?);
    let (hour, minute, second) = (part(11)?, part(14)?, part(17)?);
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    number(fraction)?;
    let milliseconds = number(&format!("{fraction:0<3}")[..3])?;
    let offset = match (zone.get(..1)?, zone.get(1..)?) {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), clock) => {
            let (hours, minutes) = clock.split_at_checked(2)?;
            let minutes = minutes.strip_prefix(':').filter(|minutes| minutes.len() == 2)?;
            let minutes = 60 * number(hours)? + number(minutes).filter(|minutes| *minutes < 60)?;
            if sign == "+" { minutes } else { -minutes }
        }
        _ => return None,
    };
    // A second of 60 is a leap second.
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // As above, the other way round.
    let shifted_year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted_year + shifted_year / 4 - shifted_year / 100 + shifted_year / 400 + day_of_year
        - 719_468;
    let in_day = ((60 * hour + minute) * 60 + second) * 1000 + milliseconds;
    let is_date = moment(u64::try_from(days).ok()? * 86_400_000).get(..10) == text.get(..10);
    u64::try_from(days * 86_400_000 + in_day - offset * 60_000).ok().filter(|_| is_date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_unit_that_fits() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 30), "3.00 GiB");
    }

    #[test]
    fn moments_are_dates_and_times() {
        assert_eq!(moment(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(moment(1_795_398_304_567), "2026-11-23T01:45:04.567Z");
    }

    #[test]
    fn time_stamps_are_read_as_they_are_written() {
        for milliseconds in [0, 951_782_400_000, 951_868_799_999, 1_795_398_304_567, 4_107_542_399_001] {
            assert_eq!(parse_moment(&moment(milliseconds)), Some(milliseconds));
        }
        for (text, told) in [
            ("2026-11-23t01:45:04z", 1_795_398_304_000),
            ("2026-11-23 02:45:04.5+01:00", 1_795_398_304_500),
            ("2026-11-22T20:15:04.56789-05:30", 1_795_398_304_567),
            ("1970-01-01T00:59:60+01:00", 0),
        ] {
            assert_eq!(parse_moment(text), Some(told), "{text}");
        }
        for wrong in [
            "",
            "2026-11-23",
            "2026-11-23T01:45:04",
            "2026-11-23T01:45Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T01:45:04.Z",
            "2026-11-23T01:45:04+0100",
            "2026-11-23T01:45:04Zulu",
            "1969-12-31T23:59:59Z",
            "+026-11-23T01:45:04Z",
            "2026-11-23T01:45:04\u{e9}",
        ] {
            assert_eq!(parse_moment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ages_are_rounded_down() {
        let now = now() / 1000;
        assert_eq!(age(now - 3700), "1 hour ago");
        assert_eq!(age(now - 200_000), "2 days ago");
        assert!(age(now + 100).starts_with('0'));
    }
}
