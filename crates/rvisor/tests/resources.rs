//! What machines use of the host: `stats` tells the truth, limits hold, memory that a guest frees goes back, and a machine that
//! idles costs next to nothing.
//!
//! The images come from the user's store (`RVISOR_HOME`, else the default); they are pulled if they aren't there.

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{LIMIT, Machine, finish, rvisor};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// What a machine's process has beside the guest's memory: mostly translated code.
const OVERHEAD: u64 = 160 * MIB;

/// What `stats` tells of a machine, as of the last second.
#[track_caller]
fn stats(machine: &Machine) -> Value {
    let ended = machine.ask(&["stats", "--no-stream", "--format", "json"]);
    let mut told: Value = serde_json::from_str(&ended.text()).unwrap_or_else(|_| panic!("{}", ended.stderr));
    told[0].take()
}

/// Bytes of the host's memory that a machine's process has.
#[track_caller]
fn memory(machine: &Machine) -> u64 {
    stats(machine)["memory"].as_u64().expect("a number")
}

/// What the host tells of a machine's process.
struct Process(String);

impl Process {
    fn of(machine: &Machine) -> Self {
        Self(format!("/proc/{}", machine.pid()))
    }

    /// Processor time that it has used, in seconds (proc_pid_stat(5)).
    fn processor(&self) -> f64 {
        let text = fs::read_to_string(format!("{}/stat", self.0)).expect("a process");
        let (_, rest) = text.rsplit_once(')').expect("its name");
        let ticks: u64 =
            rest.split_whitespace().skip(11).take(2).map(|time| time.parse::<u64>().expect("ticks")).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// How much of a processor it uses during this time, as a part of one.
    fn load(&self, time: Duration) -> f64 {
        let (begun, before) = (Instant::now(), self.processor());
        thread::sleep(time);
        (self.processor() - before) / begun.elapsed().as_secs_f64()
    }

    /// Bytes that it has mapped and that are there (proc_pid_status(5)).
    fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("{}/status", self.0)).expect("a process");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") << 10
    }
}

#[test]
fn machine_that_idles_costs_next_to_nothing_and_stats_say_so() {
    let machine = Machine::run("idle", &["debian"]);
    machine.exec(&["true"]).assert(0, "");
    let process = Process::of(&machine);
    // What it does at first, such as to tell of its free memory, comes to an end.
    let deadline = Instant::now() + Duration::from_secs(60);
    let load = loop {
        let load = process.load(Duration::from_secs(5));
        if load < 0.02 || Instant::now() >= deadline {
            break load;
        }
    };
    assert!(load < 0.02, "it uses {:.1} % of a processor", load * 100.0);
    let (before, told, after) = (process.processor(), stats(&machine), process.processor());
    assert!(told["processor_percent"].as_f64().is_some_and(|percent| percent < 5.0), "{told}");
    let processor = told["total"]["processor"].as_u64().expect("nanoseconds") as f64 / 1e9;
    // The host counts in ticks.
    assert!((before - 0.05..after + 0.05).contains(&processor), "{before} {processor} {after}");
    let (told, found) = (told["memory"].as_u64().expect("bytes"), process.resident());
    assert!(told.abs_diff(found) < 4 * MIB, "{told} {found}");
}

#[test]
fn harts_use_no_more_of_the_processors_than_their_limit() {
    let options = ["--cpu-limit", "0.3", "--memory", "128M", "busybox"];
    let machine = Machine::run("limited", &options);
    let busy = "while :; do :; done & while :; do :; done";
    finish(&mut rvisor(["exec", "-d", &machine.0, "sh", "-c", busy]), b"", LIMIT).assert(0, "");
    // What the translator does at first isn't the harts'.
    thread::sleep(Duration::from_secs(1));
    let load = Process::of(&machine).load(Duration::from_secs(4));
    // A host that has other things to do may give less.
    assert!((0.1..0.36).contains(&load), "{load} of 0.3 processors");
    let told = stats(&machine)["processor_percent"].as_f64().expect("a number");
    assert!((10.0..45.0).contains(&told), "{told} %");
}

#[test]
fn guest_has_the_memory_that_was_asked_for_and_the_process_little_more() {
    const SIZE: u64 = 256 * MIB;
    let machine = Machine::run("small", &["--cold", "--memory", "256M", "busybox"]);
    let number = |words: &[&str]| machine.exec(words).text().trim().parse::<u64>().expect("a number");
    let total = number(&["awk", "/MemTotal/ { print $2 }", "/proc/meminfo"]) << 10;
    assert!((SIZE / 2..SIZE).contains(&total), "{total}");
    assert_eq!(stats(&machine)["memory_limit"], SIZE);
    // A file system in memory takes half of what there is.
    let fill =
        "mkdir /full; mount -t tmpfs none /full; cat /dev/zero >/full/file 2>/dev/null; wc -c </full/file";
    let filled = number(&["sh", "-c", fill]);
    assert!(filled.abs_diff(total / 2) < MIB, "{filled} of {total}");
    let used = memory(&machine);
    assert!((filled..SIZE + OVERHEAD).contains(&used), "{used}");
}

/// Bytes that a guest writes and frees.
const DIRTY: u64 = 300 * MIB;

/// Both a whole system, and a machine that only runs a command.
#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    let system = Machine::run("frees-system", &["debian"]);
    let command = Machine::run("frees-command", &["debian", "--", "sleep", "1000000"]);
    let script = format!("head -c {DIRTY} /dev/zero >/dev/shm/dirty");
    let machines = [&system, &command].map(|machine| {
        machine.exec(&["sync"]).assert(0, "");
        let before = memory(machine);
        machine.exec(&["sh", "-c", &script]).assert(0, "");
        let dirty = memory(machine);
        assert!(dirty > before + DIRTY * 8 / 10, "{before} {dirty}");
        machine.exec(&["rm", "/dev/shm/dirty"]).assert(0, "");
        (machine, before, dirty)
    });
    // The guest's kernel tells of what is free little by little, every two seconds.
    let deadline = Instant::now() + Duration::from_secs(90);
    for (machine, before, dirty) in machines {
        loop {
            let now = memory(machine);
            if now < dirty - DIRTY * 7 / 10 {
                break;
            }
            assert!(Instant::now() < deadline, "{}: {before}, then {dirty}, now {now}", machine.0);
            thread::sleep(Duration::from_millis(200));
        }
    }
}
