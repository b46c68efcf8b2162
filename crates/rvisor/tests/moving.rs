//! A machine moves between the homes, and what runs in it doesn't notice.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default); it is pulled if it isn't there.

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::monitor::monitor;
use common::{LIMIT, Machine, Terminal, finish, rvisor};

/// Sums of sums, each by processes of its own; says how far it is, and leaves the last. It waits as long as there is one file,
/// and for another before it ends, so that it is at work when it is to be, however fast the host is.
const JOB: &str = "i=0; h=start; while [ $i -lt 500 ]; do \
                   while [ -e $3/hold ]; do sleep 0.1; done; \
                   [ $i = 460 ] && until [ -e $3/end ]; do sleep 0.1; done; \
                   h=$(echo $h $i | sha256sum); i=$((i+1)); \
                   [ $((i%10)) = 0 ] && echo \"job $i\" >$1; done; echo $h >$2";

/// Sectors of the machine's disk, and the one that is used.
const DISK: u64 = 4096;
const MARK: u64 = 1234;
/// Where the disk begins on the physical one, and where state is saved: the disk's end is at 3 MiB.
const PLACES: &str = "network = 'lan'\ndisk = { start = '1M' }\nsave = { start = '4M' }";
const RANGE: u64 = 1 << 20;

/// Leaves a word on the disk: it is there when the next command runs.
fn write(word: &str) -> String {
    format!("echo {word} | dd of=/dev/vda bs=512 seek={MARK} conv=sync,fsync 2>/dev/null")
}

/// Shows the word on the disk itself, which memory may have as well.
fn read() -> String {
    format!(
        "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=512 skip={MARK} count=1 2>/dev/null | head -n 1"
    )
}

/// Waits until the gateway of the network answers.
const REACH: &str = "until ping -c 1 -W 2 10.0.2.2 >/dev/null; do sleep 0.2; done";
const ADDRESS: &str = "cat /sys/class/net/eth0/address";

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// `rvisor WORDS…`; it succeeds.
#[track_caller]
fn succeed(words: &[&str]) {
    let ended = finish(&mut rvisor(words.iter().copied()), b"", LIMIT);
    assert!(ended.status.success(), "{words:?}: {}", ended.stderr);
}

/// `rvisor WORDS…`; it is refused in one line that tells this.
#[track_caller]
fn refused(words: &[&str], told: &str) {
    let ended = finish(&mut rvisor(words.iter().copied()), b"", LIMIT);
    assert!(!ended.status.success() && ended.stderr.contains(told), "{words:?}: {}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

/// The only guest of a new bundle with its disk, at the hardware's console.
struct Hardware {
    bundle: std::path::PathBuf,
    disk: std::path::PathBuf,
}

impl Hardware {
    fn new(directory: &Path, source: &str) -> Self {
        let file = |name: &str| directory.join(name);
        let (guests, bundle, disk) = (file("guests.toml"), file("bundle"), file("disk"));
        let _ = std::fs::remove_file(&disk);
        let network = "[[network]]\nname = 'lan'\nuplink = true";
        let description = format!("{network}\n[[guest]]\nname = 'moving'\n{source}\n");
        std::fs::write(&guests, description).expect("a file");
        succeed(&["bundle", "build", text(&guests), "-o", text(&bundle)]);
        succeed(&["bundle", "disk", text(&guests), "-o", text(&disk)]);
        Self { bundle, disk }
    }

    fn start(&self, options: &[&str]) -> Terminal {
        let mut command = rvisor(["bundle", "run", text(&self.bundle), "--memory", "384M", "--net", "user"]);
        command.arg("--monitor").arg(monitor()).arg("--disk").arg(&self.disk).args(options);
        Terminal::start(&mut command)
    }

    /// The word on the guest's part of the disk.
    fn mark(&self) -> String {
        let mut sector = [0; 512];
        let disk = std::fs::File::open(&self.disk).expect("the disk");
        disk.read_exact_at(&mut sector, RANGE + MARK * 512).expect("a sector");
        String::from_utf8_lossy(&sector).trim_end_matches('\0').trim().to_owned()
    }

    /// Lets the guest go on for a while, saves it, and switches the hardware off. Its disk has the word that was left there;
    /// it leaves another. Its network card has the address that it had, and works.
    fn run(&self, options: &[&str], engine: &str, card: &str, [found, left]: [&str; 2]) {
        assert_eq!(self.mark(), found);
        let mut terminal = self.start(options);
        terminal.expect(engine, LIMIT);
        // The shell on the guest's console drops what is typed before it is there.
        terminal.send("\r");
        terminal.expect("# ", LIMIT);
        terminal.send(">/hold\r");
        terminal.send(&format!("{}\r", read()));
        terminal.expect(found, LIMIT);
        terminal.send(&format!("{}; {REACH}; {ADDRESS}\r", write(left)));
        terminal.expect(card, LIMIT);
        assert_eq!(self.mark(), left);
        terminal.send("rm /hold\r\x02m");
        let save = |terminal: &mut Terminal| {
            terminal.expect("job ", LIMIT);
            terminal.send("save\r");
            terminal.expect("KiB saved", LIMIT);
            terminal.expect("was saved after", LIMIT);
        };
        save(&mut terminal);
        terminal.send("save\r");
        terminal.expect("it is off", LIMIT);
        // It goes on here as well; its memory is in other places then.
        terminal.send("start\r");
        save(&mut terminal);
        terminal.send("poweroff\r");
        assert!(terminal.end(LIMIT).success());
    }

    fn extract(&self, options: &[&str]) {
        let words = ["bundle", "extract", text(&self.bundle), "moving", "--disk", text(&self.disk)];
        succeed(&[&words, options].concat());
    }
}

#[test]
fn job_goes_on_in_both_homes_and_ends_with_the_right_sum() {
    let directory = tempfile::tempdir().expect("a directory");
    let sum = directory.path().join("sum");
    std::fs::write(directory.path().join("end"), "").expect("a file");
    let here =
        Command::new("sh").args(["-c", JOB, "sh", "/dev/null"]).arg(&sum).arg(directory.path()).status();
    assert!(here.expect("a shell").success());

    let size = format!("size={}", DISK * 512);
    let options = ["--cold", "--portable", "--memory", "128M", "--disk", &size, "busybox"];
    let machine = Machine::run("moving", &options);
    let shell = |machine: &Machine, script: &str| machine.exec(&["sh", "-c", script]);
    shell(&machine, &format!(">/hold; {}", write("left-hosted"))).assert(0, "");
    let card = shell(&machine, &format!("{REACH}; {ADDRESS}")).text();
    assert_eq!(card.len(), "00:00:00:00:00:00\n".len(), "{card}");
    succeed(&["exec", "-d", &machine.0, "sh", "-c", JOB, "sh", "/dev/console", "/sum", "/"]);
    succeed(&["snapshot", "create", &machine.0, "leaving"]);
    machine.tell(&["kill"]);

    let hardware = Hardware::new(directory.path(), &format!("machine = '{}@leaving'\n{PLACES}", machine.0));
    let extract = ["bundle", "extract", text(&hardware.bundle), "moving", "--disk", text(&hardware.disk)];
    refused(&extract, "no state of it is kept");
    hardware.run(&[], "engine deprivileged", card.trim(), ["left-hosted", "left-deprivileged"]);
    let exported = directory.path().join("exported");
    hardware.extract(&["-o", text(&exported)]);
    // What was used, or belongs to another bundle, isn't gone on from.
    let hardware = Hardware::new(directory.path(), &format!("state = 'exported'\n{PLACES}"));
    hardware.run(&["--extensions", "h"], "engine vs", card.trim(), ["left-deprivileged", "left-vs"]);

    let back = Machine::named("back");
    hardware.extract(&["--name", &back.0]);
    shell(&back, &read()).assert(0, "left-vs\n");
    shell(&back, &format!("{REACH}; {ADDRESS}")).assert(0, &card);
    shell(&back, &format!("{}; {}", write("left-back"), read())).assert(0, "left-back\n");
    back.exec(&["touch", "/end"]).assert(0, "");
    let end = Instant::now() + LIMIT;
    let found = loop {
        let ended = back.exec(&["cat", "/sum"]);
        if ended.status.success() && ended.stdout.ends_with(b"\n") {
            break ended.text();
        }
        assert!(Instant::now() < end, "{}", ended.stderr);
        thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(found, std::fs::read_to_string(&sum).expect("the sum"));
    // Its time is now, whatever it was saved with.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let told: u64 = back.exec(&["date", "+%s"]).text().trim().parse().expect("a number");
    assert!(now.abs_diff(told) < 60, "{told} at {now}");
}

#[test]
fn machine_that_the_hardware_is_too_little_for_is_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let machine =
        Machine::run("large", &["--cold", "--mmu", "sv57", "--memory", "128M", "--net", "none", "busybox"]);
    succeed(&["snapshot", "create", &machine.0, "leaving"]);
    machine.tell(&["kill"]);
    let source = format!("machine = '{}@leaving'", machine.0);
    let places = format!("{source}\nsave = {{ start = '1M' }}");
    let mut terminal = Hardware::new(directory.path(), &places).start(&[]);
    terminal.expect("error: guest moving: it can't go on: its guest has addresses as of Sv57", LIMIT);
    terminal.end(LIMIT);
    let guests = directory.path().join("guests.toml");
    let bundle = directory.path().join("bundle");
    let build = ["bundle", "build", text(&guests), "-o", text(&bundle)];
    for (source, told) in [
        (format!("machine = '{}@other'", machine.0), "no snapshot other"),
        (format!("{source}\nmemory = '256M'"), "has 128 MiB of memory"),
        (format!("{source}\nharts = 2"), "has 1 harts"),
        (format!("{source}\ndisk = {{ start = '1M' }}"), "has no disk"),
        (format!("{source}\nkernel = 'x'"), "leave all but one out"),
    ] {
        std::fs::write(&guests, format!("[[guest]]\nname = 'moving'\n{source}\n")).expect("a file");
        refused(&build, told);
    }
}
