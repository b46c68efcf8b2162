//! Tables for people, and JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use super::results::{GroupResult, Results, Runs, Who};
use crate::statistics::quotient;

/// How the results came about.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Rvisor's engine; nothing for its default.
    pub engine: Option<String>,
    pub quick: bool,
    pub repeat: usize,
    pub cpus: u32,
    pub qemu: Option<String>,
    pub qemu_cpu: String,
    /// This computer's processor.
    pub host: String,
}

/// What the JSON file consists of.
#[derive(Serialize)]
struct Document<'a> {
    setting: &'a Setting,
    #[serde(flatten)]
    results: &'a Results,
    groups: Vec<GroupResult>,
}

/// Everything, for programs.
pub fn json(setting: &Setting, results: &Results) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&Document { setting, results, groups: results.groups() })?)
}

/// Markdown tables.
pub fn markdown(setting: &Setting, results: &Results) -> String {
    let mut text = String::new();
    // A string takes everything.
    let _ = write_tables(&mut text, setting, results);
    text
}

fn write_tables(text: &mut String, setting: &Setting, results: &Results) -> std::fmt::Result {
    let plural = if setting.cpus == 1 { "" } else { "s" };
    writeln!(
        text,
        "{} hart{plural}, median of {}{}; engine: {}; {}, `-cpu {}`; {}. Seconds, with the spread from smallest to \
         largest.\n",
        setting.cpus,
        setting.repeat,
        if setting.quick { " (quick)" } else { "" },
        setting.engine.as_deref().unwrap_or("the default"),
        setting.qemu.as_deref().unwrap_or("no QEMU"),
        setting.qemu_cpu,
        setting.host,
    )?;
    writeln!(text, "| job | Rvisor | QEMU | QEMU / Rvisor | by processor time | native | Rvisor / native |")?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for job in &results.jobs {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            job.title,
            seconds(&job.rvisor),
            seconds(&job.qemu),
            number(job.ratio()),
            number(job.processor_ratio()),
            seconds(&job.native),
            number(job.distance(&job.rvisor)),
        )?;
    }
    let groups = results.groups();
    if !groups.is_empty() {
        writeln!(
            text,
            "\n| group, geometric mean | jobs | QEMU / Rvisor | by processor time | Rvisor / native |"
        )?;
        writeln!(text, "|---|---|---|---|---|")?;
    }
    for group in groups {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            group.group.title(),
            group.jobs,
            number(group.ratio),
            number(group.processor_ratio),
            number(group.distance),
        )?;
    }
    write_scaling(text, results)?;
    if !results.complaints.is_empty() {
        writeln!(text, "\nNot as it should be:\n")?;
    }
    results.complaints.iter().try_for_each(|complaint| writeln!(text, "- {complaint}"))
}

fn write_scaling(text: &mut String, results: &Results) -> std::fmt::Result {
    let rows = [Who::Rvisor, Who::Qemu, Who::Native].into_iter().filter_map(|who| {
        let [one, two] = results.scaling(who)?;
        Some((who, quotient(&one.seconds, &two.seconds)?, one, two))
    });
    for (index, (who, speedup, one, two)) in rows.enumerate() {
        if index == 0 {
            writeln!(text, "\n| parallel job | 1 processor, s | 2 processors, s | speedup |")?;
            writeln!(text, "|---|---|---|---|")?;
        }
        writeln!(text, "| {} | {} | {} | {speedup:.2} |", who.title(), seconds(&one), seconds(&two))?;
    }
    Ok(())
}

fn seconds(runs: &Runs) -> String {
    match (runs.median(), runs.spread()) {
        (Some(median), Some(spread)) if runs.seconds.len() > 1 => {
            format!("{median:.3} ({:.0} %)", spread * 100.0)
        }
        (median, _) => median.map_or("–".to_owned(), |median| format!("{median:.3}")),
    }
}

fn number(figure: Option<f64>) -> String {
    figure.map_or("–".to_owned(), |figure| format!("{figure:.2}"))
}

#[cfg(test)]
mod tests {
    use super::super::jobs::select;
    use super::super::stopwatch::Sample;
    use super::*;

    fn setting() -> Setting {
        Setting {
            engine: Some("interpreter".to_owned()),
            quick: true,
            repeat: 2,
            cpus: 1,
            qemu: Some("QEMU 10".to_owned()),
            qemu_cpu: "rv64".to_owned(),
            host: "a processor".to_owned(),
        }
    }

    fn results() -> Results {
        let jobs = select(&["sieve".to_owned(), "matrix".to_owned()]).unwrap();
        let mut results = Results::new(&jobs, true);
        for (who, seconds) in [(Who::Rvisor, 1.0), (Who::Rvisor, 3.0), (Who::Qemu, 5.0)] {
            let sample = Sample { own: seconds, host: seconds, processor: None, sum: String::new() };
            results.add(jobs[0], who, 1, Ok(sample));
        }
        results
    }

    #[test]
    fn table_has_medians_spread_ratio_and_dashes_for_what_is_unknown() {
        let text = markdown(&setting(), &results());
        let row = "| sieve of 2,000,000, 5 times | 2.000 (100 %) | 5.000 | 2.50 | – | – | – |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| compute | 1 | 2.50 | – | – |"), "{text}");
        assert!(text.contains("| floating point | 1 | – | – | – |"), "{text}");
    }

    #[test]
    fn json_has_every_run() {
        let value: serde_json::Value = serde_json::from_str(&json(&setting(), &results()).unwrap()).unwrap();
        assert_eq!(value["jobs"][0]["rvisor"]["seconds"], serde_json::json!([1.0, 3.0]));
        assert_eq!(value["groups"][0]["ratio"], 2.5);
        assert_eq!(value["setting"]["engine"], "interpreter");
    }
}
