//! `rvisor trace` of a machine that works: the file, and the stories.

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Ended, finish, rvisor, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(400);

/// A machine that is gone when the test is over.
struct Machine(String);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = rvisor(["kill", &self.0]).output();
    }
}

impl Machine {
    /// Runs a program that opens files and starts processes for ever.
    fn busy() -> Self {
        finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
        let machine = Self(format!("trace-{}", std::process::id()));
        let script = "while :; do cat /proc/uptime > /dev/null; done";
        let words =
            ["run", "-d", "--rm", "--cpus", "2", "--name", &machine.0, "busybox", "--", "sh", "-c", script];
        finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
        finish(&mut rvisor(["exec", &machine.0, "true"]), b"", LIMIT).assert(0, "");
        machine
    }

    fn trace(&self, words: &[&str]) -> Ended {
        finish(&mut rvisor([&["trace"], words, &[&self.0]].concat()), b"", LIMIT)
    }
}

fn text<'a>(event: &'a Value, member: &str) -> &'a str {
    event[member].as_str().unwrap_or_default()
}

#[test]
fn recording_is_told_in_files_and_stories() {
    let machine = Machine::busy();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("all.json");
    let path = file.to_str().expect("text");
    let read = || -> Vec<Value> {
        serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("an array of events")
    };

    // Everything.
    let ended = machine.trace(&["--seconds", "0.5", "-o", path]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let events = read();
    for category in ["syscalls", "traps", "interrupts", "tlb"] {
        assert!(events.iter().any(|event| text(event, "cat") == category), "no {category}");
    }
    assert!(events.iter().any(|event| text(event, "name") == "openat"));
    assert!(events.iter().any(|event| event["args"]["name"] == "hart 1"));
    for hart in [1, 2] {
        let of_hart = events.iter().filter(|event| event["tid"] == hart);
        let (mut open, mut last) = (0, 0.0);
        for event in of_hart {
            match text(event, "ph") {
                "B" => open += 1,
                "E" => open -= 1,
                "i" => {}
                // What is told whole is told at its end.
                _ => continue,
            }
            assert!(open >= 0, "{event}");
            let time = event["ts"].as_f64().expect("a time");
            assert!(time >= last, "{event}");
            last = time;
        }
        assert_eq!(open, 0);
    }

    // One kind, ended as by Ctrl-C.
    let mut child = rvisor(["trace", "--only", "syscalls", "-o", path, &machine.0])
        .stderr(Stdio::null())
        .spawn()
        .expect("rvisor starts");
    std::thread::sleep(Duration::from_millis(700));
    let twice = machine.trace(&["--seconds", "1", "-o", "/dev/null"]);
    assert!(twice.stderr.contains("being traced already"), "{}", twice.stderr);
    assert_eq!((twice.status.code(), twice.stderr.lines().count()), (Some(125), 1));
    let stopped = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(stopped.is_ok_and(|status| status.success()));
    assert!(wait(&mut child, LIMIT).is_some_and(|status| status.success()));
    let events = read();
    let begun: Vec<_> = events.iter().filter(|event| text(event, "ph") == "B").collect();
    assert!(!begun.is_empty() && begun.iter().all(|event| text(event, "cat") == "syscalls"));
    assert!(begun.iter().all(|event| event["args"]["arguments"].is_string()));

    // Stories.
    let ended = machine.trace(&["--story", "syscall"]);
    let story = ended.text();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    for told in [
        "application",
        "guest OS",
        "monitor",
        "hardware",
        "`ecall` at 0x",
        "scause = 8",
        "`sret`",
        "goes on at",
    ] {
        assert!(unwrapped(&story).contains(told), "{told}\n{story}");
    }
    let ended = machine.trace(&["--story", "tlb-miss"]);
    let story = ended.text();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    for told in ["level 0: entry at", "guest physical 0x8", "fills the TLB", "isn't entered"] {
        assert!(unwrapped(&story).contains(told), "{told}\n{story}");
    }

    // What makes no sense.
    for (words, told) in
        [(&["--only", "nonsense"][..], "tlb, waits"), (&["-o", "/nowhere/file"], "can't write")]
    {
        let ended = machine.trace(words);
        assert_eq!((ended.status.code(), ended.stderr.lines().count()), (Some(125), 1), "{}", ended.stderr);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
    finish(&mut rvisor(["pause", &machine.0]), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
    let ended = machine.trace(&["--story", "syscall"]);
    assert!(ended.stderr.contains("is paused"), "{}", ended.stderr);
}

/// A table's words, without lines and columns.
fn unwrapped(story: &str) -> String {
    story
        .split(|c: char| c.is_whitespace() || c == '|')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
