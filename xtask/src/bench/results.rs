//! What has been measured, and what follows from it.

use serde::Serialize;

use super::jobs::{Group, Job};
use super::stopwatch::Sample;
use crate::statistics::{geometric_mean, median, quotient, spread};

/// Who ran a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    Rvisor,
    Qemu,
    Native,
}

impl Who {
    pub const fn title(self) -> &'static str {
        match self {
            Self::Rvisor => "Rvisor",
            Self::Qemu => "QEMU",
            Self::Native => "native",
        }
    }
}

/// The runs of one job by one of the three.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Runs {
    /// Seconds, by the clock that counts.
    pub seconds: Vec<f64>,
    /// Seconds by this computer's clock, which the other is checked against.
    pub host: Vec<f64>,
    /// Seconds of processor time.
    pub processor: Vec<f64>,
    /// Checksums of what was printed.
    pub sums: Vec<String>,
}

impl Runs {
    fn add(&mut self, sample: Sample) {
        self.seconds.push(sample.seconds());
        self.host.push(sample.host);
        self.processor.extend(sample.processor);
        self.sums.push(sample.sum);
    }

    pub fn median(&self) -> Option<f64> {
        median(&self.seconds)
    }

    pub fn spread(&self) -> Option<f64> {
        spread(&self.seconds)
    }
}

/// Everything known of a job.
#[derive(Clone, Debug, Serialize)]
pub struct JobResult {
    pub name: &'static str,
    pub group: Group,
    pub title: String,
    pub rvisor: Runs,
    pub qemu: Runs,
    pub native: Runs,
}

impl JobResult {
    fn new(job: &Job, quick: bool) -> Self {
        let [rvisor, qemu, native] = std::array::from_fn(|_| Runs::default());
        Self { name: job.name, group: job.group, title: job.title(quick), rvisor, qemu, native }
    }

    fn runs(&mut self, who: Who) -> &mut Runs {
        match who {
            Who::Rvisor => &mut self.rvisor,
            Who::Qemu => &mut self.qemu,
            Who::Native => &mut self.native,
        }
    }

    /// How many times QEMU's speed Rvisor has.
    pub fn ratio(&self) -> Option<f64> {
        quotient(&self.qemu.seconds, &self.rvisor.seconds)
    }

    /// The same by processor time, which other work on this computer disturbs less.
    pub fn processor_ratio(&self) -> Option<f64> {
        let ratio = quotient(&self.qemu.processor, &self.rvisor.processor)?;
        // The job may be shorter than a tick.
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    /// How many times native's time `runs` took.
    pub fn distance(&self, runs: &Runs) -> Option<f64> {
        quotient(&runs.seconds, &self.native.seconds)
    }
}

/// All results, with what went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    pub jobs: Vec<JobResult>,
    /// The parallel job with two harts.
    pub two_harts: Option<JobResult>,
    pub complaints: Vec<String>,
}

/// The geometric means of a group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupResult {
    pub group: Group,
    pub jobs: usize,
    /// QEMU's time divided by Rvisor's.
    pub ratio: Option<f64>,
    /// The same by processor time.
    pub processor_ratio: Option<f64>,
    /// Rvisor's time divided by native's.
    pub distance: Option<f64>,
}

impl Results {
    pub fn new(jobs: &[&Job], quick: bool) -> Self {
        let one = jobs.iter().map(|job| JobResult::new(job, quick)).collect();
        let pair = jobs.iter().find(|job| job.group == Group::Scaling);
        Self { jobs: one, two_harts: pair.map(|job| JobResult::new(job, quick)), complaints: Vec::new() }
    }

    /// Takes what a run of `job` gave; `harts` tells the two halves of the parallel job apart.
    pub fn add(&mut self, job: &Job, who: Who, harts: u32, outcome: Result<Sample, String>) {
        let sample = match outcome {
            Ok(sample) => sample,
            Err(reason) => return self.complain(who, job.name, &reason),
        };
        eprintln!("  {:<11}{:<8}{:>9.3} s", job.name, who.title(), sample.seconds());
        if !sample.clocks_agree() {
            let Sample { own, host, .. } = sample;
            self.complain(who, job.name, &format!("its clock shows {own:.3} s, the host's {host:.3} s"));
        }
        let result = if harts == 2 && job.group == Group::Scaling {
            self.two_harts.as_mut()
        } else {
            self.jobs.iter_mut().find(|result| result.name == job.name)
        };
        if let Some(result) = result {
            result.runs(who).add(sample);
        }
    }

    pub fn complain(&mut self, who: Who, what: &str, reason: &str) {
        let complaint = format!("{}, {what}: {reason}", who.title());
        eprintln!("  {complaint}");
        self.complaints.push(complaint);
    }

    /// Complains of jobs that printed different things in different runs or machines.
    pub fn compare_output(&mut self) {
        let all = self.jobs.iter().chain(&self.two_harts);
        let differing = all.filter(|result| {
            let mut sums = result.rvisor.sums.iter().chain(&result.qemu.sums);
            sums.next().is_some_and(|first| sums.any(|sum| sum != first))
        });
        let complaints: Vec<_> = differing
            .map(|result| {
                format!(
                    "{}: not always the same output; Rvisor {:?}, QEMU {:?}",
                    result.name, result.rvisor.sums, result.qemu.sums
                )
            })
            .collect();
        self.complaints.extend(complaints);
    }

    /// The groups that have results.
    pub fn groups(&self) -> Vec<GroupResult> {
        let group = |group| {
            let jobs: Vec<_> = self.jobs.iter().filter(|result| result.group == group).collect();
            let mean = |figure: &dyn Fn(&&JobResult) -> Option<f64>| {
                geometric_mean(&jobs.iter().filter_map(figure).collect::<Vec<_>>())
            };
            GroupResult {
                group,
                jobs: jobs.len(),
                ratio: mean(&|result| result.ratio()),
                processor_ratio: mean(&|result| result.processor_ratio()),
                distance: mean(&|result| result.distance(&result.rvisor)),
            }
        };
        Group::COMPARED.map(group).into_iter().filter(|group| group.jobs > 0).collect()
    }

    /// The parallel job's runs with one hart and with two.
    pub fn scaling(&self, who: Who) -> Option<[Runs; 2]> {
        let mut one = self.jobs.iter().find(|result| result.group == Group::Scaling)?.clone();
        let mut two = self.two_harts.clone()?;
        Some([one.runs(who).clone(), two.runs(who).clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::jobs::select;
    use super::*;

    fn sample(seconds: f64, sum: &str) -> Result<Sample, String> {
        Ok(Sample { own: seconds, host: seconds, processor: Some(seconds), sum: sum.to_owned() })
    }

    fn results(names: &[&str]) -> (Vec<&'static Job>, Results) {
        let jobs = select(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        let results = Results::new(&jobs, true);
        (jobs, results)
    }

    #[test]
    fn ratio_is_the_middle_and_the_groups_is_their_geometric_mean() {
        let (jobs, mut results) = results(&["sieve", "chase"]);
        for seconds in [1.0, 2.0, 9.0] {
            results.add(jobs[0], Who::Rvisor, 1, sample(seconds, "a"));
            results.add(jobs[0], Who::Qemu, 1, sample(seconds * 2.0, "a"));
            results.add(jobs[0], Who::Native, 1, sample(seconds / 4.0, "b"));
        }
        results.add(jobs[1], Who::Rvisor, 1, sample(1.0, "c"));
        results.add(jobs[1], Who::Qemu, 1, sample(8.0, "c"));
        assert_eq!(results.jobs[0].ratio(), Some(2.0));
        assert_eq!(results.jobs[0].distance(&results.jobs[0].rvisor), Some(4.0));
        let groups = results.groups();
        assert_eq!((groups.len(), groups[0].group), (1, Group::Compute));
        assert!((groups[0].ratio.unwrap() - 4.0).abs() < 1e-9);
        results.compare_output();
        assert!(results.complaints.is_empty());
    }

    #[test]
    fn different_output_lying_clock_and_failure_are_complained_of() {
        let (jobs, mut results) = results(&["sieve"]);
        results.add(jobs[0], Who::Rvisor, 1, sample(1.0, "a"));
        results.add(jobs[0], Who::Qemu, 1, sample(1.0, "b"));
        results.compare_output();
        let lie = Sample { own: 1.0, host: 3.0, processor: None, sum: "a".to_owned() };
        results.add(jobs[0], Who::Qemu, 1, Ok(lie));
        results.add(jobs[0], Who::Rvisor, 1, Err("it exits with 1".to_owned()));
        let [output, clock, failure] = &results.complaints[..] else { panic!("{:?}", results.complaints) };
        assert!(output.contains("not always the same output"), "{output}");
        assert!(clock.contains("its clock shows 1.000 s, the host's 3.000 s"), "{clock}");
        assert_eq!(failure, "Rvisor, sieve: it exits with 1");
    }

    #[test]
    fn scaling_keeps_one_hart_and_two_apart() {
        let (jobs, mut results) = results(&["pair"]);
        results.add(jobs[0], Who::Rvisor, 1, sample(2.0, "a"));
        results.add(jobs[0], Who::Rvisor, 2, sample(1.0, "a"));
        let [one, two] = results.scaling(Who::Rvisor).unwrap();
        assert_eq!((one.seconds, two.seconds), (vec![2.0], vec![1.0]));
        assert!(results.groups().is_empty());
    }
}
