//! Debian's kernel with busybox: commands run with `rvisor run`, and a shell on a terminal.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default); it is pulled if it isn't there.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use common::turn::Turn;
use common::{Ended, Terminal, finish, rvisor};

/// For anything that a machine does, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(400);

/// The turn to run a machine. The first one pulls the image.
fn turn() -> Turn {
    static PULLED: OnceLock<()> = OnceLock::new();
    let turn = Turn::take();
    PULLED.get_or_init(|| finish(&mut rvisor(["pull", "busybox"]), b"", 3 * LIMIT).assert(0, "busybox\n"));
    turn
}

fn run_with_input(options: &[&str], command: &[&str], input: &[u8]) -> Ended {
    let words = [&["run", "--rm"], options, &["busybox", "--"], command].concat();
    finish(&mut rvisor(words), input, LIMIT)
}

fn run(options: &[&str], command: &[&str]) -> Ended {
    run_with_input(options, command, b"")
}

#[test]
fn first_run_of_debian_pulls_it() {
    let _turn = turn();
    let store = tempfile::tempdir().expect("a directory");
    let mut first = rvisor(["run", "--rm", "debian", "--", "uname", "-m"]);
    finish(first.env("RVISOR_HOME", store.path()), b"", 3 * LIMIT).assert(0, "riscv64\n");
}

/// A machine's name that no other process uses.
fn name(stem: &str) -> String {
    format!("{stem}-{}", std::process::id())
}

fn listed(name: &str) -> bool {
    let ended = finish(&mut rvisor(["ps", "--all", "--quiet"]), b"", LIMIT);
    ended.text().lines().any(|line| line == name)
}

#[test]
fn output_and_exit_code_are_the_command_s() {
    let _turn = turn();
    let ended = run(&[], &["uname", "-m"]);
    ended.assert(0, "riscv64\n");
    assert_eq!(ended.stderr, "");
    let ended = run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    ended.assert(7, "out\n");
    assert_eq!(ended.stderr, "err\n");
}

#[test]
fn command_that_dies_of_a_signal_and_one_that_is_missing_have_the_shell_s_codes() {
    let _turn = turn();
    run(&[], &["sh", "-c", "kill -SEGV $$"]).assert(128 + 11, "");
    run(&[], &["no-such-command"]).assert(127, "");
}

#[test]
fn machine_has_as_many_harts_as_asked_for() {
    let _turn = turn();
    for harts in ["1", "2", "4"] {
        run(&["--cpus", harts], &["nproc"]).assert(0, &format!("{harts}\n"));
    }
}

#[test]
fn interpreter_runs_commands_too() {
    let _turn = turn();
    let command = "uname -m; nproc; echo 6 7 | awk '{ print $1 * $2 / 4 }'; exit 7";
    let options = ["--engine", "interpreter", "--cpus", "2"];
    run(&options, &["sh", "-c", command]).assert(7, "riscv64\n2\n10.5\n");
}

/// Runs a command with its own directory for translated code: its end, and how many blocks were translated and how
/// many taken.
fn run_with_code(directory: &Path) -> (Ended, u64, u64) {
    let directory = directory.to_str().expect("text");
    let command = ["run", "--cold", "--rm", "--code-cache", directory, "busybox", "--", "uname", "-m"];
    let ended = finish(rvisor(command).env("RVISOR_LOG", "rvisor_translator=info"), b"", LIMIT);
    ended.assert(0, "riscv64\n");
    let counts = ended.stderr.lines().find(|line| line.contains("superblocks were translated"));
    let words = counts.expect("the log has them").split_whitespace();
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    (ended, numbers[0], numbers[1])
}

#[test]
fn second_boot_takes_its_code_from_the_first_and_a_damaged_file_is_replaced() {
    let _turn = turn();
    let directory = tempfile::tempdir().expect("a directory");
    let (_, translated, _) = run_with_code(directory.path());
    assert!(translated > 10_000, "{translated}");
    let (ended, translated, taken) = run_with_code(directory.path());
    assert!(taken > 10_000 && translated < taken / 10, "{translated} translated, {taken} taken");
    assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);

    let files =
        fs::read_dir(directory.path()).expect("it is there").map(|entry| entry.expect("a file").path());
    let file = files.into_iter().find(|path| path.extension().is_some()).expect("code was kept");
    let mut bytes = fs::read(&file).expect("a file");
    // In the middle: some of the code before it is sound, and taken.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("a file");
    let (ended, translated, _) = run_with_code(directory.path());
    assert!(ended.stderr.contains("is damaged"), "{}", ended.stderr);
    assert!(translated > 1000, "{translated}");
    let (ended, ..) = run_with_code(directory.path());
    assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
}

#[test]
fn translator_and_interpreter_agree_in_lockstep() {
    let _turn = turn();
    let command = "uname -m; echo 6 7 | awk '{ print $1 * $2 / 4 }'; exit 7";
    run(&["--engine", "lockstep"], &["sh", "-c", command]).assert(7, "riscv64\n10.5\n");
}

#[test]
fn standard_input_arrives_unchanged_and_ends() {
    let _turn = turn();
    let input: Vec<u8> = (0..1_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ended = run_with_input(&[], &["cat"], &input);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stdout == input, "{} of {} bytes", ended.stdout.len(), input.len());
}

#[test]
fn arguments_arrive_exactly() {
    let _turn = turn();
    let words = ["", "a b", "it's", "\"$HOME\" `x` \\", "line\nbreak\n", "*", "--rm", "ü\t\u{1f980}"];
    let ended = run(&[], &[&["printf", "[%s]"], &words[..]].concat());
    ended.assert(0, &words.map(|word| format!("[{word}]")).concat());
}

#[test]
fn machine_is_kept_unless_told_otherwise() {
    let _turn = turn();
    let (kept, removed) = (name("kept"), name("removed"));
    let words = ["run", "--name", &kept, "busybox", "--", "true"];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, "");
    assert!(listed(&kept));
    finish(&mut rvisor(["rm", &kept]), b"", LIMIT).assert(0, &format!("{kept}\n"));
    assert!(!listed(&kept));
    run(&["--name", &removed], &["true"]).assert(0, "");
    assert!(!listed(&removed));
}

fn shell() -> Terminal {
    let mut command: Command = rvisor(["run", "--rm", "busybox"]);
    let mut terminal = Terminal::start(command.env("TERM", "dumb"));
    terminal.expect("Ctrl-A x ends the machine", LIMIT);
    terminal.expect("# ", LIMIT);
    terminal
}

#[test]
fn shell_on_a_terminal_works_and_its_exit_ends_the_machine() {
    let _turn = turn();
    let mut terminal = shell();
    terminal.send("echo $((6 * 7))nd $(uname -m)\r");
    terminal.expect("42nd riscv64", LIMIT);
    terminal.expect("# ", LIMIT);
    // Ctrl-C is the guest's.
    terminal.send("echo $((6 * 9))th; sleep 1000\r");
    terminal.expect("54th", LIMIT);
    terminal.send("\x03");
    terminal.expect("# ", LIMIT);
    terminal.send("exit\r");
    assert_eq!(terminal.end(LIMIT).code(), Some(0));
}

#[test]
fn escape_key_ends_the_machine() {
    let _turn = turn();
    let mut terminal = shell();
    terminal.send("\x01h");
    terminal.expect("Ctrl-A x ends the machine", LIMIT);
    terminal.send("\x01x");
    assert_eq!(terminal.end(LIMIT).code(), Some(0));
}
