//! A hostile guest beside a Linux guest that works with its disk and its memory, and beside our own kernel: they see nothing of it, and
//! it is stopped with a word on why.
//!
//! `RVISOR_HOSTILE_SECONDS` is how long it attacks.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::initrd::linux;
use crate::common::Terminal;
use crate::{LIMIT, bundle, run, table, words_for};

const MIB: usize = 1 << 20;
/// What the worker does at least: steps while it is attacked, and rounds in all.
const LEAST_STEPS: usize = 3;
const LEAST_ROUNDS: usize = 2;

fn seconds() -> u64 {
    let seconds = std::env::var("RVISOR_HOSTILE_SECONDS").ok();
    seconds.map_or(5, |seconds| seconds.parse().expect("RVISOR_HOSTILE_SECONDS is a number"))
}

/// With `more` words on our own kernel's command line.
fn description(directory: &Path, more: &str) -> String {
    let attached = "network = 'lan'\ndisk = { start = '1M', size = '4M' }";
    let worker = linux(include_str!("worker.sh"), directory).table("worker", "128M", "", attached);
    let bad = format!(
        "start = false\nharts = 2\nappend = 'seconds={}'\nnetwork = 'lan'\n\
         disk = {{ start = '6M', size = '1M' }}",
        seconds()
    );
    let tiny =
        format!("start = false\nharts = 2\nappend = '{more}'\ndisk = {{ start = '8M', size = '256K' }}");
    [
        "[[network]]\nname = 'lan'\n".into(),
        worker,
        table("bad", "intruder", &bad),
        table("tiny", "kernel", &tiny),
    ]
    .concat()
}

fn guests_see_nothing_of_an_intruder(hardware: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let bundle = bundle(directory.path(), &description(directory.path(), words_for(hardware)));
    let disk = directory.path().join("disk");
    File::create_new(&disk).and_then(|file| file.set_len(10 * MIB as u64)).expect("a disk");
    let options = ["--cpus", "2", "--memory", "384M", "--disk", disk.to_str().expect("text")];
    let mut terminal = Terminal::start(&mut run(&bundle, &[&options, hardware].concat()));
    terminal.expect("worker: begins", LIMIT);
    terminal.send("\x02mstart bad\rstart tiny\r");
    let stopped = "rvisor: guest bad: stopped: hart 0 gets nowhere: its trap handler is where no memory is";
    terminal.expect_all(&["[tiny] kernel passed", stopped], LIMIT + Duration::from_secs(2 * seconds()));
    // The worker has worked all the while.
    terminal.send("\x021end\r");
    terminal.expect_all(&[" rounds, 0 errors", "rvisor: guest worker: powered off"], LIMIT);
    let text = terminal.transcript().to_owned();
    let during =
        text.split_once("intruder: ").and_then(|(_, rest)| rest.split_once("intruder: did its worst"));
    let steps = during.map_or(0, |(during, _)| during.matches("worker: step ").count());
    assert!(steps >= LEAST_STEPS, "{steps} steps of the worker during the attack\n{text}");
    let worked = text.lines().find_map(|line| line.split_once("worker: worked ")?.1.split_once(" rounds"));
    let rounds = worked.and_then(|(rounds, _)| rounds.parse::<usize>().ok());
    assert!(rounds.is_some_and(|rounds| rounds >= LEAST_ROUNDS), "{rounds:?} rounds of the worker\n{text}");
    // One guest has failed. QEMU doesn't tell: OpenSBI switches it off in one way only.
    let ended = terminal.end(LIMIT);
    assert!(hardware.contains(&"qemu") || !ended.success(), "{text}");
    assert!(text.contains("rvisor: guest bad: reported a failure"), "{text}");
    let lines =
        text.lines().filter(|line| ["worker: worked", "intruder: "].iter().any(|word| line.contains(word)));
    lines.for_each(|line| println!("{line}"));
    for words in [
        "intruder: the disk",
        "intruder: the network",
        "intruder: did its worst",
        "disk of 512 sectors is sound",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert!(!text.contains("FAILED"), "{text}");
    // Outside their ranges nothing was written.
    let bytes = std::fs::read(&disk).expect("the disk");
    for nobodys in [0..MIB, 5 * MIB..6 * MIB, 7 * MIB..8 * MIB, 9 * MIB..10 * MIB] {
        assert!(bytes[nobodys.clone()].iter().all(|byte| *byte == 0), "{nobodys:?}");
    }
}

#[test]
fn guests_see_nothing_of_an_intruder_in_the_middle_of_them() {
    guests_see_nothing_of_an_intruder(&[]);
}

#[test]
fn guests_see_nothing_of_an_intruder_with_hypervisor_extension() {
    guests_see_nothing_of_an_intruder(&["--extensions", "h"]);
}

#[test]
#[ignore = "needs QEMU; takes minutes"]
fn guests_see_nothing_of_an_intruder_on_qemu() {
    guests_see_nothing_of_an_intruder(&["--machine", "qemu"]);
}

#[test]
#[ignore = "needs QEMU; takes minutes"]
fn guests_see_nothing_of_an_intruder_on_qemu_with_hypervisor_extension() {
    guests_see_nothing_of_an_intruder(&["--machine", "qemu", "--extensions", "h"]);
}
