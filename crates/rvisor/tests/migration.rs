//! Machines that go on elsewhere: here in another store, which stands for another host.
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default); it is pulled if it isn't there.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ended, FAILURE, LIMIT, Machine, finish, rvisor, wait};

/// A store: the user's, or one of the test's own.
#[derive(Clone)]
struct Home(Option<PathBuf>);

impl Home {
    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = rvisor(words.iter().copied());
        if let Some(path) = &self.0 {
            command.env("RVISOR_HOME", path);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        finish(&mut self.command(words), b"", LIMIT)
    }

    /// The same; it fails, in one line that tells this.
    #[track_caller]
    fn refuse(&self, words: &[&str], told: &str) {
        let ended = self.run(words);
        assert_eq!(
            (ended.status.code(), ended.stderr.lines().count()),
            (Some(FAILURE), 1),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }

    fn key(&self) -> String {
        self.run(&["migrate", "--show-key"]).text().trim().to_owned()
    }

    /// State of a machine; none if there is no machine of that name.
    fn state(&self, name: &str) -> Option<String> {
        let listed: Vec<serde_json::Value> =
            serde_json::from_str(&self.run(&["ps", "--all", "--format", "json"]).text()).expect("a list");
        let own = listed.iter().find(|machine| machine["name"] == name)?;
        Some(own["state"].as_str().expect("text").to_owned())
    }

    /// Lines that a guest has written so far.
    #[track_caller]
    fn count(&self, name: &str) -> u64 {
        let ended = self.run(&["exec", name, "wc", "-l", "/count"]);
        let text = ended.text();
        text.split(' ')
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{}", ended.stderr))
    }

    /// Checks that nothing is left of a machine that didn't come here.
    #[track_caller]
    fn has_nothing(&self, name: &str) {
        assert_eq!(self.state(name), None);
        let Some(store) = &self.0 else { return };
        let left: Vec<_> = fs::read_dir(store.join("machines"))
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Ends a machine in a store of the test's own, and the processes that are left there.
struct Cleaner(Home, String);

impl Drop for Cleaner {
    fn drop(&mut self) {
        let _ =
            self.0.command(&["rm", "--force", &self.1]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// `rvisor receive`, at work.
struct Receiver {
    child: Child,
    address: String,
    output: BufReader<std::process::ChildStdout>,
}

impl Receiver {
    #[track_caller]
    fn start(home: &Home, words: &[&str]) -> Self {
        let mut command = home.command(&[&["receive"], words].concat());
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("rvisor starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let address =
            line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, address, output }
    }

    /// How it ended: exit code, the last line that it has printed, and its errors.
    fn end(mut self) -> (Option<i32>, String, String) {
        let status = wait(&mut self.child, LIMIT).expect("it ends");
        let (mut text, mut errors) = (String::new(), String::new());
        let _ = self.output.read_to_string(&mut text);
        let _ = self.child.stderr.take().expect("a pipe").read_to_string(&mut errors);
        (status.code(), text.lines().last().unwrap_or_default().to_owned(), errors)
    }
}

/// What runs in the guest: a server with a page for each client, a count that goes on, and memory and a disk that change,
/// with sums that tell whether they are what they should be.
const WORK: &str = "mkdir -p /www /mem; mount -t tmpfs none /mem; mkdir /mem/f
for n in 0 1 2 3; do yes page $n | head -n 4000 >/www/$n; done
httpd -p 80 -h /www
(while :; do echo >>/count; sleep 0.05; done) &
(n=0; while :; do n=$((n % 5 + 1)); f=/mem/f/$n
head -c 700000 /dev/urandom >$f.new; md5sum <$f.new >$f.sum.new; mv $f.new $f; mv $f.sum.new $f.sum
done) & echo $! >/writer";
/// Checks what that has written; none of it is written meanwhile.
const CHECK: &str = "cd /mem/f; kill -STOP $(cat /writer) || exit; sleep 0.2; good=0
for f in 1 2 3 4 5; do [ -e $f.new ] || [ -e $f.sum.new ] || [ \"$(md5sum <$f)\" = \"$(cat $f.sum)\" ] && good=$((good+1)); done
kill -CONT $(cat /writer); echo good $good";

fn work(machine: &Machine) {
    let script = format!("({WORK}) >/dev/null 2>&1 </dev/null");
    machine.exec(&["sh", "-c", &script]).assert(0, "");
}

/// Clients that ask for pages at the same time, each for a page of its own.
const CLIENTS: usize = 4;
/// How long a page may have to be asked for again while its server changes places, on a busy host. A client that isn't
/// answered gives a connection up after a second.
const OUTAGE: Duration = Duration::from_secs(15);
/// How long the guest may stand still for that.
const DOWNTIME: Duration = Duration::from_secs(3);

/// Asks for a page once: whether it came. What breaks off has to be a part of the right answer.
fn get(port: u16, page: usize) -> std::io::Result<bool> {
    let expected = format!("page {page}\n").repeat(4000);
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET /{page} HTTP/1.0\r\n\r\n")?;
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&*text, ""));
    let status = head.split(' ').nth(1).unwrap_or("200");
    assert!("200".starts_with(status) && expected.starts_with(body), "page {page}: {text}");
    ended.map(|_| body == expected)
}

/// What a client has got.
#[derive(Default)]
struct Got {
    pages: AtomicU64,
    retries: AtomicU64,
    /// Milliseconds that the slowest page took.
    longest: AtomicU64,
}

/// Clients at work, until they are told to end.
struct Clients {
    stop: Arc<AtomicBool>,
    got: Vec<Arc<Got>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let got: Vec<Arc<Got>> = (0..CLIENTS).map(|_| Arc::default()).collect();
        let client = |(page, got): (usize, &Arc<Got>)| {
            let (stop, got) = (Arc::clone(&stop), Arc::clone(got));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let asked = Instant::now();
                    while !get(port, page).unwrap_or(false) {
                        assert!(asked.elapsed() < OUTAGE, "page {page} doesn't come");
                        got.retries.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(20));
                    }
                    got.longest.fetch_max(asked.elapsed().as_millis() as u64, Ordering::SeqCst);
                    got.pages.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let threads = got.iter().enumerate().map(client).collect();
        Self { stop, got, threads }
    }

    fn pages(&self) -> Vec<u64> {
        self.got.iter().map(|got| got.pages.load(Ordering::SeqCst)).collect()
    }

    /// Waits until each has got some more pages.
    #[track_caller]
    fn get_more(&self) {
        let (before, deadline) = (self.pages(), Instant::now() + 2 * OUTAGE);
        while self.pages().iter().zip(&before).any(|(now, before)| *now < before + 10) {
            assert!(Instant::now() < deadline, "{before:?} pages, and {:?} later", self.pages());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends them. None has waited for a page for longer than it may, and what they have asked for again is what was on its
    /// way while the machine changed places, `moves` times.
    #[track_caller]
    fn end(self, moves: u64) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("each page comes, and is what it should be");
        }
        let all = |of: fn(&Got) -> &AtomicU64| -> Vec<u64> {
            self.got.iter().map(|got| of(got).load(Ordering::SeqCst)).collect()
        };
        let (pages, retries, longest) =
            (all(|got| &got.pages), all(|got| &got.retries), all(|got| &got.longest));
        println!("pages {pages:?}, retries {retries:?}, the slowest {longest:?} ms");
        // Twenty milliseconds apart at least.
        let most = moves * OUTAGE.as_millis() as u64 / 20;
        assert!(retries.iter().all(|retries| *retries <= most), "{retries:?}");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

#[test]
fn machine_that_serves_goes_on_elsewhere() {
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let machine = Machine::run("moving", &["--memory", "128M", "-p", &publish, "busybox"]);
    let directory = tempfile::tempdir().expect("a directory");
    let (here, there) = (Home(None), Home(Some(directory.path().into())));
    let _cleaner = Cleaner(there.clone(), machine.0.clone());
    work(&machine);
    // Nobody is trusted who isn't known.
    let receiver = Receiver::start(&there, &["--listen", "127.0.0.1:0", "--peer-key", &here.key()]);
    here.refuse(&["migrate", &machine.0, &receiver.address], "isn't known: sha256:");
    let wrong = here.key();
    here.refuse(&["migrate", "--peer-key", &wrong, &machine.0, &receiver.address], "it is somebody else");

    // What is left to itself, and what somebody waits for.
    let words = ["exec", "-d", &machine.0, "sh", "-c", "while :; do echo >>/left; sleep 0.05; done"];
    here.run(&words).assert(0, "");
    let clients = Clients::start(port);
    clients.get_more();
    let key = there.key();
    let words = ["migrate", "--format", "json", "--peer-key", &key, &machine.0, &receiver.address];
    let before = here.count(&machine.0);
    let ended = here.run(&words);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.text()).expect("a report");
    println!("{report}");
    assert!(report["rounds"].as_array().is_some_and(|rounds| rounds.len() > 1), "{report}");
    let number = |name: &str| report[name].as_f64().expect("a number");
    assert_downtime(&report);
    assert!(number("image") > 0.0, "the other store had nothing of the image: {report}");
    let (code, last, errors) = receiver.end();
    assert_eq!((code, last.as_str()), (Some(0), machine.0.as_str()), "{errors}");
    clients.get_more();

    assert_eq!(
        (here.state(&machine.0), there.state(&machine.0)),
        (Some("exited".into()), Some("running".into()))
    );
    assert!(there.count(&machine.0) > before);
    there.run(&["exec", &machine.0, "sh", "-c", CHECK]).assert(0, "good 5\n");
    let lines = || there.run(&["exec", &machine.0, "wc", "-l", "/left"]).text();
    let left = lines();
    thread::sleep(Duration::from_millis(200));
    assert_ne!(lines(), left, "what is left to itself goes on");
    there.run(&["exec", &machine.0, "hostname"]).assert(0, &format!("{}\n", machine.0));
    here.refuse(&["start", &machine.0], "was handed over to");
    machine.tell(&["rm"]);
    // And back, over a Unix socket, under another name.
    let socket = format!("unix:{}", directory.path().join("socket").display());
    let back = Machine::named("back");
    let receiver = Receiver::start(&here, &["--listen", &socket, "--name", &back.0]);
    let ended = there.run(&["migrate", "--format", "json", &machine.0, &socket]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_downtime(&serde_json::from_str(&ended.text()).expect("a report"));
    assert_eq!(receiver.end().1, back.0);
    clients.get_more();
    clients.end(2);
    back.exec(&["sh", "-c", CHECK]).assert(0, "good 5\n");
}

/// Checks that the guest stood still for a moment only, and not for all of its move.
#[track_caller]
fn assert_downtime(report: &serde_json::Value) {
    let number = |name: &str| report[name].as_f64().expect("a number");
    let (downtime, total) = (number("downtime_ms"), number("total_ms"));
    println!("{downtime} of {total} ms");
    assert!(downtime > 0.0 && downtime < total && downtime < DOWNTIME.as_millis() as f64, "{report}");
}

#[test]
fn what_cannot_be_moved_stays_and_nothing_of_it_is_elsewhere() {
    let machine = Machine::run("staying", &["--memory", "128M", "busybox"]);
    let directory = tempfile::tempdir().expect("a directory");
    let (here, there) = (Home(None), Home(Some(directory.path().into())));
    let _cleaner = Cleaner(there.clone(), machine.0.clone());
    work(&machine);
    let path = directory.path().join("socket");
    let socket = format!("unix:{}", path.display());
    here.refuse(&["migrate", &machine.0, &socket], "is `rvisor receive` running there?");
    here.refuse(&["migrate", &machine.0, "nowhere"], "write HOST:PORT or unix:PATH");
    here.refuse(&["migrate", "no-such-machine", &socket], "no machine is called");

    // Whoever says nonsense is sent away, and the next is served.
    let receiver = Receiver::start(&there, &["--listen", &socket, "--max-memory", "64M"]);
    for nonsense in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\x01\x02\0\0\0{}", b"\x03\xff\xff\xff\xff"] {
        let mut stranger = UnixStream::connect(&path).expect("it listens");
        stranger.write_all(nonsense).expect("it takes it");
        let _ = stranger.shutdown(Shutdown::Write);
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    here.refuse(&["migrate", &machine.0, &socket], "128 MiB of memory, and may have 64");
    let (code, _, errors) = receiver.end();
    assert_eq!(code, Some(FAILURE), "{errors}");
    assert!(errors.lines().last().is_some_and(|line| line.contains("wasn't taken over")), "{errors}");
    assert_eq!(errors.lines().count(), 4, "{errors}");
    there.has_nothing(&machine.0);

    // A target, or a command, that is killed.
    for victim in 0..2 {
        let mut receiver = Receiver::start(&there, &["--listen", &socket]);
        let mut migrate = here.command(&["migrate", "--max-downtime", "0", &machine.0, &socket]);
        let mut migrate = migrate.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rvisor starts");
        thread::sleep(Duration::from_millis(60));
        let _ = if victim == 0 { receiver.child.kill() } else { migrate.kill() };
        let _ = wait(&mut migrate, LIMIT);
        let _ = receiver.child.kill();
        let _ = receiver.child.wait();
        let _ = fs::remove_file(&path);
        let before = here.count(&machine.0);
        thread::sleep(Duration::from_millis(200));
        assert!(here.count(&machine.0) > before, "it goes on");
        there.has_nothing(&machine.0);
    }
    machine.tell(&["pause"]);
    machine.refuse_to_move(&socket, "is paused");
    machine.tell(&["resume"]);
    machine.tell(&["stop"]);
    machine.refuse_to_move(&socket, "isn't running");
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).expect("a directory");
    let volume = format!("{}:/shared", shared.display());
    let machine = Machine::run("sharing", &["--memory", "128M", "-v", &volume, "busybox"]);
    machine.refuse_to_move(&socket, "has shared directories");
}

impl Machine {
    #[track_caller]
    fn refuse_to_move(&self, target: &str, told: &str) {
        Home(None).refuse(&["migrate", &self.0, target], told);
    }
}

/// Passes connections on to a target, and cuts the first after so many bytes in both directions.
struct Proxy {
    address: String,
    passed: Arc<AtomicU64>,
}

impl Proxy {
    fn start(target: String, limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let passed = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&passed);
        thread::spawn(move || {
            for (number, source) in listener.incoming().enumerate() {
                let Ok(source) = source else { return };
                let Ok(sink) = TcpStream::connect(&target) else { continue };
                let limit = if number == 0 { limit } else { u64::MAX };
                for (from, to) in [(&source, &sink), (&sink, &source)] {
                    let (mut from, mut to) =
                        (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let counted = Arc::clone(&counted);
                    thread::spawn(move || {
                        let mut buffer = vec![0; 1 << 14];
                        while let Ok(length @ 1..) = from.read(&mut buffer) {
                            let before = counted.fetch_add(length as u64, Ordering::SeqCst);
                            let rest = limit.saturating_sub(before).min(length as u64) as usize;
                            if to.write_all(&buffer[..rest]).is_err() || rest < length {
                                break;
                            }
                        }
                        let _ = from.shutdown(Shutdown::Both);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { address, passed }
    }
}

/// Wherever the connection breaks, the machine runs in one place and nothing is left in the other.
#[test]
fn connections_that_break_leave_one_machine() {
    const CUTS: u64 = 14;
    let seed = std::env::var("RVISOR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed =
        seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64));
    println!("RVISOR_SEED={seed}");
    let mut random = seed;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let machine = Machine::run("cut", &["--memory", "128M", "busybox"]);
    let name = machine.0.clone();
    work(&machine);
    let directory = tempfile::tempdir().expect("a directory");
    let homes = [Home(None), Home(Some(directory.path().into()))];
    let _cleaner = Cleaner(homes[1].clone(), name.clone());
    let keys = [homes[0].key(), homes[1].key()];
    let (mut at, mut size, mut moved) = (0, u64::MAX, 0);
    for cut in 0..=CUTS {
        let (source, target) = (&homes[at], &homes[1 - at]);
        let receiver = Receiver::start(target, &["--listen", "127.0.0.1:0", "--peer-key", &keys[at]]);
        // The first is whole; of the others some break at the end, where the machine changes hands.
        let limit = match cut {
            0 => u64::MAX,
            _ if cut % 2 == 0 => size - below(1500),
            _ => below(size),
        };
        let proxy = Proxy::start(receiver.address.clone(), limit);
        let key = &keys[1 - at];
        let ended = source.run(&["migrate", "--peer-key", key, &name, &proxy.address]);
        let (code, _, errors) = receiver.end();
        let is_moved = ended.status.code() == Some(0);
        println!("cut {cut} at {limit}: moved {is_moved} {} {errors}", ended.stderr.trim());
        assert_eq!(code, Some(if is_moved { 0 } else { FAILURE }), "{errors}");
        if cut == 0 {
            assert!(is_moved, "{}", ended.stderr);
        }
        if is_moved {
            // What is sent depends on what the guest does: the next is about as large.
            size = proxy.passed.load(Ordering::SeqCst);
            assert_eq!(source.state(&name).as_deref(), Some("exited"));
            source.run(&["rm", &name]).assert(0, &format!("{name}\n"));
            (at, moved) = (1 - at, moved + 1);
        } else {
            assert!(ended.stderr.contains("goes on here"), "{}", ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            target.has_nothing(&name);
        }
        let home = &homes[at];
        assert_eq!(home.state(&name).as_deref(), Some("running"));
        let before = home.count(&name);
        thread::sleep(Duration::from_millis(120));
        assert!(home.count(&name) > before, "it goes on");
    }
    homes[at].run(&["exec", &name, "sh", "-c", CHECK]).assert(0, "good 5\n");
    println!("moved {moved} of {CUTS} times");
}
