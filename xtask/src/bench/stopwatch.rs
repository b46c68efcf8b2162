//! What `jobs/stopwatch.c` prints.

use std::time::{Duration, Instant};

use anyhow::Context;

/// How one run of a job went.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// By the clock of the system that ran it.
    pub own: f64,
    /// By this computer's clock.
    pub host: f64,
    /// Processor time of the machine, where there is one.
    pub processor: Option<f64>,
    /// A checksum of what the job has printed.
    pub sum: String,
}

/// By how much two clocks may differ: the console takes time, too.
const TOLERANCE: f64 = 0.1;
/// And by which part.
const RELATIVE_TOLERANCE: f64 = 0.02;

impl Sample {
    /// Whether the two clocks agree.
    pub fn clocks_agree(&self) -> bool {
        (self.own - self.host).abs() <= TOLERANCE + RELATIVE_TOLERANCE * self.host
    }

    /// The time to go by, in seconds: what the job's own clock says, unless it lies.
    pub fn seconds(&self) -> f64 {
        if self.clocks_agree() { self.own } else { self.host }
    }
}

/// A line of the stopwatch.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Begin(&'a str),
    Job { name: &'a str, seconds: f64, status: i32, sum: &'a str },
}

fn parse(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_ascii_whitespace();
    let parsed = match words.next()? {
        "BEGIN" => Line::Begin(words.next()?),
        "JOB" => Line::Job {
            name: words.next()?,
            seconds: words
                .next()?
                .parse()
                .ok()
                .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)?,
            status: words.next()?.parse().ok()?,
            sum: words.next()?,
        },
        _ => return None,
    };
    words.next().is_none().then_some(parsed)
}

/// How a run ended, and when it began and ended by this computer's clock.
#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub sample: Sample,
}

/// Reads lines until the job `name` has ended. `processor` is asked when it begins and ends.
pub fn follow(
    name: &str,
    mut next: impl FnMut() -> anyhow::Result<(Instant, String, Option<Duration>)>,
) -> anyhow::Result<Run> {
    let mut begun = None;
    loop {
        let (at, line, processor) = next().with_context(|| format!("job {name}"))?;
        match (parse(&line), begun) {
            (Some(Line::Begin(found)), None) if found == name => begun = Some((at, processor)),
            (Some(Line::Job { name: found, seconds, status, sum }), Some((start, before)))
                if found == name =>
            {
                let taken = processor.zip(before).map(|(after, before)| after.saturating_sub(before));
                let sample = Sample {
                    own: seconds,
                    host: at.saturating_duration_since(start).as_secs_f64(),
                    processor: taken.map(|taken| taken.as_secs_f64()),
                    sum: sum.to_owned(),
                };
                return Ok(Run { status, sample });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_understood() {
        assert_eq!(parse("BEGIN sieve"), Some(Line::Begin("sieve")));
        let job = Line::Job { name: "sieve", seconds: 1.25, status: 0, sum: "00ff00ff" };
        assert_eq!(parse("JOB sieve 1.250000 0 00ff00ff"), Some(job));
    }

    #[test]
    fn other_lines_and_wrong_numbers_are_not() {
        for line in
            ["", "BEGIN", "JOB sieve", "JOB sieve -1 0 0", "JOB sieve NaN 0 0", "JOB a 1 0 0 more", "x"]
        {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn noise_and_other_jobs_are_passed_over() {
        let start = Instant::now();
        let mut lines = [
            (0, "JOB sieve 9 0 0"),
            (0, "BEGIN sieve"),
            (1, "[ 12.0] a kernel's message"),
            (2, "JOB sieve 1.990000 0 abc"),
        ]
        .into_iter()
        .map(|(second, line)| {
            let time = Duration::from_secs(second);
            Ok((start + time, line.to_owned(), Some(time / 2)))
        });
        let run = follow("sieve", || lines.next().unwrap()).unwrap();
        let sample = Sample { own: 1.99, host: 2.0, processor: Some(1.0), sum: "abc".to_owned() };
        assert_eq!((run.status, run.sample), (0, sample));
    }

    #[test]
    fn a_clock_that_lies_is_not_gone_by() {
        let sample = |own| Sample { own, host: 2.0, processor: None, sum: String::new() };
        assert_eq!(sample(1.95).seconds(), 1.95);
        assert!(!sample(1.0).clocks_agree());
        assert_eq!(sample(1.0).seconds(), 2.0);
    }
}
