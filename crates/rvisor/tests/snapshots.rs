//! Snapshots, copies of machines, and guests that are ready in a blink.
//!
//! The images come from the user's store (`RVISOR_HOME`, else the default); they are pulled if they aren't there.

mod common;

use std::collections::HashSet;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use common::{Machine, finish, rvisor};

/// For anything that a machine does, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(400);

/// What a guest says of itself: name, machine id, hardware address, random numbers.
const WHO: &str =
    "hostname; cat /etc/machine-id /sys/class/net/eth0/address; head -c 16 /dev/urandom | od -An -tx1";

#[test]
fn ten_machines_at_once_have_identities_of_their_own() {
    let run = |_| {
        thread::spawn(|| {
            finish(&mut rvisor(["run", "--rm", "debian", "--", "sh", "-c", WHO]), b"", 9 * LIMIT)
        })
    };
    let machines: Vec<_> = (0..10).map(run).collect();
    let mut seen = HashSet::new();
    for machine in machines {
        let ended = machine.join().expect("a thread");
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        let text = ended.text();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("debian-"), "{text}");
        for line in lines {
            assert!(seen.insert(line.clone()), "twice: {line}");
        }
    }
}

#[test]
fn ready_guest_takes_input_and_gives_output_and_code_like_a_booted_one() {
    let script = "cat; echo error >&2; cd; pwd; echo $A $LANG; exit 7";
    for options in [&["--cold"][..], &[]] {
        let words = [&["run", "--rm", "-e", "A=b"], options, &["busybox", "--", "sh", "-c", script]].concat();
        let ended = finish(&mut rvisor(words), b"input\n", 9 * LIMIT);
        ended.assert(7, "input\n/root\nb C.UTF-8\n");
        assert_eq!(ended.stderr, "error\n");
        let words = [&["run", "--rm"], options, &["busybox", "--", "no-such-command"]].concat();
        assert_eq!(finish(&mut rvisor(words), b"", LIMIT).status.code(), Some(127));
    }
}

#[test]
fn what_a_command_has_written_is_on_the_disk_when_it_ends() {
    let machine = Machine::named("written");
    let words = ["run", "--name", &machine.0, "debian", "--", "sh", "-c", "cat /root/f; echo one >>/root/f"];
    finish(&mut rvisor(words), b"", 9 * LIMIT).assert(0, "");
    // This boots, with the disk as it was left.
    let ended = finish(&mut rvisor(["start", "--attach", &machine.0]), b"", LIMIT);
    ended.assert(0, "one\n");
}

#[test]
fn machine_goes_back_and_is_copied_and_moved() {
    let machine = Machine::run("saved", &["busybox"]);
    let counts = "echo one >/f; (while :; do echo >>/count; sleep 0.05; done) >/dev/null 2>&1 </dev/null &";
    assert_eq!(machine.exec(&["sh", "-c", counts]).status.code(), Some(0));
    finish(&mut rvisor(["snapshot", "create", &machine.0, "first"]), b"", LIMIT).assert(0, "first\n");
    let again = finish(&mut rvisor(["snapshot", "create", &machine.0, "first"]), b"", LIMIT);
    assert!(again.stderr.contains("has a snapshot first already"), "{}", again.stderr);
    machine.exec(&["sh", "-c", "echo two >/f"]).assert(0, "");
    machine.refuse(&["snapshot", "restore"], "--force");
    machine.tell(&["snapshot", "restore", "--force"]);
    machine.exec(&["cat", "/f"]).assert(0, "one\n");
    let lines = |machine: &Machine| -> usize {
        machine
            .exec(&["wc", "-l", "/count"])
            .text()
            .split(' ')
            .next()
            .expect("a word")
            .parse()
            .expect("a number")
    };
    let before = lines(&machine);
    thread::sleep(Duration::from_millis(300));
    assert!(lines(&machine) > before, "it goes on where it was");

    let copy = Machine::named("copied");
    finish(&mut rvisor(["clone", &machine.0, &copy.0]), b"", LIMIT).assert(0, &format!("{}\n", copy.0));
    copy.exec(&["hostname"]).assert(0, &format!("{}\n", copy.0));
    copy.exec(&["cat", "/f"]).assert(0, "one\n");
    assert!(lines(&copy) >= before);

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("machine");
    let file = file.to_str().expect("text");
    finish(&mut rvisor(["export", "-o", file, &machine.0]), b"", LIMIT).assert(0, "");
    let moved = Machine::named("moved");
    // To where nothing of Rvisor has been before.
    let elsewhere = directory.path().join("store");
    let there =
        |words: &[&str]| finish(rvisor(words.iter().copied()).env("RVISOR_HOME", &elsewhere), b"", LIMIT);
    there(&["import", file, &moved.0]).assert(0, &format!("{}\n", moved.0));
    there(&["exec", &moved.0, "cat", "/f"]).assert(0, "one\n");
    there(&["exec", &moved.0, "hostname"]).assert(0, &format!("{}\n", machine.0));
    there(&["rm", "-f", &moved.0]).assert(0, &format!("{}\n", moved.0));
    let mut bytes = std::fs::read(file).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("the file");
    let damaged = there(&["import", file, &moved.0]);
    assert_eq!((damaged.status.code(), damaged.stderr.lines().count()), (Some(125), 1), "{}", damaged.stderr);
    assert!(!elsewhere.join("machines").join(&moved.0).exists());
}

/// Kills at moments that differ each time: of the command, then of the machine's process.
#[test]
fn killed_snapshots_leave_the_old_or_the_new() {
    let machine = Machine::run("killed", &["--memory", "256M", "busybox"]);
    machine.exec(&["sh", "-c", "echo old >/f"]).assert(0, "");
    finish(&mut rvisor(["snapshot", "create", &machine.0, "good"]), b"", LIMIT).assert(0, "good\n");
    let list = || -> Vec<String> {
        let ended = finish(&mut rvisor(["snapshot", "ls", "--format", "json", &machine.0]), b"", LIMIT);
        let told: Vec<serde_json::Value> = serde_json::from_str(&ended.text()).expect("a list");
        told.iter().map(|info| info["name"].as_str().expect("a name").to_owned()).collect()
    };
    let mut count = 1;
    for round in 0..12 {
        let mut command = rvisor(["snapshot", "create", &machine.0]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rvisor starts");
        thread::sleep(Duration::from_millis(7 + 23 * round));
        let _ = child.kill();
        let _ = child.wait();
        let now = list();
        assert!(now.contains(&"good".into()) && (count..=count + 1).contains(&now.len()), "{now:?}");
        count = now.len();
        // The machine goes on, whatever became of the client.
        machine.exec(&["cat", "/f"]).assert(0, "old\n");
    }
    machine.exec(&["sh", "-c", "echo new >/f"]).assert(0, "");
    let child = rvisor(["snapshot", "create", &machine.0, "last"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    thread::sleep(Duration::from_millis(60));
    machine.tell(&["kill"]);
    let _ = child.expect("rvisor starts").wait();
    for name in list() {
        let words = ["snapshot", "restore", "--force", &machine.0, &name];
        finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
        machine.exec(&["cat", "/f"]).assert(0, if name == "last" { "new\n" } else { "old\n" });
    }
    let leftovers = std::fs::read_dir(machine.directory().join("snapshots")).expect("snapshots");
    assert!(leftovers.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
}
