//! Processes that are killed at any moment: what they were at is whole afterwards, and what a guest was told is on its
//! disk is there.
//!
//! Fifty moments, or as many as `RVISOR_KILLS` says, of three kinds: a third each during snapshots, disk writes and pulls.

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::images::add_old;
use common::{LIMIT, Machine, finish, rvisor};
use rvisor_images::Store;
use sha2::{Digest, Sha256};

/// How many of the moments are of this kind, the first, second or third.
fn moments(kind: usize) -> usize {
    let all = std::env::var("RVISOR_KILLS").map_or(50, |text| text.parse().expect("a number"));
    (all + 2 - kind) / 3
}

/// Moments that differ each time.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        Self(now.as_nanos() as u64 | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Waits for less than so many milliseconds.
    fn wait(&mut self, limit: u64) {
        thread::sleep(Duration::from_micros(self.below(limit * 1000)));
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rvisor starts")
}

/// As `kill -9` does.
fn kill(mut child: Child) {
    child.kill().and_then(|()| child.wait()).expect("a child");
}

/// Kills a machine's process, and waits until it is gone.
fn kill_process(machine: &Machine, pid: &str) {
    let killed = Command::new("kill").args(["-9", pid]).status().expect("kill runs");
    assert!(killed.success());
    machine.ask(&["wait"]);
}

/// What a guest has in memory, and on its disk.
const SHOW: &str = "cat /generation; head -c 4 /dev/vda";

#[test]
fn snapshots_are_whole_or_not_there() {
    let mut chance = Chance::new();
    let machine = Machine::run("kills", &["--memory", "128M", "--disk", "size=64M", "busybox"]);
    let directory = machine.directory();
    let set = |generation: &str| {
        // Much that is different from snapshot to snapshot, in memory and on the disk.
        let script = format!(
            "dd if=/dev/urandom of=/noise bs=1M count=16 2>/dev/null && dd if=/noise of=/dev/vda seek=1 bs=1M count=8 2>/dev/null \
             && printf {generation} >/generation && printf {generation} | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null"
        );
        machine.exec(&["sh", "-c", &script]).assert(0, "");
    };
    let is = |generation: &str| machine.exec(&["sh", "-c", SHOW]).assert(0, &generation.repeat(2));
    let list = || -> Vec<String> {
        let told = machine.ask(&["snapshot", "ls", "--format", "json"]);
        let told: Vec<serde_json::Value> = serde_json::from_str(&told.text()).expect("a list");
        told.iter().map(|info| info["name"].as_str().expect("a name").to_owned()).collect()
    };
    let restore = |name: &str| {
        let words = ["snapshot", "restore", "--force", &machine.0, name];
        finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
    };
    set("0000");
    machine.exec(&["sync"]).assert(0, "");
    finish(&mut rvisor(["snapshot", "create", &machine.0, "0000"]), b"", LIMIT).assert(0, "0000\n");
    let mut sound = HashSet::from(["0000".to_owned()]);
    for round in 1..=moments(0) {
        let name = format!("{round:04}");
        set(&name);
        let pid = machine.pid();
        let create = ["snapshot", "create", &machine.0, &name];
        match round % 4 {
            // The command that makes one: the machine goes on.
            0 | 1 => {
                let child = spawn(&mut rvisor(create));
                chance.wait(250);
                kill(child);
                is(&name);
            }
            // The machine: it is to be gone back with.
            2 => {
                let mut child = spawn(&mut rvisor(create));
                chance.wait(250);
                kill_process(&machine, &pid);
                common::wait(&mut child, LIMIT).expect("a command that notices");
            }
            // The command that goes back to one: the machine has begun to, or it goes on, or it begins with power-on.
            _ => {
                let child = spawn(&mut rvisor(["snapshot", "restore", "--force", &machine.0, "0000"]));
                chance.wait(100);
                kill(child);
                // It may have been told to end or to start, and not have done so yet.
                let works = || {
                    if machine.field("state") != "running" {
                        machine.ask(&["start"]);
                    }
                    machine.exec(&["true"]).status.success()
                };
                assert!(works() || works() || works());
            }
        }
        let now: HashSet<_> = list().into_iter().collect();
        assert!(sound.is_subset(&now) && now.len() <= sound.len() + 1, "{sound:?} {now:?}");
        for name in now.difference(&sound) {
            restore(name);
            is(name);
        }
        sound = now;
        restore("0000");
        is("0000");
    }
    for name in sound {
        restore(&name);
        is(&name);
    }
    // Whatever a killed process has left is gone with the next snapshot.
    finish(&mut rvisor(["snapshot", "create", &machine.0, "last"]), b"", LIMIT).assert(0, "last\n");
    let left = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).expect("a directory").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(left(&directory.join("snapshots")).iter().all(|name| !name.starts_with('.')));
    let is_leftover = |name: &String| name.ends_with(".new") || name.starts_with("saved-");
    let found: Vec<_> =
        [&directory, &directory.join("run")].into_iter().flat_map(|path| left(path)).collect();
    assert!(!found.iter().any(is_leftover), "{found:?}");
}

/// Bytes between two records: a cluster of the disk.
const RECORD: u64 = 64 << 10;
/// Records on the disk.
const RECORDS: u64 = 8192;

/// Where a number's record is: all over the disk, so that tables are made too.
fn place(number: u64) -> u64 {
    number * 1367 % RECORDS
}

#[test]
fn acknowledged_writes_outlive_the_process() {
    let mut chance = Chance::new();
    // Behind the records is what nobody is told about.
    let size = format!("size={}", (RECORDS + 1024) * RECORD);
    let machine = Machine::run("writes", &["--memory", "128M", "--disk", &size, "busybox"]);
    let disk = machine.directory().join("disk-1.qcow2");
    let scratch = tempfile::tempdir().expect("a directory");
    let noise = format!(
        "n=0; while :; do n=$((n + 1)); at=$(({RECORDS} + n * 37 % 512)); \
         dd if=/dev/urandom of=/dev/vda bs=64k seek=$at count=3 conv=notrunc 2>/dev/null; \
         [ $((n % 8)) = 0 ] && blkdiscard -o $((at * {RECORD})) -l 131072 /dev/vda 2>/dev/null; done"
    );
    let mut acknowledged = 0;
    for _ in 0..moments(1) {
        let noise = spawn(&mut rvisor(["exec", &machine.0, "sh", "-c", &noise]));
        // What was in flight when the process was killed may be there or not: it is written again.
        let script = format!(
            "n={acknowledged}; while :; do n=$((n + 1)); printf '%016d' $n | dd of=/dev/vda bs=16 \
             seek=$((n * 1367 % {RECORDS} * {})) conv=notrunc,fsync 2>/dev/null && echo $n; done",
            RECORD / 16
        );
        let mut writer = rvisor(["exec", &machine.0, "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("rvisor starts");
        let mut lines = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        let first = lines.next().expect("a record").expect("text");
        let heard = thread::spawn(move || lines.map_while(Result::ok).last());
        chance.wait(700);
        kill_process(&machine, &machine.pid());
        let last = heard.join().expect("a thread").unwrap_or(first);
        acknowledged = last.parse().expect("a number");
        assert!(acknowledged < RECORDS, "choose fewer kills");
        [writer, noise].into_iter().for_each(kill);

        let path = disk.to_str().expect("text");
        let checked = finish(&mut rvisor(["disk", "check", path]), b"", LIMIT);
        // Clusters that were taken and not used yet are lost space, but nothing is damaged.
        let is_sound = match checked.status.code() {
            Some(0) => true,
            Some(3) => {
                checked.stderr.lines().chain(checked.text().lines()).all(|line| line.contains("lost space"))
            }
            _ => false,
        };
        assert!(is_sound, "{}\n{}", checked.text(), checked.stderr);
        let raw = scratch.path().join("raw");
        let words = ["disk", "convert", "--disk-format", "raw", path, raw.to_str().expect("text")];
        assert_eq!(finish(&mut rvisor(words), b"", LIMIT).status.code(), Some(0));
        let content = File::open(&raw).expect("the disk");
        for number in 1..=acknowledged {
            let mut record = [0; 16];
            content.read_exact_at(&mut record, place(number) * RECORD).expect("a record");
            let told = String::from_utf8_lossy(&record);
            assert_eq!(told, format!("{number:016}"), "of {acknowledged}");
        }
        fs::remove_file(raw).expect("a file");
        machine.tell(&["start"]);
    }
    assert!(acknowledged > 0);
}

/// Checks that each file is what its name says; returns their names.
fn digests(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
    let whole: Vec<_> = entries.filter(|path| path.extension().is_none()).collect();
    for path in &whole {
        let (mut file, mut digest) = (File::open(path).expect("a file"), Sha256::new());
        let mut buffer = vec![0; 1 << 20];
        while let count @ 1.. = file.read(&mut buffer).expect("a file") {
            digest.update(&buffer[..count]);
        }
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(path.ends_with(&digest), "{} is damaged", path.display());
    }
    whole
}

#[test]
fn store_is_whole_whenever_a_pull_ends() {
    let mut chance = Chance::new();
    let home = tempfile::tempdir().expect("a directory");
    let there = |words: &[&str]| {
        let mut command = rvisor(words.iter().copied());
        command.env("RVISOR_HOME", home.path());
        command
    };
    // An image that was there before.
    let store = Store::open(home.path()).expect("a store");
    let old = add_old(&store);
    let mut was_there = false;
    for _ in 0..moments(2) {
        let child = spawn(&mut there(&["pull", "--force", "busybox"]));
        chance.wait(if was_there { 6000 } else { 3000 });
        kill(child);
        assert_eq!(store.get("old").expect("an image").manifest, old);
        let blobs = digests(&home.path().join("blobs/sha256"));
        digests(&store.cache());
        let listed = finish(&mut there(&["images", "-q"]), b"", LIMIT);
        let is_there = store.get("busybox").is_ok();
        listed.assert(0, if is_there { "busybox\nold\n" } else { "old\n" });
        assert!(is_there || !was_there, "the image that was there is gone");
        assert!(blobs.len() >= if is_there { 4 } else { 2 });
        was_there = is_there;
    }
    finish(&mut there(&["pull", "--force", "busybox"]), b"", LIMIT).assert(0, "busybox\n");
    assert_eq!(digests(&home.path().join("blobs/sha256")).len(), 4, "the files of two images");
    assert_eq!(fs::read_dir(home.path().join("drafts")).expect("a directory").count(), 0);
    let words = ["run", "--rm", "--cold", "busybox", "--", "echo", "works"];
    finish(&mut there(&words), b"", LIMIT).assert(0, "works\n");
}
