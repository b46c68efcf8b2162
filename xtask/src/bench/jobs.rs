//! What is run, in the guests and natively. Scripts start in a directory on a tmpfs that has everything of
//! `xtask/jobs`, compiled.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// What a job is a sample of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    Compute,
    FloatingPoint,
    System,
    Boot,
    /// Not a group of its own: what two harts gain.
    Scaling,
}

impl Group {
    /// Those that have a geometric mean.
    pub const COMPARED: [Self; 4] = [Self::Compute, Self::FloatingPoint, Self::System, Self::Boot];

    pub fn title(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::FloatingPoint => "floating point",
            Self::System => "system",
            Self::Boot => "boot",
            Self::Scaling => "scaling",
        }
    }
}

/// A job. `$N` in its texts stands for its size.
#[derive(Debug)]
pub struct Job {
    pub name: &'static str,
    pub group: Group,
    /// For people.
    pub title: &'static str,
    /// Shell script run before the time starts.
    pub setup: &'static str,
    /// Shell script whose time is taken. What it prints has to be the same wherever it runs on RISC-V.
    pub script: &'static str,
    /// Usual size, and with `--quick`.
    pub sizes: [u32; 2],
}

/// The job that is measured by starting a machine.
pub const BOOT: &str = "boot";

/// The same, with the code that the machine before has translated.
pub const WARM_BOOT: &str = "warm-boot";

const JOBS: &[Job] = &[
    Job {
        name: BOOT,
        group: Group::Boot,
        title: "Debian with initrd and systemd, start to login prompt",
        setup: "",
        script: "",
        sizes: [1, 1],
    },
    Job {
        name: WARM_BOOT,
        group: Group::Boot,
        title: "the same, with the code that a run before has translated",
        setup: "",
        script: "",
        sizes: [1, 1],
    },
    Job {
        name: "7z",
        group: Group::Compute,
        title: "`7z b $N -mmt1 -md18`",
        setup: "",
        script: "program=$(command -v 7z || command -v 7zz)\n$program b $N -mmt1 -md18 >/dev/null",
        sizes: [1, 1],
    },
    Job {
        name: "python",
        group: Group::Compute,
        title: "python: fib($N) and a dictionary loop",
        setup: "",
        script: "python3 words.py $N",
        sizes: [24, 19],
    },
    Job {
        name: "sqlite",
        group: Group::Compute,
        title: "sqlite: $N inserts in one statement",
        setup: "",
        script: "sqlite3 :memory: 'CREATE TABLE t(a INTEGER PRIMARY KEY, b INTEGER, c TEXT);\
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $N) \
                 INSERT INTO t SELECT i, i * 7919 % 10007, \"row \" || i FROM n;\
                 SELECT count(*), sum(b), max(c) FROM t;'",
        sizes: [100_000, 20_000],
    },
    Job {
        name: "sieve",
        group: Group::Compute,
        title: "sieve of 2,000,000, $N times",
        setup: "",
        script: "./sieve $N",
        sizes: [20, 5],
    },
    Job {
        name: "sysbench",
        group: Group::Compute,
        title: "`sysbench cpu`, $N events",
        setup: "",
        script: "sysbench cpu --threads=1 --time=0 --events=$N run >sysbench.log\n\
                 grep -q 'total number of events: *$N' sysbench.log",
        sizes: [2000, 300],
    },
    Job {
        name: "sha256",
        group: Group::Compute,
        title: "`openssl sha256` of $N MiB",
        setup: "head -c $NM /dev/zero >zeros",
        script: "openssl dgst -sha256 zeros",
        sizes: [64, 8],
    },
    Job {
        name: "chase",
        group: Group::Compute,
        title: "$N million dependent loads over 4 MiB",
        setup: "",
        script: "./chase $N",
        sizes: [20, 5],
    },
    Job {
        name: "core",
        group: Group::Compute,
        title: "lists, matrices, state machine, crc: $N rounds",
        setup: "",
        script: "./core $N",
        sizes: [4000, 500],
    },
    Job {
        name: "matrix",
        group: Group::FloatingPoint,
        title: "300×300 double matrix product, $N times",
        setup: "",
        script: "./matrix $N",
        sizes: [3, 1],
    },
    Job {
        name: "nbody",
        group: Group::FloatingPoint,
        title: "five bodies, $N thousand steps",
        setup: "",
        script: "./nbody $N",
        sizes: [200, 20],
    },
    Job {
        name: "mandelbrot",
        group: Group::FloatingPoint,
        title: "Mandelbrot set, $N×$N",
        setup: "",
        script: "./mandelbrot $N",
        sizes: [300, 100],
    },
    Job {
        name: "fft",
        group: Group::FloatingPoint,
        title: "FFT of 65,536 and back, $N times",
        setup: "",
        script: "./fft $N",
        sizes: [5, 1],
    },
    Job {
        name: "gcc",
        group: Group::System,
        title: "$N small `gcc -O2` compilations",
        setup: "",
        script: "for source in $(ls core.c fft.c nbody.c | head -n $N); do\n\
                 gcc -O2 -o compiled $source -lm\ncksum compiled\ndone",
        sizes: [3, 1],
    },
    Job {
        name: "spawn",
        group: Group::System,
        title: "$N × fork and exec of /bin/true",
        setup: "",
        script: "./spawn $N",
        sizes: [200, 50],
    },
    Job {
        name: "hackbench",
        group: Group::System,
        title: "`hackbench -l $N -g 2`",
        setup: "",
        script: "hackbench -l $N -g 2 >/dev/null",
        sizes: [200, 30],
    },
    Job {
        name: "dpkg",
        group: Group::System,
        title: "dpkg unpacks a package of 1,000 files, $N times",
        setup: "rm -rf root-*\nfor i in $(seq $N); do\n\
                mkdir -p root-$i/var/lib/dpkg/info root-$i/var/lib/dpkg/updates\n\
                touch root-$i/var/lib/dpkg/status root-$i/var/lib/dpkg/available\ndone",
        script: "export PATH=$PATH:/usr/sbin:/sbin\nfor i in $(seq $N); do\n\
                 dpkg --root=$PWD/root-$i --force-unsafe-io --force-not-root --log=/dev/null --unpack sample.deb \
                 >/dev/null\ndone\nfind root-*/usr -type f | sort | xargs cat | cksum",
        sizes: [2, 1],
    },
    Job {
        name: "pair",
        group: Group::Scaling,
        title: "the job `core` twice at once, $N rounds each",
        setup: "",
        script: "./core $N >first & first=$!\n./core $N\nwait $first\ncat first",
        sizes: [16000, 500],
    },
];

impl Job {
    fn size(&self, quick: bool) -> String {
        self.sizes[usize::from(quick)].to_string()
    }

    /// Its title with the size filled in.
    pub fn title(&self, quick: bool) -> String {
        self.title.replace("$N", &self.size(quick))
    }

    /// The files that it consists of: `NAME.setup` and `NAME.job`.
    fn scripts(&self, quick: bool) -> [(String, String); 2] {
        let fill = |text: &str| format!("set -e\n{}\n", text.replace("$N", &self.size(quick)));
        [
            (format!("{}.setup", self.name), fill(self.setup)),
            (format!("{}.job", self.name), fill(self.script)),
        ]
    }
}

/// The jobs with the given names, all if none is given, in the table's order.
pub fn select(names: &[String]) -> anyhow::Result<Vec<&'static Job>> {
    for name in names {
        let known = || JOBS.iter().map(|job| job.name).collect::<Vec<_>>().join(", ");
        JOBS.iter()
            .find(|job| job.name == name)
            .with_context(|| format!("there is no job {name:?}; there are {}", known()))?;
    }
    Ok(JOBS.iter().filter(|job| names.is_empty() || names.iter().any(|name| name == job.name)).collect())
}

/// Writes the sources and the jobs' scripts to `directory`.
pub fn lay_out(directory: &Path, quick: bool) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(sources()).context("can't read the jobs' sources")? {
        let entry = entry?;
        std::fs::copy(entry.path(), directory.join(entry.file_name()))?;
    }
    for (name, text) in JOBS.iter().flat_map(|job| job.scripts(quick)) {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_select_in_the_tables_order() {
        let chosen = select(&["sieve".to_owned(), "7z".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|job| job.name).collect::<Vec<_>>(), ["7z", "sieve"]);
        assert_eq!(select(&[]).unwrap().len(), JOBS.len());
    }

    #[test]
    fn unknown_name_is_refused_with_those_there_are() {
        let error = select(&["sive".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"sive\"") && error.contains("sieve, "), "{error}");
    }

    #[test]
    fn sizes_are_filled_in() {
        let sieve = select(&["sieve".to_owned()]).unwrap()[0];
        assert_eq!(sieve.scripts(true)[1], ("sieve.job".to_owned(), "set -e\n./sieve 5\n".to_owned()));
        assert_eq!(sieve.title(false), "sieve of 2,000,000, 20 times");
    }

    #[test]
    fn every_compared_group_has_jobs_and_names_are_unique() {
        assert!(Group::COMPARED.iter().all(|group| JOBS.iter().any(|job| job.group == *group)));
        let mut names: Vec<_> = JOBS.iter().map(|job| job.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), JOBS.len());
    }

    #[test]
    fn the_image_has_every_source() {
        let recipe = include_str!("../../measuring.toml");
        for entry in std::fs::read_dir(sources()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(recipe.contains(&format!("source = \"jobs/{name}\"")), "{name}");
        }
    }
}
