//! Machines in the background, and every command that uses them. One machine serves many checks: a boot takes seconds.
//!
//! The images come from the user's store (`RVISOR_HOME`, else the default); they are pulled if they aren't there.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{FAILURE, LIMIT, Machine, Terminal, finish, rvisor};

#[test]
fn machine_in_the_background_is_used_and_ended() {
    let mut machine = Machine::run("background", &["busybox"]);
    assert_eq!(machine.field("state"), "running");
    let taken = finish(&mut rvisor(["run", "-d", "--name", &machine.0, "busybox"]), b"", LIMIT);
    assert!(taken.stderr.contains("called") && taken.status.code() == Some(FAILURE), "{}", taken.stderr);
    machine.refuse(&["rm"], "is running; stop it first");
    machine.refuse(&["start"], "is running already");

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
    assert!(stamped.lines().all(|line| line.starts_with("20")), "{stamped}");

    machine.tell(&["stop"]);
    assert_eq!((machine.field("state"), machine.field("exit_code")), ("exited".into(), 0.into()));
    machine.refuse(&["pause"], "isn't running; start it with");
    machine.ask(&["wait"]).assert(0, "0\n");
    only_one_of_two_starts(&machine);
    killed_processes_leave_a_machine_that_starts_again(&machine);
    machine.tell(&["rm", "--force"]);
    assert_eq!(machine.field("state"), serde_json::Value::Null);
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
        finish(&mut rvisor(["events", "--since", "3600", "--no-stream", "--format", "json"]), b"", LIMIT);
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
    change("add").assert(0, "");
    finish(&mut rvisor(["port", "ls", &machine.0]), b"", LIMIT)
        .assert(0, &format!("127.0.0.1:{port}:77/tcp\n"));
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

fn only_one_of_two_starts(machine: &Machine) {
    let start = || {
        let mut command = rvisor(["start", &machine.0]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let ended = [start(), start()].map(|child| child.wait_with_output().expect("it ends"));
    let started = ended.iter().filter(|ended| ended.status.success()).count();
    assert_eq!(started, 1, "{ended:?}");
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
    let ended = machine.ask(&["start", "--attach"]);
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

#[test]
fn command_of_a_machine_has_a_terminal() {
    finish(&mut rvisor(["pull", "busybox"]), b"", 9 * LIMIT).assert(0, "busybox\n");
    let mut terminal = Terminal::start(&mut rvisor([
        "run",
        "--rm",
        "-it",
        "-w",
        "/root/made",
        "busybox",
        "--",
        "sh",
        "-c",
        "pwd; tty; exec sh",
    ]));
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
    let piped = finish(&mut rvisor(["run", "-t", "busybox", "--", "true"]), b"", LIMIT);
    assert_eq!(piped.status.code(), Some(FAILURE));
    assert!(piped.stderr.contains("leave --tty out"), "{}", piped.stderr);
}
