//! The bare-metal guests of `guests/`, run by the command line as a user would.

mod common;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::guests::guest;

/// `rvisor boot --bare GUEST ARGUMENTS…`
fn boot(name: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rvisor"))
        .args(["boot", "--bare"])
        .arg(guest(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("rvisor starts")
}

#[track_caller]
fn assert_passes(output: &Output, last_words: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(last_words), "{}\n{text}\n{errors}", output.status);
}

/// The translator with its second tier for all code, which else sees little of a short guest.
const SECOND_TIER: [&str; 2] = ["--optimize", "always"];
const TRANSLATOR: [&str; 2] = ["--engine", "translator"];
const INTERPRETER: [&str; 2] = ["--engine", "interpreter"];

fn selftest_passes_with(engine: [&str; 2]) {
    for harts in ["1", "2", "4"] {
        let arguments = [&engine[..], &["--cpus", harts, "--timeout", "120"]].concat();
        assert_passes(&boot("selftest", &arguments), "selftest passed");
    }
}

#[test]
fn selftest_passes_in_the_second_tier_with_one_two_and_four_harts() {
    selftest_passes_with(SECOND_TIER);
}

#[test]
fn selftest_passes_on_the_translator_with_one_two_and_four_harts() {
    selftest_passes_with(TRANSLATOR);
}

#[test]
fn selftest_passes_on_the_interpreter_with_one_two_and_four_harts() {
    selftest_passes_with(INTERPRETER);
}

#[test]
fn selftest_passes_in_lockstep() {
    let arguments = ["--engine", "lockstep", "--timeout", "120"];
    assert_passes(&boot("selftest", &arguments), "selftest passed");
}

fn hostile_guest_does_no_harm_with(engine: &str, harts: &str) {
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{engine}-{harts}.img"));
    File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let disk = disk.to_str().expect("a path in UTF-8");
    let machine = ["--engine", engine, "--cpus", harts, "--memory", "64M", "--timeout", "500"];
    let output = boot("hostile", &[&machine[..], &["--disk", disk, "--net", "user"]].concat());
    assert_passes(&output, "hostile survived");
}

#[test]
fn hostile_guest_does_no_harm_with_one_hart() {
    hostile_guest_does_no_harm_with("translator", "1");
}

#[test]
fn hostile_guest_does_no_harm_with_two_harts() {
    hostile_guest_does_no_harm_with("translator", "2");
}

#[test]
fn hostile_guest_does_no_harm_to_the_interpreter() {
    hostile_guest_does_no_harm_with("interpreter", "2");
}

#[test]
fn hostile_guest_does_no_harm_in_lockstep() {
    hostile_guest_does_no_harm_with("lockstep", "1");
}

/// Runs a guest all of whose harts work for as long as its build says (`RVISOR_STRESS_SECONDS`).
fn harts_work_together(guest: &str, engine: [&str; 2]) {
    let seconds: u64 =
        std::env::var("RVISOR_STRESS_SECONDS").map_or(6, |text| text.parse().expect("a number"));
    let limit = (10 * seconds + 240).to_string();
    for harts in ["2", "4"] {
        let machine = ["--cpus", harts, "--memory", "64M", "--timeout", &limit];
        let arguments = [&machine[..], &engine].concat();
        assert_passes(&boot(guest, &arguments), &format!("{guest} passed on {harts} harts"));
    }
}

#[test]
fn memory_model_holds_in_the_translator() {
    harts_work_together("litmus", TRANSLATOR);
}

#[test]
fn memory_model_holds_in_the_interpreter() {
    harts_work_together("litmus", INTERPRETER);
}

#[test]
fn stress_does_no_harm_in_the_translator() {
    harts_work_together("stress", TRANSLATOR);
}

#[test]
fn memory_model_holds_in_the_second_tier() {
    harts_work_together("litmus", SECOND_TIER);
}

#[test]
fn stress_does_no_harm_in_the_second_tier() {
    harts_work_together("stress", SECOND_TIER);
}

#[test]
fn stress_does_no_harm_in_the_interpreter() {
    harts_work_together("stress", INTERPRETER);
}

/// The most memory that a process has had in RAM, in bytes; 0 once it has ended.
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// Runs a guest that writes new code all the time with little memory for translated code.
fn new_code_fits_into_bounded_memory(harts: &str) {
    /// The process, what the guest touches of its RAM, and the memory for code in both its places.
    const MOST: u64 = 48 << 20;
    let machine = ["--cpus", harts, "--memory", "64M", "--timeout", "240"];
    let child = Command::new(env!("CARGO_BIN_EXE_rvisor"))
        .args(["boot", "--code-memory", "1M", "--profile", "--bare"])
        .arg(guest("stress"))
        .args(machine)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rvisor starts");
    let process = child.id();
    let waiting = std::thread::spawn(move || child.wait_with_output().expect("it ends"));
    let mut peak = 0;
    while !waiting.is_finished() {
        peak = peak.max(peak_memory(process));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = waiting.join().expect("a thread");
    assert_passes(&output, &format!("stress passed on {harts} harts"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let full = errors.lines().find_map(|line| line.strip_suffix("  times that the cache was full"));
    let full: u64 = full.and_then(|count| count.trim().parse().ok()).expect("a profile");
    println!("{harts} harts: full {full} times, at most {} MiB", peak >> 20);
    assert!(full >= 3, "the memory for code was full {full} times only");
    assert!(peak <= MOST, "{peak} bytes");
}

#[test]
fn new_code_fits_into_bounded_memory_with_one_hart() {
    new_code_fits_into_bounded_memory("1");
}

#[test]
fn new_code_fits_into_bounded_memory_with_two_harts() {
    new_code_fits_into_bounded_memory("2");
}

#[test]
fn number_of_the_failing_check_is_the_exit_code() {
    assert_eq!(boot("fails", &["--timeout", "60"]).status.code(), Some(42));
}

#[test]
fn sleeping_guest_ends_at_the_time_limit() {
    let output = boot("sleeps", &["--timeout", "2"]);
    assert_eq!(output.status.code(), Some(124));
    assert!(String::from_utf8_lossy(&output.stdout).contains("asleep"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.trim_end().lines().count(), 1, "one line says why: {errors}");
}
