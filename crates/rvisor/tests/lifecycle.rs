//! Machines in the background, and every command that uses them. One machine serves many checks: a boot takes seconds.
//!
//! The images come from the user's store (`RVISOR_HOME`, else the default); they are pulled if they aren't there.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{FAILURE, LIMIT, Machine, Terminal, finish, rvisor};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

#[test]
fn machine_in_the_background_is_used_and_ended() {
    let mut machine = Machine::run("background", &["busybox"]);
    assert_eq!(machine.field("state"), "running");
    let taken = finish(&mut rvisor(["run", "-d", "--name", &machine.0, "busybox"]), b"", LIMIT);
    assert!(taken.stderr.contains("called") && taken.status.code() == Some(FAILURE), "{}", taken.stderr);
    machine.refuse(&["rm"], "is running; stop it first");
    let process = machine.pid();
    machine.tell(&["start"]);
    assert_eq!(machine.pid(), process);
    machine.refuse(&["start", "--cold"], "is running already; leave --cold out");

    commands_have_streams_and_exit_codes(&machine);
    command_on_a_terminal_has_its_keys_and_its_size(&machine);
    files_are_copied_both_ways(&machine);
    archives_are_copied_both_ways(&machine);
    command_in_the_background_goes_on(&machine);
    paused_machine_does_nothing_and_goes_on(&machine);
    what_it_uses_is_told(&machine);
    several_attach_and_detach(&machine);
    ports_are_forwarded_while_it_runs(&machine);

    let name = format!("{}-renamed", machine.0);
    finish(&mut rvisor(["rename", &machine.0, &name]), b"", LIMIT).assert(0, "");
    machine.0 = name;
    machine.exec(&["true"]).assert(0, "");
    let logs = machine.ask(&["logs"]).text();
    assert!(logs.contains("second-attached"), "{logs}");
    assert_eq!(machine.ask(&["logs", "--since", "0"]).text(), "");
    let stamped = machine.ask(&["logs", "--since", "1d", "--timestamps"]).text();
    assert!(stamped.contains("second-attached"), "{stamped}");
    assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("Z  ")), "{stamped}");
    assert_eq!(machine.ask(&["logs", "--since", "1d", "--until", "1h"]).text(), "");

    machine.tell(&["stop"]);
    assert_eq!((machine.field("state"), machine.field("exit_code")), ("exited".into(), 0.into()));
    machine.refuse(&["pause"], "isn't running; start it with");
    machine.ask(&["wait"]).assert(0, "0\n");
    two_that_start_it_are_both_content(&machine);
    killed_processes_leave_a_machine_that_starts_again(&machine);
    machine.tell(&["rm", "--force"]);
    assert_eq!(machine.field("state"), serde_json::Value::Null);
}

#[test]
fn machines_are_stopped_all_at_once() {
    let stubborn = ["busybox", "--", "sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"];
    let machines = ["stubborn", "obstinate"].map(|name| Machine::run(name, &stubborn));
    let [first, second] = machines.each_ref().map(|machine| machine.0.as_str());
    let begun = Instant::now();
    let ended = finish(&mut rvisor(["stop", "-t", "7", first, "nobody", second]), b"", LIMIT);
    let took = begun.elapsed();
    ended.assert(FAILURE, &format!("{first}\n{second}\n"));
    assert!(ended.stderr.contains("no machine is called nobody"), "{}", ended.stderr);
    // One after the other: twice as long.
    assert!((7..14).contains(&took.as_secs()), "{took:?}");
    assert!(machines.iter().all(|machine| machine.field("state") == "exited"));
}

fn commands_have_streams_and_exit_codes(machine: &Machine) {
    let ended = machine.exec(&["sh", "-c", "echo out; echo err >&2; cat; exit 7"]);
    ended.assert(7, "out\n");
    assert_eq!(ended.stderr, "err\n");
    machine.exec(&["no-such-command"]).assert(127, "");
    machine.exec(&["/etc/passwd"]).assert(126, "");
    machine.exec(&["sh", "-c", "kill -9 $$"]).assert(137, "");
    let words =
        ["exec", "-e", "GREETING=it's me", "-w", "/tmp", &machine.0, "sh", "-c", "pwd; echo $GREETING"];
    finish(&mut rvisor(words), b"", LIMIT).assert(0, "/tmp\nit's me\n");
    let input: Vec<u8> = (0..700_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ended = machine.exec_with_input(&["cat"], &input);
    assert!(ended.stdout == input, "{} of {} bytes: {}", ended.stdout.len(), input.len(), ended.stderr);
    // Signals of the client are the command's.
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = rvisor(["exec", &machine.0, "sh", "-c", script]);
    let mut terminal = Terminal::start(&mut command);
    terminal.expect("ready", LIMIT);
    terminal.signal("TERM");
    terminal.expect("caught", LIMIT);
    assert_eq!(terminal.end(LIMIT).code(), Some(3));
}

fn command_on_a_terminal_has_its_keys_and_its_size(machine: &Machine) {
    let mut terminal = Terminal::start(&mut rvisor(["exec", "-it", &machine.0, "sh"]));
    terminal.expect("# ", LIMIT);
    terminal.send("tty; stty size\r");
    terminal.expect("/dev/pts/", LIMIT);
    terminal.resize(33, 99);
    // What is typed is echoed before it runs: only what it prints tells that it does.
    terminal.send("sh -c 'echo be\"\"gun; sleep 1000'\r");
    terminal.expect("begun", LIMIT);
    terminal.send("\x03");
    terminal.expect("# ", LIMIT);
    terminal.send("stty size; exit 5\r");
    terminal.expect("33 99", LIMIT);
    assert_eq!(terminal.end(LIMIT).code(), Some(5));
    let piped = machine.exec_with_input(&["-t", "true"], b"");
    assert_eq!(piped.status.code(), Some(FAILURE));
    assert!(piped.stderr.contains("isn't a terminal; leave --tty out"), "{}", piped.stderr);
}

fn files_are_copied_both_ways(machine: &Machine) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let inside = |path: &str| format!("{}:{path}", machine.0);
    let copy = |from: &str, to: &str| finish(&mut rvisor(["cp", from, to]), b"", LIMIT);
    fs::create_dir_all(path("tree/sub")).expect("a directory");
    fs::write(path("tree/sub/file"), "content\n").expect("a file");
    std::os::unix::fs::symlink("file", path("tree/sub/link")).expect("a link");
    copy(&path("tree"), &inside("/root/copied")).assert(0, "");
    machine.exec(&["cat", "/root/copied/sub/link"]).assert(0, "content\n");
    machine.exec(&["stat", "-c", "%u:%g", "/root/copied/sub/file"]).assert(0, "0:0\n");
    copy(&path("tree/sub/file"), &inside("/root/copied")).assert(0, "");
    machine.exec(&["cat", "/root/copied/file"]).assert(0, "content\n");
    copy(&inside("/root/copied"), &path("back")).assert(0, "");
    assert_eq!(fs::read_to_string(path("back/sub/link")).expect("a file"), "content\n");
    copy(&inside("/etc/passwd"), directory.path().to_str().expect("text")).assert(0, "");
    assert!(fs::read_to_string(path("passwd")).expect("a file").starts_with("root:"));
    for (from, to) in [(inside("/nope"), path("x")), (path("nope"), inside("/")), (path("tree"), path("y"))] {
        let ended = copy(&from, &to);
        assert_eq!(ended.status.code(), Some(FAILURE), "{from} {to}: {}", ended.stderr);
    }
    let mut names: Vec<_> = fs::read_dir(directory.path()).expect("a directory").flatten().collect();
    names.retain(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert!(names.is_empty(), "{names:?}");
}

fn archives_are_copied_both_ways(machine: &Machine) {
    let inside = |path: &str| format!("{}:{path}", machine.0);
    let archive = finish(&mut rvisor(["cp", &inside("/root/copied/sub"), "-"]), b"", LIMIT);
    assert_eq!(archive.status.code(), Some(0), "{}", archive.stderr);
    machine.exec(&["mkdir", "/root/unpacked"]).assert(0, "");
    finish(&mut rvisor(["cp", "-", &inside("/root/unpacked")]), &archive.stdout, LIMIT).assert(0, "");
    machine.exec(&["cat", "/root/unpacked/sub/file"]).assert(0, "content\n");
    for words in [
        ["cp", "-", &inside("/nope")],
        ["cp", &inside("/nope"), "-"],
        ["cp", "-", &inside("/root/copied/file")],
    ] {
        let ended = finish(&mut rvisor(words), &archive.stdout, LIMIT);
        assert_eq!(ended.status.code(), Some(FAILURE), "{words:?}: {}", ended.stderr);
    }
}

fn command_in_the_background_goes_on(machine: &Machine) {
    machine.exec(&["true"]).assert(0, "");
    let detached =
        |words: &[&str]| finish(&mut rvisor([&["exec", "-d", &machine.0], words].concat()), b"", LIMIT);
    detached(&["sh", "-c", "cat; sleep 1; echo done >/root/background"]).assert(0, "");
    let deadline = Instant::now() + LIMIT;
    while machine.exec(&["cat", "/root/background"]).text() != "done\n" {
        assert!(Instant::now() < deadline, "the command didn't go on");
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(detached(&["no-such-command"]).status.code(), Some(127));
}

fn paused_machine_does_nothing_and_goes_on(machine: &Machine) {
    let before = machine.exec(&["cut", "-d.", "-f1", "/proc/uptime"]).text();
    machine.tell(&["pause"]);
    assert_eq!(machine.field("state"), "paused");
    machine.refuse(&["pause"], "is paused already");
    machine.refuse(&["start"], "is paused; let it go on with");
    machine.refuse(&["kill", "--signal", "TERM"], "is paused; let it go on with");
    let refused = machine.exec(&["true"]);
    assert!(refused.stderr.contains("rvisor resume"), "{}", refused.stderr);
    thread::sleep(Duration::from_secs(4));
    machine.tell(&["resume"]);
    machine.refuse(&["resume"], "isn't paused");
    // No time has passed for the guest, but its clock is right.
    let after = machine.exec(&["cut", "-d.", "-f1", "/proc/uptime"]).text();
    let seconds = |text: &str| text.trim().parse::<u64>().expect("seconds");
    assert!(seconds(&after) <= seconds(&before) + 3, "{before} {after}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let guest = seconds(&machine.exec(&["date", "+%s"]).text());
    assert!(guest.abs_diff(now) < 3, "{guest} {now}");
}

fn what_it_uses_is_told(machine: &Machine) {
    let stats = machine.ask(&["stats", "--no-stream", "--format", "json"]).text();
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats[0]["name"], machine.0.as_str());
    assert_eq!(stats[0]["memory_limit"], 1 << 30);
    // A guest that began as a copy of one that is ready needn't have called the SBI.
    assert!(stats[0]["total"]["harts"][0]["device"].as_u64() > Some(0), "{stats}");
    let table = machine.ask(&["stats", "--no-stream"]).text();
    assert!(table.starts_with("NAME") && table.contains(&machine.0), "{table}");
    let told: serde_json::Value = serde_json::from_str(&machine.ask(&["inspect"]).text()).expect("JSON");
    assert_eq!((&told[0]["live"]["agent"], &told[0]["config"]["image"]), (&true.into(), &"busybox".into()));
    let events =
        finish(&mut rvisor(["events", "--since", "1h", "--no-stream", "--format", "json"]), b"", LIMIT);
    let own: Vec<_> =
        events.text().lines().filter(|line| line.contains(&machine.0)).map(str::to_owned).collect();
    for action in ["create", "start", "exec", "pause", "unpause"] {
        assert!(own.iter().any(|line| line.contains(&format!("\"{action}\""))), "{action}: {own:?}");
    }
}

fn several_attach_and_detach(machine: &Machine) {
    let attach = || {
        let mut terminal = Terminal::start(&mut rvisor(["attach", &machine.0]));
        terminal.expect("Ctrl-A d detaches", LIMIT);
        terminal
    };
    let (mut first, mut second) = (attach(), attach());
    first.send("echo $((6 * 7))nd\r");
    second.expect("42nd", LIMIT);
    second.send("echo second-attached\r");
    first.expect("second-attached\r\n", LIMIT);
    for mut terminal in [first, second] {
        terminal.send("\x01d");
        assert_eq!(terminal.end(LIMIT).code(), Some(0));
    }
    assert_eq!(machine.field("state"), "running");
}

fn ports_are_forwarded_while_it_runs(machine: &Machine) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let forward = format!("{port}:77");
    let change = |what: &str| finish(&mut rvisor(["port", what, &machine.0, &forward]), b"", LIMIT);
    let told = format!("127.0.0.1:{port}:77/tcp");
    assert_eq!(machine.field("ports"), serde_json::json!([]));
    change("add").assert(0, "");
    assert_eq!(machine.field("ports"), serde_json::json!([told]));
    machine.ask(&["port", "ls"]).assert(0, &format!("{told}\n"));
    let listed = machine.ask(&["port", "ls", "--format", "json"]).text();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&listed).expect("JSON"), serde_json::json!([told]));
    assert!(change("add").stderr.contains("choose another port"));
    let mut listening =
        Terminal::start(&mut rvisor(["exec", &machine.0, "sh", "-c", "echo ready; nc -l -p 77"]));
    listening.expect("ready", LIMIT);
    // Where the guest doesn't listen yet, the connection is closed at once.
    let greet = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"hello\n")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let closed = stream.read(&mut [0]);
        std::io::Result::Ok(matches!(closed, Ok(0)))
    };
    while !greet().unwrap_or(false) {
        thread::sleep(Duration::from_millis(100));
    }
    listening.expect("hello", LIMIT);
    assert_eq!(listening.end(LIMIT).code(), Some(0));
    change("rm").assert(0, "");
    assert_eq!(machine.field("ports"), serde_json::json!([]));
    assert!(change("rm").stderr.contains("isn't forwarded"));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn disks_are_made_checked_and_converted() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = |words: &str| finish(rvisor(words.split(' ')).current_dir(directory.path()), b"", LIMIT);
    disk("disk create a.qcow2 --size 64M").assert(0, "");
    assert!(disk("disk create a.qcow2 --size 64M").stderr.contains("exists already"));
    assert!(disk("disk create b.qcow2").stderr.contains("--size"));
    disk("disk create over --backing a.qcow2 --size 128M").assert(0, "");
    disk("disk check over").assert(0, "over: sound\n");
    disk("disk convert over raw --disk-format raw").assert(0, "");
    assert_eq!(fs::metadata(directory.path().join("raw")).expect("a file").len(), 128 << 20);
    assert!(disk("disk resize raw 1M").stderr.contains("--shrink"));
    disk("disk resize raw 1M --shrink").assert(0, "");
    let told: serde_json::Value =
        serde_json::from_str(&disk("disk info raw over --format json").text()).expect("JSON");
    assert_eq!((&told[0]["format"], &told[0]["size"]), (&"raw".into(), &(1 << 20).into()));
    assert!(told[1]["backing"].as_str().is_some_and(|path| path.ends_with("a.qcow2")), "{told}");
}

fn two_that_start_it_are_both_content(machine: &Machine) {
    let start = || {
        let mut command = rvisor(["start", &machine.0]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let ended = [start(), start()].map(|child| child.wait_with_output().expect("it ends"));
    let name = format!("{}\n", machine.0);
    let is_content = |ended: &Output| ended.status.success() && ended.stdout == name.as_bytes();
    assert!(ended.iter().all(is_content), "{ended:?}");
    assert_eq!(machine.field("state"), "running");
}

fn killed_processes_leave_a_machine_that_starts_again(machine: &Machine) {
    machine.tell(&["kill"]);
    machine.ask(&["wait"]).assert(0, "137\n");
    machine.tell(&["restart"]);
    let waiting = rvisor(["wait", &machine.0]).stdout(Stdio::piped()).spawn().expect("it starts");
    let kill = Command::new("kill").args(["-9", &machine.pid()]).status();
    assert!(kill.expect("kill runs").success());
    assert_eq!(waiting.wait_with_output().expect("it ends").stdout, b"137\n");
    assert_eq!(machine.field("state"), "crashed");
    machine.tell(&["start"]);
    machine.exec(&["true"]).assert(0, "");
}

#[test]
fn command_in_the_background_has_an_exit_code_and_a_log() {
    let script = "echo $GREETING; echo err >&2; cat; sleep 1; exit 7";
    let machine = Machine::run("job", &["-e", "GREETING=hello", "busybox", "--", "sh", "-c", script]);
    let following = machine.ask(&["logs", "--follow"]);
    following.assert(0, "hello\n");
    assert_eq!(following.stderr, "err\n");
    machine.ask(&["wait"]).assert(0, "7\n");
    assert_eq!((machine.field("state"), machine.field("exit_code")), ("exited".into(), 7.into()));
    assert!(machine.ask(&["logs", "--console"]).status.success());
    // It can be run again.
    let ended = machine.ask(&["start", "-ai"]);
    ended.assert(7, "hello\n");
}

#[test]
fn machine_that_is_to_go_is_gone_when_it_has_ended() {
    let words = ["--rm", "busybox", "--", "sh", "-c", "sleep 1000"];
    let machine = Machine::run("gone", &words);
    machine.exec(&["true"]).assert(0, "");
    let started = Instant::now();
    machine.tell(&["stop"]);
    assert!(started.elapsed() < Duration::from_secs(30), "SIGTERM ends the command");
    assert_eq!(machine.field("state"), serde_json::Value::Null);
}

#[test]
fn disk_of_a_stopped_machine_is_there_when_it_starts_again() {
    let machine = Machine::run("kept", &["--disk", "size=64M", "debian"]);
    machine.exec(&["sh", "-c", "echo kept >/root/file; cat /sys/block/vdb/size"]).assert(0, "131072\n");
    machine.exec(&["sh", "-c", "echo on the disk | dd of=/dev/vdb conv=fsync 2>/dev/null"]).assert(0, "");
    // Asked again as long as the guest's system is only starting.
    let script = "until systemctl is-system-running --wait >/dev/null 2>&1; do sleep 0.2; done";
    machine.exec(&["sh", "-c", script]).assert(0, "");
    machine.exec(&["hostname"]).assert(0, &format!("{}\n", machine.0));
    // Nobody looks at the console beside the serial line; the kernel waits for each line that it prints there.
    machine.exec(&["sh", "-c", "head -c 2M /dev/zero >/dev/hvc0; echo printed"]).assert(0, "printed\n");
    machine.tell(&["stop", "-t", "300"]);
    assert_eq!((machine.field("state"), machine.field("exit_code")), ("exited".into(), 0.into()));
    assert!(machine.field("disk").as_u64() > Some(0));
    machine.tell(&["start"]);
    machine.exec(&["sh", "-c", "cat /root/file; head -c 12 /dev/vdb"]).assert(0, "kept\non the disk\n");
}

/// With these options, too.
fn command_has_a_terminal(options: &[&str]) {
    let command = ["-it", "-w", "/root/made", "busybox", "--", "sh", "-c", "pwd; tty; exec sh"];
    let words = [&["run", "--rm"], options, &command[..]].concat();
    let mut terminal = Terminal::start(&mut rvisor(words));
    terminal.expect("/root/made\r\n/dev/pts/", LIMIT);
    terminal.expect("# ", LIMIT);
    terminal.resize(31, 97);
    // What is typed is echoed before it runs: only what it prints tells that it does.
    terminal.send("sh -c 'echo be\"\"gun; sleep 1000'\r");
    terminal.expect("begun", LIMIT);
    terminal.send("\x03");
    terminal.expect("# ", LIMIT);
    terminal.send("stty size; exit 6\r");
    terminal.expect("31 97", LIMIT);
    assert_eq!(terminal.end(LIMIT).code(), Some(6));
}

#[test]
fn command_of_a_machine_has_a_terminal() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
    command_has_a_terminal(&["--cold"]);
    command_has_a_terminal(&[]);
    let piped = finish(&mut rvisor(["run", "-t", "busybox", "--", "true"]), b"", LIMIT);
    assert_eq!(piped.status.code(), Some(FAILURE));
    assert!(piped.stderr.contains("leave --tty out"), "{}", piped.stderr);
}

/// What stands in a column of a table, in the line of a name.
#[track_caller]
fn cell(table: &str, column: &str, name: &str) -> String {
    let mut lines = table.lines();
    let header = lines.next().expect("a header");
    let from = header.find(column).unwrap_or_else(|| panic!("no {column}: {table}"));
    let line = lines.find(|line| line.split(' ').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name}: {table}"));
    // Cells are separated by three spaces, and may have one.
    line.get(from..).and_then(|rest| rest.split("   ").next()).unwrap_or_default().to_owned()
}

fn run(words: &[&str]) -> common::Ended {
    finish(&mut rvisor(words.iter().copied()), b"", LIMIT)
}

/// Starts a command that goes on for ever, gives its lines to `take` until that has enough, and ends it.
fn stream(words: &[&str], mut take: impl FnMut(&str) -> bool) {
    let mut child = rvisor(words.iter().copied()).stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let has_enough = lines.map_while(Result::ok).any(|line| take(&line));
    let _ = child.kill();
    let _ = child.wait();
    assert!(has_enough, "{words:?} ended too early");
}

#[test]
fn options_of_commands_do_what_they_say() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let machine = Machine::run("options", &["-p", &format!("{port}:80"), "busybox"]);
    let name = machine.0.as_str();
    let missing = format!("{name}-missing");
    let forwarded = format!("127.0.0.1:{port}:80/tcp");

    what_was_said_last_is_told(&machine);
    who_only_listens_does_not_type(&machine);
    machine_is_copied_with_its_owners(&machine);
    listings_have_their_columns(&machine, &forwarded);
    streams_go_on(&machine);

    for (words, told) in [
        (&["inspect", "-f", "state.status", name][..], "running\n"),
        (&["inspect", "--format", "/config/publish/0", name], &format!("{port}:80\n")),
        (&["inspect", "--format", "config.command", name], "[]\n"),
    ] {
        run(words).assert(0, told);
    }
    machine.refuse(&["inspect", "-f", "state.colour"], "has no field state.colour; `rvisor inspect");
    let one_of_two = run(&["inspect", &missing, name]);
    assert_eq!((one_of_two.status.code(), one_of_two.stderr.lines().count()), (Some(FAILURE), 1));
    let told: serde_json::Value = serde_json::from_str(&one_of_two.text()).expect("JSON");
    assert_eq!((told.as_array().map(Vec::len), &told[0]["name"]), (Some(1), &name.into()));

    // A stopped machine forwards nothing, whatever it was made with.
    machine.tell(&["kill", "-s", "SIGTERM"]);
    machine.ask(&["wait"]).assert(0, "0\n");
    assert_eq!(machine.field("ports"), serde_json::json!([]));
    assert_eq!(cell(&run(&["ps", "--all"]).text(), "PORTS", name), "");
    machine.refuse(&["kill", "-s", "TERM"], "isn't running");
    let without = ["run", "--rm", "--network", "none", "busybox", "--", "ls", "/sys/class/net"];
    run(&without).assert(0, "lo\n");
}

fn what_was_said_last_is_told(machine: &Machine) {
    let say = "printf 'one\\ntwo\\nthree\\n' >/dev/ttyS0";
    machine.exec(&["sh", "-c", say]).assert(0, "");
    let started = Instant::now();
    // The console's shell may say something at any time: its prompt, if that wasn't there at the ready point.
    let (whole, tails) = loop {
        let logs = |options: &[&str]| machine.ask(&[&["logs"], options].concat()).text();
        let whole = logs(&[]);
        let tails = [(2, logs(&["-n", "2"])), (1, logs(&["--tail", "1"]))];
        if whole.contains("one\r\ntwo\r\nthree\r\n") && logs(&[]) == whole {
            break (whole, tails);
        }
        assert!(started.elapsed() < LIMIT, "the console says {whole:?}");
        thread::sleep(Duration::from_millis(20));
    };
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    for (count, tail) in tails {
        assert_eq!(tail, lines[lines.len() - count..].concat(), "{count} of {whole:?}");
    }
}

fn who_only_listens_does_not_type(machine: &Machine) {
    let mut terminal = Terminal::start(&mut rvisor(["attach", "--no-stdin", &machine.0]));
    terminal.send("echo ty\"\"ped\n");
    for number in 0..3 {
        // The first may be said before anybody listens.
        machine.exec(&["sh", "-c", &format!("sleep 0.3; echo heard-{number} >/dev/ttyS0")]).assert(0, "");
    }
    terminal.expect("heard-2", LIMIT);
    assert!(!terminal.transcript().contains("typed"), "{}", terminal.transcript());
    terminal.signal("TERM");
    assert_eq!(terminal.end(LIMIT).code(), None);
    assert_eq!(machine.field("state"), "running");
}

fn machine_is_copied_with_its_owners(machine: &Machine) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("owned");
    fs::write(&path, "content\n").expect("a file");
    // Only an administrator can; others' files don't belong to root anyway.
    let _ = chown(&path, Some(1234), Some(5678));
    let owner =
        fs::metadata(&path).map(|owned| format!("{}:{}\n", owned.uid(), owned.gid())).expect("a file");
    assert_ne!(owner, "0:0\n");
    let (from, to) = (path.to_str().expect("text"), format!("{}:/root/owned", machine.0));
    for (option, owner) in [(&["-a"][..], &*owner), (&["--archive"], &owner), (&[], "0:0\n")] {
        let words = [&["cp"], option, &[from, &to]].concat();
        run(&words).assert(0, "");
        machine.exec(&["stat", "-c", "%u:%g", "/root/owned"]).assert(0, owner);
    }

    // The whole machine, over standard output and input: as itself, and as another that isn't started.
    let exported = machine.ask(&["export"]);
    assert_eq!(exported.status.code(), Some(0), "{}", exported.stderr);
    let import = |stem: &str, options: &[&str]| {
        let made = Machine::named(stem);
        let words = [&["import"], options, &["-", &made.0]].concat();
        finish(&mut rvisor(words), &exported.stdout, LIMIT).assert(0, &format!("{}\n", made.0));
        made
    };
    let moved = import("moved-options", &[]);
    moved.exec(&["hostname"]).assert(0, &format!("{}\n", machine.0));
    let copy = import("copy-options", &["--copy", "--no-start"]);
    assert_eq!(copy.field("state"), "created");
    copy.tell(&["start"]);
    copy.exec(&["cat", "/root/owned"]).assert(0, "content\n");
    copy.exec(&["hostname"]).assert(0, &format!("{}\n", copy.0));

    // All of several are removed, and waited for, even if one isn't there.
    let missing = format!("{}-missing", copy.0);
    let removed = run(&["rm", "-f", &moved.0, &missing, &copy.0]);
    removed.assert(0, &format!("{}\n{}\n", moved.0, copy.0));
    assert_eq!(removed.stderr.lines().count(), 1, "{}", removed.stderr);
    let ends =
        |code| Machine::run(&format!("ends-{code}"), &["busybox", "--", "sh", "-c", &format!("exit {code}")]);
    let (first, second) = (ends(3), ends(4));
    run(&["wait", &second.0, &first.0]).assert(0, "4\n3\n");
    let waited = run(&["wait", &first.0, &missing, &second.0]);
    waited.assert(FAILURE, "3\n4\n");
    assert!(waited.stderr.contains(&missing) && waited.stderr.lines().count() == 1, "{}", waited.stderr);
    // A name that is wrong is told of while the others still run.
    let mut waiting =
        rvisor(["wait", &machine.0, &missing]).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let told = BufReader::new(waiting.stderr.take().expect("a pipe")).read_line(&mut line);
    assert!(told.is_ok() && line.contains(&missing), "{line}");
    assert!(waiting.try_wait().expect("a child").is_none(), "it waits for the other");
    let _ = waiting.kill();
    let _ = waiting.wait();
}

fn listings_have_their_columns(machine: &Machine, forwarded: &str) {
    let listed = run(&["ps"]).text();
    for (column, told) in [("IMAGE", "busybox"), ("COMMAND", "(console)"), ("PORTS", forwarded)] {
        assert_eq!(cell(&listed, column, &machine.0), told, "{listed}");
    }
    assert!(cell(&listed, "STATUS", &machine.0).starts_with("running, started "), "{listed}");
    assert!(run(&["ps", "--quiet"]).text().lines().any(|line| line == machine.0));

    let network = format!("{}-net", machine.0);
    run(&["network", "create", "--subnet", "10.213.7.0/24", &network]).assert(0, &format!("{network}\n"));
    let listed = run(&["network", "ls"]).text();
    run(&["network", "rm", &network]).assert(0, &format!("{network}\n"));
    assert_eq!(cell(&listed, "SUBNET", &network), "10.213.7.0/24", "{listed}");
    assert_eq!(cell(&listed, "REACHES", &network), "the world", "{listed}");

    run(&["snapshot", "create", &machine.0, "one"]).assert(0, "one\n");
    let listed = machine.ask(&["snapshot", "ls"]).text();
    assert_eq!(cell(&listed, "MACHINE", "one"), "running", "{listed}");
    assert!(cell(&listed, "CREATED", "one").starts_with("20"), "{listed}");
    let removed = run(&["snapshot", "rm", &machine.0, "none", "one"]);
    removed.assert(FAILURE, "one\n");
    assert_eq!(removed.stderr.lines().count(), 1, "{}", removed.stderr);
}

fn streams_go_on(machine: &Machine) {
    let mut samples = 0;
    stream(&["stats", "--format", "json", &machine.0], |line| {
        let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(told[0]["name"], machine.0.as_str());
        samples += 1;
        samples == 2
    });
    let mut seen = Vec::new();
    stream(&["events", "--since", "1h", "--format", "json"], |line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        if event["machine"] != machine.0.as_str() {
            return false;
        }
        if seen.is_empty() {
            // It happens while somebody listens.
            machine.tell(&["pause"]);
            machine.tell(&["resume"]);
        }
        seen.push(event["action"].as_str().expect("text").to_owned());
        seen.last().is_some_and(|action| action == "unpause")
    });
    assert_eq!(seen.first().map(String::as_str), Some("create"));
    // One that has an end ends by itself.
    let ended = run(&["events", "--since", "1h", "--until", "0"]);
    assert!(ended.status.success() && ended.text().contains(&machine.0), "{}", ended.text());
}

#[test]
fn disk_that_fails_is_an_event_and_works_again() {
    let machine = Machine::run("failing", &["--memory", "128M", "--disk", "size=64M", "busybox"]);
    let process = Pid::from_raw(machine.pid().parse().expect("a number"));
    let limit = |bytes| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(process, Resource::Fsize, Rlimit { current: bytes, maximum })
            .expect("a process of the user's");
    };
    let write = || {
        let words = ["dd", "if=/dev/urandom", "of=/dev/vda", "bs=1M", "count=16", "conv=fsync"];
        machine.exec(&words).status.code()
    };
    // As if the host had no more room than this for any file.
    limit(Some(4 << 20));
    assert_eq!([write(), write()], [Some(1); 2]);
    limit(getrlimit(Resource::Fsize).maximum);
    assert_eq!(write(), Some(0));
    let words = ["events", "--since", "1h", "--no-stream", "--format", "json"];
    let told = finish(&mut rvisor(words), b"", LIMIT).text();
    let events = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let own: Vec<_> =
        events.filter(|it| it["machine"] == machine.0.as_str() && it["action"] == "disk-error").collect();
    let disk = format!("machines/{}/disk-1.qcow2: File too large (os error 27)", machine.0);
    assert!(own.len() == 1 && own[0]["detail"].as_str().is_some_and(|it| it.ends_with(&disk)), "{told}");
}
