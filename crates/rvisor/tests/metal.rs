//! The type-1 home on Rvisor's own hosted home: its image is built, given a bundle, and runs Debian's kernel with
//! busybox.

mod common;
#[path = "metal/debian.rs"]
mod debian;
#[path = "metal/hostile.rs"]
mod hostile;
#[path = "metal/initrd.rs"]
mod initrd;
#[path = "metal/many.rs"]
mod many;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::guests::guest;
use common::monitor::monitor;
use common::{Terminal, finish, rvisor};

/// For anything that a machine does, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(400);

/// `rvisor bundle build` of a description.
fn bundle(directory: &Path, description: &str) -> PathBuf {
    let (guests, bundle) = (directory.join("guests.toml"), directory.join("bundle"));
    std::fs::write(&guests, description).expect("a file");
    let words = ["bundle", "build", guests.to_str().expect("text"), "-o", bundle.to_str().expect("text")];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, "");
    bundle
}

fn run(bundle: &Path, options: &[&str]) -> Command {
    let files = ["bundle", "run", bundle.to_str().expect("text"), "--monitor"];
    let mut command = rvisor(files);
    command.arg(monitor()).args(options);
    command
}

#[test]
fn debian_kernel_with_two_harts_reaches_its_first_program() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 3 * LIMIT).assert(0, "busybox\n");
    let directory = tempfile::tempdir().expect("a directory");
    let description = "[[guest]]\nname = 'one'\nimage = 'busybox'\nmemory = '128M'\nharts = 2\n";
    let bundle = bundle(directory.path(), description);
    let mut terminal = Terminal::start(&mut run(&bundle, &["--cpus", "2", "--memory", "512M"]));
    terminal.expect("engine deprivileged", LIMIT);
    terminal.expect("2 handlers for 2 contexts", LIMIT);
    terminal.expect("Run /init as init process", LIMIT);
}

/// What `costs` prints without its counts, alone, and as a guest with each of some options of `bundle run`.
fn costs_alone_and_as_guest(kernel: &Path, append: &str, options: &[&[&str]]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = kernel.to_str().expect("text");
    let description =
        format!("[[guest]]\nname = 'one'\nkernel = '{kernel}'\nappend = '{append}'\nmemory = '64M'\n");
    let bundle = bundle(directory.path(), &description);
    let alone = rvisor(["boot", "--memory", "64M", "--kernel", kernel, "--append", append]);
    let guests = options.iter().map(|options| {
        let mut command = run(&bundle, &["--memory", "256M"]);
        command.args(*options);
        command
    });
    let printed = std::iter::once(alone).chain(guests).map(|mut command| {
        let text = finish(&mut command, b"", LIMIT).text();
        let lines = text.lines().filter_map(|line| line.split_once("costs: "));
        let lines = lines.map(|(_, words)| words.rsplit_once(' ').map_or(words, |(words, _)| words));
        lines.collect::<Vec<_>>().join("\n")
    });
    printed.collect()
}

/// Random instructions on CSRs, what looks like them, code that is rewritten, accesses to where the monitor may be, text that may be a copy, and their sums; then
/// all that traps. With the lines that each prints, whose last word is dropped.
const OPERATIONS: [(&str, u32, usize); 9] = [
    ("csrs", 300, 2),
    ("illegal", 20, 2),
    ("rewrite", 2000, 2),
    ("probe", 40, 2),
    ("hide", 40, 2),
    ("null", 300, 1),
    ("fault", 300, 1),
    ("switch", 300, 1),
    ("timer", 300, 1),
];

fn computes_and_traps_alike(options: &[&[&str]]) {
    let kernel = guest("costs");
    for (operation, count, lines) in OPERATIONS {
        let printed = costs_alone_and_as_guest(&kernel, &format!("costs={operation},{count}"), options);
        let (alone, guests) = printed.split_first().expect("one was alone");
        assert_eq!(alone.lines().count(), lines, "{operation}: {alone}");
        for (guest, options) in guests.iter().zip(options) {
            assert_eq!(alone, guest, "{operation} with {options:?}");
        }
    }
}

#[test]
fn guest_computes_and_traps_as_it_does_alone() {
    let monitor = |words| ["--append", words];
    computes_and_traps_alike(&[
        &[],
        &monitor("sequences=off"),
        &monitor("patching=on"),
        &["--extensions", "h"],
        &["--extensions", "h", "--append", "stage=sv48x4"],
    ]);
}

#[test]
#[ignore = "needs QEMU; .ci/run has it"]
fn guest_on_qemu_computes_and_traps_as_it_does_alone() {
    computes_and_traps_alike(&[
        &["--machine", "qemu"],
        &["--machine", "qemu", "--append", "patching=off"],
        &["--machine", "qemu", "--extensions", "h"],
        &["--machine", "qemu", "--extensions", "h", "--append", "stage=sv48x4"],
    ]);
}

#[test]
fn monitor_without_guests_or_memory_says_so_and_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = monitor().to_str().expect("text");
    let ended = finish(&mut rvisor(["boot", "--kernel", kernel, "--memory", "64M"]), b"", LIMIT);
    assert!(ended.text().contains("rvisor: error: no bundle"), "{}", ended.text());
    // Any kernel: it isn't started.
    let description = format!("[[guest]]\nname = 'big'\nkernel = '{kernel}'\nmemory = '1G'\n");
    let bundle = bundle(directory.path(), &description);
    let ended = finish(&mut run(&bundle, &["--memory", "128M"]), b"", LIMIT);
    assert!(ended.text().contains("guest big: it needs 1024 MiB of memory"), "{}", ended.text());
}

/// What our own kernel's command line needs on this hardware: QEMU 10 loses stores to code that another hart is executing, without a
/// monitor too (docs/src/metal.md).
fn words_for(hardware: &[&str]) -> &'static str {
    if hardware.contains(&"qemu") { "kernel=apart" } else { "" }
}

/// A guest's table in a description.
fn table(name: &str, program: &str, more: &str) -> String {
    let program = guest(program);
    format!("[[guest]]\nname = '{name}'\nprogram = '{}'\nmemory = '16M'\n{more}\n", program.display())
}

#[test]
fn failure_of_the_monitors_own_is_told_with_the_way_to_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let bundle = bundle(directory.path(), &table("one", "kernel", "append = 'kernel=sleep'"));
    for (word, told) in [
        ("fail=panic", "panicked at crates/metal/src/arch/start.rs"),
        // A store where nothing is mapped: below the hart's own stack.
        ("fail=stack", "trap 15 at 0x4"),
    ] {
        for harts in ["1", "3"] {
            let options = ["--memory", "128M", "--cpus", harts, "--append", word];
            let ended = finish(&mut run(&bundle, &options), b"", LIMIT);
            let text = ended.text();
            assert!(!ended.status.success(), "{word}: {text}");
            let last = harts.parse::<u32>().expect("a number") - 1;
            let failed = format!("rvisor: the monitor failed on hart {last}: {told}");
            let way = text.split_once(&failed).unwrap_or_else(|| panic!("{word} with {harts}: {text}")).1;
            assert!(
                way.lines().filter(|line| line.contains("  called from 0x4")).count() > 1,
                "{word}: {text}"
            );
        }
    }
}

/// Milliseconds of processor time that a guest's last line tells.
fn processor_time(text: &str, guest: &str) -> f64 {
    let line =
        text.lines().find(|line| line.starts_with(&format!("rvisor: guest {guest}: powered off after ")));
    let number = line.and_then(|line| line.split(' ').nth(6)).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no time of {guest}:\n{text}"))
}

/// With these options for the hardware.
fn processors_are_shared(hardware: &[&str]) {
    // Two at once would take the processors from each other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().expect("a directory");
    let spin = |more: &str| format!("append = 'kernel=spin'\n{more}");
    let description = [
        table("one", "kernel", &spin("weight = 100\naffinity = [0]")),
        table("two", "kernel", &spin("weight = 200\naffinity = [0]")),
        table("four", "kernel", &spin("weight = 400\naffinity = [0]")),
        table("capped", "kernel", &spin("cap = 30\naffinity = [1]")),
        table("idle", "kernel", "append = 'kernel=idle'\naffinity = [1]"),
    ];
    let bundle = bundle(directory.path(), &description.concat());
    let options = ["--cpus", "2", "--memory", "256M"];
    // A host that is busy with other things takes time from whoever is running: then it is tried again.
    let mut found = Vec::new();
    for _ in 0..3 {
        let ended = finish(&mut run(&bundle, &[&options, hardware].concat()), b"", LIMIT);
        let time = |guest| processor_time(&ended.text(), guest);
        let [one, two, four] = ["one", "two", "four"].map(time);
        let all = one + two + four;
        let is_near = |part: f64, expected: f64| (part / expected - 1.0).abs() < 0.05;
        let are_shared =
            is_near(one, all / 7.0) && is_near(two, all * 2.0 / 7.0) && is_near(four, all * 4.0 / 7.0);
        found.push(["one", "two", "four", "capped", "idle"].map(time));
        // Ten seconds of the hardware's time, without the start.
        if are_shared && time("capped") < 3100.0 && time("capped") > 2300.0 && time("idle") < 50.0 {
            println!("{hardware:?}: {found:?}");
            return;
        }
    }
    panic!("{hardware:?}: {found:?}");
}

#[test]
fn processors_are_shared_by_weight_and_cap_and_idle_guests_cost_nothing() {
    processors_are_shared(&[]);
}

#[test]
fn processors_are_shared_by_weight_and_cap_with_hypervisor_extension() {
    processors_are_shared(&["--extensions", "h"]);
}

#[test]
#[ignore = "needs QEMU"]
fn processors_are_shared_by_weight_and_cap_on_qemu() {
    processors_are_shared(&["--machine", "qemu"]);
}

#[test]
#[ignore = "needs QEMU"]
fn processors_are_shared_by_weight_and_cap_on_qemu_with_hypervisor_extension() {
    processors_are_shared(&["--machine", "qemu", "--extensions", "h"]);
}

#[test]
fn slices_are_as_long_as_the_bundle_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let spin = |name| table(name, "kernel", "append = 'kernel=spin'");
    // A host that is busy makes some longer.
    for (slice, milliseconds) in [(1, 0.5..10.0), (40, 20.0..80.0)] {
        let description = [format!("[monitor]\nslice = {slice}\n"), spin("one"), spin("two")];
        let bundle = bundle(directory.path(), &description.concat());
        let mut terminal = Terminal::start(&mut run(&bundle, &["--memory", "128M"]));
        terminal.expect("entropy", LIMIT);
        std::thread::sleep(Duration::from_secs(2));
        terminal.send("\x02mstats one\r");
        terminal.expect(" slices; ", LIMIT);
        let text = terminal.transcript();
        let line = text.lines().find_map(|line| line.split_once("one: ")?.1.split_once(" slices; "));
        let mut numbers = line.expect("it is there").0.split(' ').filter_map(|word| word.parse().ok());
        let ran: f64 = numbers.next().expect("milliseconds");
        let slices = numbers.next_back().expect("a count");
        assert!(milliseconds.contains(&(ran / slices)), "slices of {slice} ms: {text}");
    }
}

#[test]
fn without_prefixes_the_guest_with_the_keyboard_prints_and_others_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let description = [
        "[monitor]\nprefix = false\n".into(),
        table("one", "kernel", "append = 'kernel=tick'"),
        table("two", "kernel", ""),
    ];
    let bundle = bundle(directory.path(), &description.concat());
    let mut terminal = Terminal::start(&mut run(&bundle, &["--memory", "128M"]));
    terminal.expect_all(&["kernel: tick ", "rvisor: guest two: powered off"], LIMIT);
    assert!(!terminal.transcript().contains("kernel: paging is sound"), "{}", terminal.transcript());
    terminal.send("\x022");
    terminal.expect("rvisor: keyboard: two", LIMIT);
    terminal.expect("kernel: paging is sound", LIMIT);
    terminal.expect("kernel passed", LIMIT);
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("\x021");
    terminal.expect("rvisor: keyboard: one", LIMIT);
    let meanwhile = terminal.since("rvisor: keyboard: two").split("rvisor: keyboard: one").next();
    assert!(meanwhile.is_some_and(|text| !text.contains("kernel: tick ")), "{meanwhile:?}");
    terminal.expect("kernel: tick ", LIMIT);
    assert!(!terminal.transcript().contains("[one]"), "{}", terminal.transcript());
    terminal.send("\x02mpoweroff\r");
    terminal.expect("rvisor: guest one: powered off", LIMIT);
    assert!(terminal.end(LIMIT).success());
}

#[test]
fn what_a_guest_discards_goes_from_its_range_of_the_disk_and_no_other() {
    const MIB: usize = 1 << 20;
    const SCRIPT: &str = "cmp -n 4096 /dev/vda /dev/zero && echo FAILED: nothing was there\n\
                          blkdiscard /dev/vda && echo discarded\npoweroff -f\n";
    let directory = tempfile::tempdir().expect("a directory");
    let linux = initrd::linux(SCRIPT, directory.path());
    let range = "disk = { start = '1M', size = '2M' }";
    let bundle = bundle(directory.path(), &linux.table("one", "96M", "", range));
    let disk = directory.path().join("disk");
    std::fs::write(&disk, vec![0xa5; 4 * MIB]).expect("a file");
    let options = ["--memory", "256M", "--disk", disk.to_str().expect("text")];
    let text = finish(&mut run(&bundle, &options), b"", LIMIT).text();
    assert!(text.contains("discarded") && !text.contains("FAILED"), "{text}");
    let content = std::fs::read(&disk).expect("a file");
    let is_all = |bytes: &[u8], byte: u8| bytes.iter().all(|found| *found == byte);
    assert!(is_all(&content[..MIB], 0xa5) && is_all(&content[3 * MIB..], 0xa5), "others' is whole");
    assert!(is_all(&content[MIB..3 * MIB], 0), "what was discarded reads as zeros");
}

/// With these options for the hardware.
fn guest_is_told_what_others_had(hardware: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let guest = |name, weight, word| {
        let more = format!("append = 'kernel={word}'\nweight = {weight}\naffinity = [0]\n");
        table(name, "kernel", &more)
    };
    let bundle =
        bundle(directory.path(), &[guest("one", 100, "stolen"), guest("other", 300, "spin")].concat());
    let text = finish(&mut run(&bundle, &[&["--memory", "128M"], hardware].concat()), b"", LIMIT).text();
    let line = text.lines().find_map(|line| line.split_once("kernel: others had ")?.1.split_once(" ms"));
    let (milliseconds, _) = line.unwrap_or_else(|| panic!("nothing is told: {text}"));
    let milliseconds: u32 = milliseconds.parse().expect("a number");
    // Three quarters of four seconds; what a busy host takes is nobody's.
    assert!((1500..3600).contains(&milliseconds), "{milliseconds} ms: {text}");
}

#[test]
fn stolen_time_is_told() {
    guest_is_told_what_others_had(&[]);
}

#[test]
fn stolen_time_is_told_with_hypervisor_extension() {
    guest_is_told_what_others_had(&["--extensions", "h"]);
}

#[test]
fn guests_line_is_its_virtio_console_where_the_bundle_says_so() {
    const SCRIPT: &str = "echo on the serial line\nexec </dev/hvc0 >/dev/hvc0 2>&1\necho on the virtio console\n\
                          read words\necho heard: $words\npoweroff -f\n";
    let directory = tempfile::tempdir().expect("a directory");
    let linux = initrd::linux(SCRIPT, directory.path());
    let guest = |name: &str, console: &str| linux.table(name, "96M", "", &format!("console = '{console}'"));
    let description = [guest("wired", "virtio"), guest("plain", "serial")].concat();
    let bundle = bundle(directory.path(), &description);
    let mut terminal = Terminal::start(&mut run(&bundle, &["--cpus", "2", "--memory", "384M"]));
    terminal.refuse("[plain] on the virtio console");
    let told = ["[wired] on the serial line", "[wired] on the virtio console", "[plain] on the serial line"];
    terminal.expect_all(&told, LIMIT);
    terminal.send("alpha beta\r");
    terminal.expect("[wired] heard: alpha beta", LIMIT);
    terminal.expect("guest wired: powered off", LIMIT);
    terminal.send("\x02mpoweroff\r");
    terminal.expect("guest plain: powered off", LIMIT);
    assert!(terminal.end(LIMIT).success());
}

/// What `trace` shows of a guest's program that calls and touches pages, in this order.
const TRACE: [&str; 9] = [
    "busy: a system call, number ",
    "busy: U 0x000000010000",
    "EnvironmentCallFromUser",
    "busy:     sepc 0x10000",
    "on in U at 0x10000",
    "busy: an address that the TLB and the shadow table don't have:",
    "4 KiB mapped with R",
    "busy:     guest's tables, level 0: the entry at 0x8",
    "busy:     guest's tables: 0x10000",
];
/// The same with the H extension.
const TRACE_WITH_HYPERVISOR_EXTENSION: [&str; 14] = [
    "busy: a system call, number ",
    "busy: VU 0x000000010000",
    "EnvironmentCallFromUser",
    "busy:     vsepc 0x10000",
    "sret",
    "on in VU at 0x10000",
    "busy: an address that the TLB and the guest's tables don't have:",
    "StorePageFault 0x10000",
    "isn't mapped",
    "busy: the same address, now that the guest has mapped it:",
    "busy:     first stage, level 0: the entry at 0x8",
    "busy:     first stage: 0x10000",
    "busy:     second stage, level 1: the entry at 0x",
    " is machine address 0x",
];

/// At the monitor's prompt, with these options for the hardware.
fn prompt_does_what_it_is_told(hardware: &[&str], trace: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let guest = |name, words| table(name, "kernel", &format!("append = 'kernel={words}'"));
    let later = |table: String| table + "start = false\n";
    let description = [
        guest("one", "sleep"),
        guest("two", "tick"),
        later(guest("busy", "calls")),
        later(guest("later", "")),
    ];
    let bundle = bundle(directory.path(), &description.concat());
    let mut terminal = Terminal::start(&mut run(&bundle, &[&["--memory", "256M"], hardware].concat()));
    terminal.expect("entropy", LIMIT);
    terminal.send("\x02m");
    terminal.expect("rvisor> ", LIMIT);
    for (line, answer) in [
        ("help\r", "trace    GUEST    show a guest's next system call and TLB miss"),
        ("", "help              this list"),
        ("stop\r", "stop which guest"),
        ("start later\r", "[later] kernel passed"),
        ("fly\r", "no command is called fly"),
        ("save one\r", "one: it has no save area"),
        ("resume later\r", "later is off; start it first"),
        ("pause two\rlist\r", "two              paused"),
        ("", "later            off"),
    ] {
        terminal.send(line);
        terminal.expect(answer, LIMIT);
    }
    std::thread::sleep(Duration::from_millis(500));
    terminal.send("list\r");
    terminal.expect("later            off", LIMIT);
    let paused = terminal.since("two              paused");
    assert!(!paused.contains("kernel: tick "), "{paused}");
    for (line, answer) in [
        ("resume two\r", "[two] kernel: tick "),
        ("list\r", "two              on"),
        ("restart two\r", "guest two: restarts after "),
        ("", "[two] kernel: tick 1"),
        ("stats two\r", "world switches: "),
        ("", "two: the monitor's time, in microseconds: "),
    ] {
        terminal.send(line);
        terminal.expect(answer, LIMIT);
    }
    // All that it did came to the monitor under one word or another.
    let counts = terminal.since("slices; ");
    for word in [" privileged instructions", " calls", " page faults"] {
        let count = counts.split(", ").find_map(|part| part.strip_suffix(word)?.rsplit(' ').next());
        assert!(count.is_some_and(|count| count != "0"), "{word}: {counts}");
    }
    for (line, answer) in [
        ("stats\r", "hart 0: asleep for "),
        ("trace one\r", "one: its next system call and TLB miss will be shown"),
        ("trace one\r", "one: nothing is traced any more"),
        ("start busy\r", "[busy] kernel: calls and touches"),
        ("trace busy\r", "busy: its next system call and TLB miss will be shown"),
    ] {
        terminal.send(line);
        terminal.expect(answer, LIMIT);
    }
    trace.iter().for_each(|words| terminal.expect(words, LIMIT));
    for (line, answer) in
        [("stop busy\r", "guest busy: powered off after "), ("console one\r", "keyboard: one")]
    {
        terminal.send(line);
        terminal.expect(answer, LIMIT);
    }
    terminal.send("\x02mstop one\r");
    terminal.expect("guest one: powered off", LIMIT);
    terminal.send("poweroff\r");
    terminal.expect("guest two: powered off", LIMIT);
    assert!(terminal.end(LIMIT).success());
}

#[test]
fn prompt_lists_pauses_traces_and_stops_guests() {
    prompt_does_what_it_is_told(&[], &TRACE);
}

#[test]
fn prompt_lists_pauses_traces_and_stops_guests_with_hypervisor_extension() {
    prompt_does_what_it_is_told(&["--extensions", "h"], &TRACE_WITH_HYPERVISOR_EXTENSION);
}

/// What a Linux guest prints of its own work, and how many traps of privileged instructions the trampoline served.
fn work_of_linux(bundle: &Path, words: &str) -> (Vec<String>, u64) {
    let text = finish(&mut run(bundle, &["--memory", "384M", "--append", words]), b"", LIMIT).text();
    // The kernel prints its command line too.
    let work = text.lines().filter_map(|line| line.strip_prefix("work:_")).map(|rest| rest.trim().to_owned());
    let traps = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("without one: ")?;
        rest.split(", ").nth(1)?.split(' ').next()?.parse().ok()
    });
    (work.collect(), traps.unwrap_or_else(|| panic!("{words:?} has no counts:\n{text}")))
}

#[test]
fn linux_does_the_same_with_and_without_sequences_and_patching() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 3 * LIMIT).assert(0, "busybox\n");
    let directory = tempfile::tempdir().expect("a directory");
    // Processes, pipes, signals, floating point, files.
    let script = "mount -t devtmpfs dev /dev; m() { sed s/^/work:_/; }; \
                  for i in 1 2 3 4 5 6 7 8 9; do echo $i | md5sum | cut -c 1-8; done | md5sum | m; \
                  md5sum /bin/busybox | m; sleep 100 & kill $!; wait $!; echo killed $? | m; \
                  awk 'BEGIN{for(i=1;i<5000;i++)s+=1/i;print s}' | m; \
                  dd if=/dev/zero bs=1k count=300 2>/dev/null | gzip | gunzip | wc -c | m; poweroff -f";
    let description = format!(
        "[[guest]]\nname = 'g'\nimage = 'busybox'\nmemory = '128M'\nappend = '''rdinit=/bin/busybox -- sh -c \"{script}\"'''\n"
    );
    let bundle = bundle(directory.path(), &description);
    let (on, few) = work_of_linux(&bundle, "");
    let (off, many) = work_of_linux(&bundle, "sequences=off");
    let (patched, _) = work_of_linux(&bundle, "patching=on");
    assert_eq!((on.len(), &on), (5, &off));
    assert_eq!(on, patched);
    assert!(few < many, "{few} traps with sequences, {many} without");
}
