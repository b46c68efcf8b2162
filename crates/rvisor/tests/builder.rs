//! Builder VMs that fail, are interrupted or killed: what the user is told, and what becomes of the store.

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::images::add_old;
use common::{FAILURE, LIMIT, finish, rvisor, wait};
use rvisor_images::{Manifest, Store};
use tempfile::TempDir;

/// A system of whose packages no file is kept: soon laid out, and its builder VM fails at the first directory that it needs.
const RECIPE: &str = "base = \"debian:trixie\"\npaths = [\"-/*\"]\n";

/// A store with an image. What is downloaded comes from the user's own, and stays there.
struct Home {
    directory: TempDir,
    old: Manifest,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let downloads = Store::open_default().expect("a store").cache();
        let downloads = fs::canonicalize(downloads.parent().expect("its parent")).expect("a directory");
        symlink(downloads, directory.path().join("cache")).expect("a link");
        fs::write(directory.path().join("new.toml"), RECIPE).expect("a file");
        let store = Store::open(directory.path()).expect("a store");
        let old = add_old(&store);
        Self { directory, old }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = rvisor(words.iter().copied());
        command.env("RVISOR_HOME", self.directory.path()).current_dir(self.directory.path());
        command
    }

    fn entries(&self, directory: &str) -> usize {
        fs::read_dir(self.directory.path().join(directory)).expect("a directory").count()
    }

    /// Checks that there is the old image and nothing else.
    #[track_caller]
    fn check(&self) {
        finish(&mut self.command(&["images", "-q"]), b"", LIMIT).assert(0, "old\n");
        let store = Store::open(self.directory.path()).expect("a store");
        assert_eq!(store.get("old").expect("an image").manifest, self.old);
        assert_eq!((self.entries("blobs/sha256"), self.entries("drafts")), (2, 0));
    }
}

/// A build that has come to its builder VM, which stands still.
struct Build {
    command: Child,
    builder: i32,
}

impl Build {
    fn new(home: &Home) -> Self {
        let mut command = home.command(&["build", "new.toml"]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = command.spawn().expect("rvisor starts");
        let deadline = Instant::now() + 9 * LIMIT;
        let builder = loop {
            assert!(command.try_wait().expect("a child").is_none(), "{}", errors(&mut command));
            assert!(Instant::now() < deadline, "no builder VM comes");
            match child_of(command.id()) {
                // Its guest may run.
                Some(builder) if status(builder, "Seccomp").is_some_and(|mode| mode == "2") => break builder,
                _ => thread::sleep(Duration::from_millis(1)),
            }
        };
        signal("STOP", builder);
        assert_eq!(status(builder, "NoNewPrivs").as_deref(), Some("1"));
        Self { command, builder }
    }

    /// Waits for its end, in one line that tells this.
    #[track_caller]
    fn fails(mut self, told: &str) {
        let ended = wait(&mut self.command, LIMIT).expect("it ends");
        assert_eq!(ended.code(), Some(FAILURE));
        is_one_error(&errors(&mut self.command), told);
        self.builder_is_gone();
    }

    #[track_caller]
    fn builder_is_gone(&self) {
        let deadline = Instant::now() + LIMIT;
        while status(self.builder, "State").is_some_and(|state| !state.starts_with('Z')) {
            assert!(Instant::now() < deadline, "the builder VM goes on");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

fn errors(command: &mut Child) -> String {
    let mut text = String::new();
    command.stderr.as_mut().expect("a pipe").read_to_string(&mut text).expect("text");
    text
}

/// Progress may be told before it.
#[track_caller]
fn is_one_error(stderr: &str, told: &str) {
    let errors: Vec<_> = stderr.lines().filter(|line| line.contains("rvisor: error: ")).collect();
    let start = "rvisor: error: building new failed: ";
    assert!(matches!(errors[..], [line] if line.starts_with(start) && line.contains(told)), "{stderr}");
    assert_eq!(stderr.lines().last(), errors.last().copied(), "{stderr}");
}

fn signal(name: &str, process: i32) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// A field of what the kernel tells of a process.
fn status(process: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

fn child_of(parent: u32) -> Option<i32> {
    let entries = fs::read_dir(Path::new("/proc")).expect("a directory").flatten();
    let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.find(|&process| status(process, "PPid").is_some_and(|it| it == parent.to_string()))
}

#[test]
fn builder_that_fails_is_told_of_and_leaves_nothing() {
    let home = Home::new();
    let ended = finish(&mut home.command(&["build", "new.toml"]), b"", 9 * LIMIT);
    ended.assert(FAILURE, "");
    is_one_error(&ended.stderr, "can't mount proc; the builder VM's last lines: ");
    home.check();
}

#[test]
fn builder_that_is_interrupted_or_killed_is_told_of_and_leaves_nothing() {
    let home = Home::new();
    let build = Build::new(&home);
    signal("INT", build.command.id() as i32);
    build.fails("interrupted");
    home.check();

    let build = Build::new(&home);
    signal("KILL", build.builder);
    build.fails("the builder VM's process has ended (signal: 9 (SIGKILL)); run the command again");
    home.check();
}
