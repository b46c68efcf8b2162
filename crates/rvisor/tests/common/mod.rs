//! Runs the program as a user would, and never waits for it for ever.
#![allow(dead_code)] // Each test binary uses its part.

pub mod book;
pub mod guests;
pub mod images;
pub mod monitor;
pub mod package;
pub mod turn;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// `rvisor ARGUMENTS…`
pub fn rvisor<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rvisor"));
    command.args(arguments).env_remove("RVISOR_LOG");
    command
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks exit code and standard output.
    #[track_caller]
    pub fn assert(&self, code: i32, stdout: &str) {
        assert_eq!((self.status.code(), &*self.text()), (Some(code), stdout), "{}", self.stderr);
    }
}

/// Runs a command to its end with these bytes on its standard input.
#[track_caller]
pub fn finish(command: &mut Command, input: &[u8], limit: Duration) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rvisor starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    // The program needn't take it all.
    thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = collect(child.stdout.take().expect("a pipe"));
    let stderr = collect(child.stderr.take().expect("a pipe"));
    let status = wait(&mut child, limit);
    let stdout = stdout.join().expect("a reader");
    let stderr = String::from_utf8_lossy(&stderr.join().expect("a reader")).into_owned();
    let Some(status) = status else {
        let stdout = String::from_utf8_lossy(&stdout);
        panic!("{command:?} didn't end within {limit:?}\n{stdout}\n{stderr}");
    };
    Ended { status, stdout, stderr }
}

/// Waits for a process; ends it after `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// A process on a terminal, as a user sits at it.
pub struct Terminal {
    child: Child,
    keyboard: File,
    settings: Termios,
    line: File,
    screen: Receiver<Vec<u8>>,
    /// What the process has written since the last text that was expected.
    unread: String,
    /// All that it has written.
    transcript: String,
    /// What it must never write.
    refused: Option<&'static str>,
}

impl Terminal {
    /// Starts a command with all three standard streams on a new terminal.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard = File::from(openpt(flags).expect("a terminal"));
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("a terminal");
        let name = ptsname(&keyboard, Vec::new()).expect("its name").into_string().expect("text");
        let line = File::options().read(true).write(true).open(name).expect("its other end");
        let stream = || Stdio::from(line.try_clone().expect("a descriptor"));
        let settings = tcgetattr(&line).expect("its settings");
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().expect("rvisor starts");
        let (sender, screen) = channel();
        let mut output = keyboard.try_clone().expect("a descriptor");
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let (unread, transcript) = (String::new(), String::new());
        Self { child, keyboard, settings, line, screen, unread, transcript, refused: None }
    }

    /// From now on nothing is waited for any more once the process has written `text`.
    pub fn refuse(&mut self, text: &'static str) {
        self.refused = Some(text);
    }

    /// Waits until the process has written `text`, and forgets what came up to its end.
    #[track_caller]
    pub fn expect(&mut self, text: &str, limit: Duration) {
        self.expect_all(&[text], limit);
    }

    /// Waits until the process has written all these texts, in any order, and forgets what came up to their end.
    #[track_caller]
    pub fn expect_all(&mut self, texts: &[&str], limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(refused) = self.refused.filter(|text| self.transcript.contains(text)) {
                panic!("{refused:?} came; this did:\n{}", self.transcript);
            }
            let ends = texts.iter().map(|text| self.unread.find(text).map(|start| start + text.len()));
            if let Some(ends) = ends.collect::<Option<Vec<_>>>() {
                self.unread.drain(..ends.into_iter().max().unwrap_or(0));
                return;
            }
            let missing = || texts.iter().filter(|text| !self.unread.contains(**text)).collect::<Vec<_>>();
            // Asked first, so that what a process wrote before it ended is read before it is missed.
            let ended = self.child.try_wait().expect("a child");
            match self.screen.recv_timeout(Duration::from_millis(200)) {
                Ok(bytes) => self.read(&bytes),
                Err(_) if ended.is_some() => {
                    panic!("it ended ({ended:?}) before {:?} came; this did:\n{}", missing(), self.transcript)
                }
                Err(_) if Instant::now() >= deadline => {
                    panic!("{:?} didn't come within {limit:?}; this did:\n{}", missing(), self.transcript)
                }
                Err(_) => {}
            }
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        self.unread.push_str(&text);
        self.transcript.push_str(&text);
    }

    /// All that the process has written and somebody has waited for.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    /// What it has written since it last wrote this.
    pub fn since(&self, text: &str) -> &str {
        let start = self.transcript.rfind(text).map_or(0, |start| start + text.len());
        &self.transcript[start..]
    }

    /// Types.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Makes the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.line, size).expect("a terminal");
        // The terminal is nobody's controlling one: the process is told by hand.
        self.signal("WINCH");
    }

    /// Sends the process a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    /// Waits for the process's end; checks that it leaves the terminal as it was.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> ExitStatus {
        let Some(status) = wait(&mut self.child, limit) else {
            self.unread
                .extend(self.screen.try_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
            panic!("it didn't end within {limit:?}\n{}", self.unread);
        };
        let settings = tcgetattr(&self.line).expect("its settings");
        assert_eq!(settings.local_modes, self.settings.local_modes);
        assert_eq!(settings.input_modes, self.settings.input_modes);
        assert_eq!(settings.output_modes, self.settings.output_modes);
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For anything that a machine does, on a slow and busy host.
pub const LIMIT: Duration = Duration::from_secs(400);
/// What Rvisor exits with when it couldn't do its part.
pub const FAILURE: i32 = 125;

/// Says that this host can't have a test, which would else pass for one that was made. Where everything is to be tested
/// (`CI=true`) that is a failure.
#[track_caller]
pub fn left_out(why: &str) {
    let text = format!("NOT CHECKED: {why}");
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{text}");
    // Not with a macro, whose output is shown only where a test fails.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A machine that is gone when the test is over, however it ends.
pub struct Machine(pub String);

impl Machine {
    /// A name that no other test uses.
    pub fn named(stem: &str) -> Self {
        Self(format!("{stem}-{}", std::process::id()))
    }

    /// `rvisor run -d --name NAME OPTIONS…`
    pub fn run(stem: &str, options: &[&str]) -> Self {
        let machine = Self::named(stem);
        let image = options.iter().find(|word| ["busybox", "debian"].contains(word)).expect("an image");
        finish(&mut rvisor(["pull", image]), b"", 9 * LIMIT).assert(0, &format!("{image}\n"));
        let words = [&["run", "--detach", "--name", &machine.0], options].concat();
        finish(&mut rvisor(words), b"", LIMIT).assert(0, &format!("{}\n", machine.0));
        machine
    }

    /// `rvisor WORDS… NAME`
    pub fn ask(&self, words: &[&str]) -> Ended {
        finish(&mut rvisor([words, &[&self.0]].concat()), b"", LIMIT)
    }

    /// The same; it succeeds and prints the name.
    #[track_caller]
    pub fn tell(&self, words: &[&str]) {
        self.ask(words).assert(0, &format!("{}\n", self.0));
    }

    /// The same; it is refused, in a line that tells this.
    #[track_caller]
    pub fn refuse(&self, words: &[&str], told: &str) {
        let ended = self.ask(words);
        assert_eq!(ended.status.code(), Some(FAILURE), "{}", ended.stderr);
        assert!(
            ended.stderr.starts_with("rvisor: error: ") && ended.stderr.contains(told),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }

    /// `rvisor exec -i NAME WORDS…`
    pub fn exec_with_input(&self, words: &[&str], input: &[u8]) -> Ended {
        finish(&mut rvisor([&["exec", "-i", &self.0], words].concat()), input, LIMIT)
    }

    pub fn exec(&self, words: &[&str]) -> Ended {
        finish(&mut rvisor([&["exec", &self.0], words].concat()), b"", LIMIT)
    }

    /// A field of `ps --all --format json`.
    pub fn field(&self, name: &str) -> serde_json::Value {
        let ended = finish(&mut rvisor(["ps", "--all", "--format", "json"]), b"", LIMIT);
        let listed: Vec<serde_json::Value> = serde_json::from_str(&ended.text()).expect("a list");
        let own = listed.into_iter().find(|machine| machine["name"] == self.0.as_str());
        own.map_or(serde_json::Value::Null, |machine| machine[name].clone())
    }

    /// Its directory, if it runs.
    pub fn directory(&self) -> PathBuf {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a process");
        let files = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let is_its = |path: &PathBuf| path.ends_with(Path::new("machines").join(&self.0));
        files.into_iter().find(is_its).expect("it has its directory open")
    }

    /// Its process.
    pub fn pid(&self) -> String {
        let told: serde_json::Value = serde_json::from_str(&self.ask(&["inspect"]).text()).expect("JSON");
        told[0]["live"]["pid"].to_string()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = rvisor(["rm", "--force", &self.0]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
