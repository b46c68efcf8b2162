//! Snapshots, copies of machines, and guests that are ready in a blink.
//!
//! The images come from the user's store (`RVISOR_HOME`, else the default); they are pulled if they aren't there.

mod common;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use common::{Machine, Terminal, finish, images, rvisor};

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
fn command_on_a_terminal_goes_on_where_it_was() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
    let machine = Machine::named("typing");
    let words = ["run", "-d", "-it", "--name", &machine.0, "busybox", "--", "sh"];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
    let attach = || Terminal::start(&mut rvisor(["attach", &machine.0]));
    let mut terminal = attach();
    terminal.send("kept=six; echo $kept\"\"ty\r");
    terminal.expect("sixty", LIMIT);
    finish(&mut rvisor(["snapshot", "create", &machine.0, "there"]), b"", LIMIT).assert(0, "there\n");
    terminal.send("kept=seven; echo $kept\"\"ty\r");
    terminal.expect("seventy", LIMIT);
    machine.tell(&["snapshot", "restore", "--force"]);
    let mut terminal = attach();
    terminal.send("echo $kept\"\"teen; exit 3\r");
    terminal.expect("sixteen", LIMIT);
    let code = finish(&mut rvisor(["wait", &machine.0]), b"", LIMIT);
    code.assert(0, "3\n");
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

    finish(&mut rvisor(["snapshot", "create", "--compress", &machine.0, "small"]), b"", LIMIT)
        .assert(0, "small\n");
    let occupied = |name: &str| -> u64 {
        let files = std::fs::read_dir(machine.directory().join("snapshots").join(name)).expect("a snapshot");
        files.flatten().map(|file| file.metadata().expect("a file").blocks() * 512).sum()
    };
    assert!(occupied("small") * 4 < occupied("first") * 3, "{} {}", occupied("small"), occupied("first"));
    machine.exec(&["sh", "-c", "echo three >/f"]).assert(0, "");
    // The latest.
    machine.tell(&["snapshot", "restore", "--force"]);
    machine.exec(&["cat", "/f"]).assert(0, "one\n");

    let copy = Machine::named("copied");
    finish(&mut rvisor(["clone", "--snapshot", "small", &machine.0, &copy.0]), b"", LIMIT)
        .assert(0, &format!("{}\n", copy.0));
    copy.exec(&["hostname"]).assert(0, &format!("{}\n", copy.0));
    copy.exec(&["cat", "/f"]).assert(0, "one\n");
    assert!(lines(&copy) >= before);

    let remove = ["snapshot", "rm", &machine.0, "first", "small"];
    finish(&mut rvisor(remove), b"", LIMIT).assert(0, "first\nsmall\n");
    assert_eq!(machine.ask(&["snapshot", "ls", "--format", "json"]).text(), "[]\n");

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

/// Files that are compiled.
const SOURCES: u64 = 40;
/// Steps of what each does.
const STEPS: u64 = 1000;

/// What file number `file` makes of `x`; the same as the C of [`BUILD`].
fn step(file: u64, x: u64) -> u64 {
    (0..STEPS).fold(x, |x, i| (x ^ (x >> 13) ^ (i * file)).wrapping_mul(6_364_136_223_846_793_005 + 2 * file))
}

/// Compiles files, one after the other, links them, and runs what comes out.
const BUILD: &str = r#"set -e
mkdir -p /root/b; cd /root/b
{ echo '#include <stdio.h>'; echo 'int main(void) { unsigned long x = 1;'; } >main.c
for n in $(seq $SOURCES); do
    cat >$n.c <<END
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
unsigned long step$n(unsigned long x) {
    for (unsigned long i = 0; i < $STEPS; i++) x = (x ^ (x >> 13) ^ (i * $n)) * (6364136223846793005ul + 2 * $n);
    return x;
}
END
    sed -i "1a unsigned long step$n(unsigned long);" main.c
    echo "x = step$n(x);" >>main.c
done
cat >>main.c <<'END'
printf("%lu\n", x); return 0; }
END
for n in $(seq $SOURCES); do gcc -O2 -c $n.c; echo $n >compiled; done
gcc -O2 -o program main.c $(seq -f %g.o $SOURCES)
./program >result.new
mv result.new result
"#;

/// Saved in the middle of a build, it goes on in another process, and as another host would take it.
#[test]
fn machine_that_builds_stands_still_for_a_moment_and_ends_its_build_wherever_it_goes_on() {
    let image = images::with_compiler();
    let machine = Machine::named("builds");
    let words = ["run", "-d", "--name", &machine.0, "--memory", "1G", image, "--", "sleep", "infinity"];
    finish(&mut rvisor(words), b"", 9 * LIMIT).assert(0, &format!("{}\n", machine.0));
    let (sources, steps) = (SOURCES.to_string(), STEPS.to_string());
    let build = BUILD.replace("$SOURCES", &sources).replace("$STEPS", &steps);
    machine.exec_with_input(&["sh", "-c", "cat >/root/build"], build.as_bytes()).assert(0, "");
    let begin = "setsid sh /root/build >/root/log 2>&1 </dev/null &";
    machine.exec(&["sh", "-c", begin]).assert(0, "");
    let expected = format!("{}\n", (1..=SOURCES).fold(1, |x, file| step(file, x)));

    let compiled = |ended: common::Ended| ended.text().trim().parse::<u64>().unwrap_or(0);
    let show = ["cat", "/root/b/compiled"];
    let begun = Instant::now();
    while compiled(machine.exec(&show)) < SOURCES / 8 {
        let log = machine.exec(&["cat", "/root/log"]).text();
        assert!(log.is_empty() && begun.elapsed() < LIMIT, "{log}");
        thread::sleep(Duration::from_millis(100));
    }
    finish(&mut rvisor(["snapshot", "create", &machine.0, "middle"]), b"", LIMIT).assert(0, "middle\n");
    let done = compiled(machine.exec(&show));
    assert!(done < SOURCES, "it is to be saved before it ends");
    let told = machine.ask(&["snapshot", "ls", "--format", "json"]).text();
    let told: serde_json::Value = serde_json::from_str(&told).expect("a list");
    let stopped = Duration::from_micros(told[0]["stopped"].as_u64().expect("a time"));
    println!("it stood still for {stopped:?}, with {done} of {SOURCES} files compiled; the snapshot: {told}");
    assert!(stopped < Duration::from_secs(1), "{stopped:?}");

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("machine");
    let file = file.to_str().expect("text");
    finish(&mut rvisor(["export", "-o", file, &machine.0]), b"", LIMIT).assert(0, "");
    let ends = |what: &str, exec: &dyn Fn(&[&str]) -> common::Ended| {
        let begun = Instant::now();
        loop {
            let ended = exec(&["cat", "/root/b/result"]);
            if ended.status.success() {
                return ended.assert(0, &expected);
            }
            let log = exec(&["cat", "/root/log"]);
            assert!(log.text().is_empty() && begun.elapsed() < LIMIT, "{what}: {}", log.text());
            thread::sleep(Duration::from_millis(200));
        }
    };
    ends("the machine itself", &|words| machine.exec(words));
    let process = machine.pid();
    machine.tell(&["snapshot", "restore", "--force"]);
    assert_ne!(machine.pid(), process);
    let again = compiled(machine.exec(&show));
    assert!((1..SOURCES).contains(&again), "it goes on from the middle: {again}");
    ends("in another process", &|words| machine.exec(words));
    machine.tell(&["rm", "--force"]);

    let elsewhere = directory.path().join("store");
    let there =
        |words: &[&str]| finish(rvisor(words.iter().copied()).env("RVISOR_HOME", &elsewhere), b"", LIMIT);
    there(&["import", file, "moved"]).assert(0, "moved\n");
    let again = compiled(there(&[&["exec", "moved"], &show[..]].concat()));
    assert!((1..SOURCES).contains(&again), "it goes on from the middle: {again}");
    ends("elsewhere", &|words| there(&[&["exec", "moved"], words].concat()));
    there(&["rm", "-f", "moved"]).assert(0, "moved\n");
}
