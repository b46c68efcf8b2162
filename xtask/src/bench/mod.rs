//! `cargo xtask bench`: jobs in Rvisor, in QEMU and on this computer, one after the other, several times.
//!
//! Both machines are started once in each round and stay, idle while it is not their turn: what else this computer
//! does in the meantime hits all of them alike. The book, "Measuring", says how to read the tables.

mod guest;
mod jobs;
mod native;
mod report;
mod results;
mod stopwatch;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use rvisor_images::{Image, Recipe, Store};

use crate::machines::{self, Shape};
use guest::Guest;
use jobs::{BOOT, Group, Job, WARM_BOOT};
use native::Native;
use report::Setting;
use results::{Results, Who};
use stopwatch::Sample;

/// The image that is measured.
const IMAGE: &str = "measuring";

#[derive(Args)]
pub struct Bench {
    /// What Rvisor is compared with
    #[arg(long, value_enum, default_value_t = Against::Qemu)]
    against: Against,
    /// Small jobs, once: to see whether everything works
    #[arg(long)]
    quick: bool,
    /// Write all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Jobs to run; all without
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    jobs: Vec<String>,
    /// Engine of Rvisor, as in `rvisor boot --engine`
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// How often each job is run; 3, or 1 with --quick
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Number of harts
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Who runs the jobs; all three without
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHO,…")]
    only: Vec<Who>,
    /// QEMU's processor model
    #[arg(long, default_value = "rv64", value_name = "MODEL")]
    qemu_cpu: String,
    /// Directory for what the machines' consoles show
    #[arg(long, value_name = "DIRECTORY")]
    transcripts: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// QEMU's translator, which has to be installed
    Qemu,
    /// Nothing but native
    Nothing,
}

/// Runs the jobs, prints the tables.
pub fn bench(options: &Bench) -> anyhow::Result<()> {
    let mut jobs = jobs::select(&options.jobs)?;
    // Two harts are compared with one.
    jobs.retain(|job| options.cpus == 1 || job.group != Group::Scaling);
    let (pair, others): (Vec<&'static Job>, Vec<_>) =
        jobs.iter().partition(|job| job.group == Group::Scaling);
    let repeat = options.repeat.unwrap_or(if options.quick { 1 } else { 3 });
    let qemu = options.runs(Who::Qemu).then(machines::qemu_version).transpose()?;
    let place = Place::prepare(options)?;
    let native = options.runs(Who::Native).then(|| Native::prepare(options.quick)).transpose()?;
    let mut results = Results::new(&jobs, options.quick);
    for round in 0..repeat {
        eprintln!("round {} of {repeat}", round + 1);
        if !others.is_empty() {
            place.round(round, options.cpus, &others, native.as_ref(), &mut results)?;
        }
        if let [job] = pair[..] {
            place.scale(round, job, native.as_ref(), &mut results)?;
        }
    }
    results.compare_output();
    let setting = Setting {
        engine: options.engine.clone(),
        quick: options.quick,
        repeat,
        cpus: options.cpus,
        qemu,
        qemu_cpu: options.qemu_cpu.clone(),
        host: host(),
    };
    print!("{}", report::markdown(&setting, &results));
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&setting, &results)?)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    match results.complaints.len() {
        0 => Ok(()),
        count => bail!("{count} runs weren't as they should be"),
    }
}

impl Bench {
    fn runs(&self, who: Who) -> bool {
        let compared = who != Who::Qemu || self.against == Against::Qemu;
        compared && (self.only.is_empty() || self.only.contains(&who))
    }
}

/// How often the parallel job runs in a round.
const TURNS: usize = 3;

/// Where machines are started from.
struct Place<'a> {
    options: &'a Bench,
    image: Image,
    directory: tempfile::TempDir,
    /// The jobs' files, for the guest.
    archive: PathBuf,
}

impl<'a> Place<'a> {
    fn prepare(options: &'a Bench) -> anyhow::Result<Self> {
        let image = image()?;
        let directory = tempfile::tempdir()?;
        let sources = directory.path().join("jobs");
        std::fs::create_dir(&sources)?;
        jobs::lay_out(&sources, options.quick)?;
        let archive = directory.path().join("jobs.tar");
        write_archive(&sources, &archive)?;
        Ok(Self { options, image, directory, archive })
    }

    /// Starts the machines, and has each run the jobs in turn.
    fn round(
        &self,
        round: usize,
        cpus: u32,
        jobs: &[&'static Job],
        native: Option<&Native>,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        let order = self.order(round);
        self.forget_translations()?;
        let mut guests = Vec::new();
        for who in order {
            match Guest::start(self.command(who, cpus)?, self.transcript(who)?) {
                Ok(guest) => {
                    // QEMU keeps nothing: all its boots are alike.
                    let is_boot = |name| name == BOOT || name == WARM_BOOT && who == Who::Qemu;
                    for job in jobs.iter().filter(|job| is_boot(job.name)) {
                        results.add(job, who, 1, Ok(guest.boot.clone()));
                    }
                    guests.push((who, guest));
                }
                Err(error) => results.complain(who, BOOT, &format!("{error:#}")),
            }
        }
        for job in jobs.iter().filter(|job| ![BOOT, WARM_BOOT].contains(&job.name)) {
            guests.retain_mut(|(who, guest)| match guest.run(job) {
                Ok(outcome) => {
                    results.add(job, *who, cpus, outcome);
                    true
                }
                Err(error) => {
                    results.complain(*who, job.name, &format!("{error:#}"));
                    false
                }
            });
            if let Some(native) = native {
                let outcome = native.run(job).unwrap_or_else(|error| Err(format!("{error:#}")));
                results.add(job, Who::Native, 1, outcome);
            }
        }
        for (who, guest) in guests {
            if let Err(error) = guest.end() {
                results.complain(who, "end", &format!("{error:#}"));
            }
        }
        if let Some(job) = jobs.iter().find(|job| job.name == WARM_BOOT)
            && self.options.runs(Who::Rvisor)
        {
            match self.warm_boot(cpus) {
                Ok(boot) => results.add(job, Who::Rvisor, 1, Ok(boot)),
                Err(error) => results.complain(Who::Rvisor, WARM_BOOT, &format!("{error:#}")),
            }
        }
        Ok(())
    }

    /// Runs the parallel job with one hart and with two, by turns: what else this computer does, both find alike. Natively it
    /// has one processor or all.
    fn scale(
        &self,
        round: usize,
        job: &'static Job,
        native: Option<&Native>,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        self.forget_translations()?;
        for who in self.order(round) {
            let guest = |cpus| Guest::start(self.command(who, cpus)?, self.transcript(who)?);
            let turns = guest(1).and_then(|one| Ok([one, guest(2)?])).and_then(|mut guests| {
                for _ in 0..TURNS {
                    for (guest, cpus) in guests.iter_mut().zip(1..) {
                        results.add(job, who, cpus, guest.run(job)?);
                    }
                }
                guests.into_iter().try_for_each(Guest::end)
            });
            if let Err(error) = turns {
                results.complain(who, job.name, &format!("{error:#}"));
            }
        }
        let Some(native) = native else { return Ok(()) };
        for _ in 0..TURNS {
            for (cpus, outcome) in [(1, native.run_on_one(job)), (2, native.run(job))] {
                results.add(
                    job,
                    Who::Native,
                    cpus,
                    outcome.unwrap_or_else(|error| Err(format!("{error:#}"))),
                );
            }
        }
        Ok(())
    }

    /// Whoever comes second finds the host's caches in the other's state.
    fn order(&self, round: usize) -> Vec<Who> {
        let mut order = vec![Who::Rvisor, Who::Qemu];
        order.retain(|&who| self.options.runs(who));
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }

    fn forget_translations(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(self.translations()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("the code of the round before can't be removed")
            }
            _ => Ok(()),
        }
    }

    /// Starts Rvisor once more, with what it kept of its translations.
    fn warm_boot(&self, cpus: u32) -> anyhow::Result<Sample> {
        let guest = Guest::start(self.command(Who::Rvisor, cpus)?, self.transcript(Who::Rvisor)?)?;
        let boot = guest.boot.clone();
        guest.end()?;
        Ok(boot)
    }

    /// Where Rvisor keeps translated code during a round.
    fn translations(&self) -> PathBuf {
        self.directory.path().join("translations")
    }

    fn transcript(&self, who: Who) -> anyhow::Result<Option<File>> {
        let Some(directory) = &self.options.transcripts else { return Ok(None) };
        let path = directory.join(format!("{}.log", who.title()));
        let file = File::options().append(true).create(true).open(&path);
        file.map(Some).with_context(|| format!("can't write {}", path.display()))
    }

    fn command(&self, who: Who, cpus: u32) -> anyhow::Result<Command> {
        let shape = Shape { cpus, network: false, second_disk: Some(&self.archive) };
        if who == Who::Qemu {
            return machines::qemu(&self.image, self.directory.path(), &shape, &self.options.qemu_cpu);
        }
        let mut command = machines::rvisor(&self.image, self.directory.path(), &shape)?;
        command.arg("--code-cache").arg(self.translations());
        if let Some(engine) = &self.options.engine {
            command.args(["--engine", engine]);
        }
        Ok(command)
    }
}

/// The measuring image; builds it if it isn't there.
fn image() -> anyhow::Result<Image> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{IMAGE}.toml"));
    let store = Store::open_default()?;
    if let Ok(image) = store.get(IMAGE) {
        if image.manifest.recipe != Recipe::read(&path)?.digest {
            let path = path.display();
            eprintln!("{path} has changed since its image was built; to build it again: rvisor build {path}");
        }
        return Ok(image);
    }
    let status =
        Command::new(machines::rvisor_program()?).args(["build", "--tag", IMAGE]).arg(&path).status()?;
    if !status.success() {
        bail!("the image to measure can't be built from {}", path.display());
    }
    Ok(store.get(IMAGE)?)
}

fn write_archive(directory: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut builder = tar::Builder::new(File::create(archive)?);
    builder.append_dir_all(".", directory)?;
    let file = builder.into_inner()?;
    // A disk has whole sectors, and `tar` reads to its end.
    let length = file.metadata()?.len();
    Ok(file.set_len(length.next_multiple_of(1 << 20))?)
}

/// This computer's processor, and how many there are.
fn host() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} cores of {}", model.map_or("an unknown processor", |(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_a_whole_number_of_sectors_and_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let sources = directory.path().join("jobs");
        std::fs::create_dir(&sources).unwrap();
        jobs::lay_out(&sources, true).unwrap();
        let path = directory.path().join("jobs.tar");
        write_archive(&sources, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len() % (1 << 20), 0);
        let mut archive = tar::Archive::new(std::fs::File::open(&path).unwrap());
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        for name in ["stopwatch.c", "sieve.c", "sieve.job", "dpkg.setup"] {
            assert!(names.iter().any(|path| path.ends_with(name)), "{name}");
        }
    }
}
