//! `rvisor attach`, `exec`, `cp`, `logs` and `events`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure};
use rvisor_instances::{
    Client, Directory, Drive, Event, Events, ExecRequest, LogReader, Outcome, Source, copy_from_guest,
    copy_to_guest, pack_from_guest, unpack_to_guest,
};

use crate::cli::{self, Attach, Cp, Exec, Format, Logs};
use crate::lifecycle::{exit_code, machines};
use crate::{run, table};

/// How often files that grow are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// `rvisor attach`.
pub fn attach(options: &Attach) -> anyhow::Result<ExitCode> {
    attach_to(&machines()?.open(&options.machine)?, !options.no_stdin)
}

/// Uses a machine's console; its exit code is the command's if it ends meanwhile.
pub fn attach_to(directory: &Directory, input: bool) -> anyhow::Result<ExitCode> {
    let session = Client::new(directory).attach()?;
    let drive = Drive { input, raw: input, escape: true, signals: false };
    finish(directory, drive.run(session)?)
}

/// `rvisor exec`.
pub fn exec(options: &Exec) -> anyhow::Result<ExitCode> {
    if options.tty && options.interactive && !Drive::has_terminal() {
        bail!("standard input isn't a terminal; leave --tty out");
    }
    let directory = machines()?.open(&options.machine)?;
    let command = as_user(options.user.as_deref(), &options.command);
    let request = ExecRequest {
        directory: options.workdir.clone(),
        terminal: options.tty.then(|| Drive::window().unwrap_or((24, 80))),
        patience: options.wait.as_secs_f64(),
        detach: options.detach,
        ..ExecRequest::new(command, run::environment(&options.environment)?)
    };
    let session = Client::new(&directory).exec(request)?;
    if options.detach {
        return finish(&directory, Drive::see_start(session)?);
    }
    let raw = options.tty && options.interactive;
    let drive = Drive { input: options.interactive, raw, escape: false, signals: true };
    finish(&directory, drive.run(session)?)
}

/// The words that run a command as another user of the guest, who is looked up there.
fn as_user(user: Option<&str>, command: &[String]) -> Vec<String> {
    const SCRIPT: &str = r#"
        user=${1%%:*} group=
        case $1 in *:*) group=${1#*:} ;; esac
        shift
        if entry=$(getent passwd "$user"); then
            IFS=: read -r name _ number first _ home _ <<END
$entry
END
            export HOME="$home" USER="$name" LOGNAME="$name"
            [ -n "$group" ] && groups=--clear-groups || groups=--init-groups
            exec setpriv --reuid "$number" --regid "${group:-$first}" $groups -- "$@"
        fi
        case $user in
        '' | *[!0-9]*) echo "there is no user $user in the guest" >&2; exit 126 ;;
        esac
        exec setpriv --reuid "$user" --regid "${group:-$user}" --clear-groups -- "$@""#;
    match user {
        None | Some("root" | "0" | "root:root" | "0:0") => command.to_vec(),
        Some(user) => ["/bin/sh", "-c", SCRIPT, "sh", user]
            .into_iter()
            .map(str::to_owned)
            .chain(command.iter().cloned())
            .collect(),
    }
}

fn finish(directory: &Directory, outcome: Outcome) -> anyhow::Result<ExitCode> {
    match outcome {
        Outcome::Exit(code) => Ok(ExitCode::from(code)),
        Outcome::Detached => Ok(ExitCode::SUCCESS),
        // Codes of commands that can't be run are the user's to test for.
        Outcome::Failed(code @ (126 | 127), reason) => {
            eprintln!("rvisor: error: {reason}");
            Ok(ExitCode::from(code))
        }
        Outcome::Failed(_, reason) => bail!(reason),
        Outcome::Broken => {
            directory.wait()?;
            match exit_code(directory) {
                Some(code) => Ok(ExitCode::from(code)),
                None => bail!("the process of machine {} has ended", directory.name()),
            }
        }
    }
}

/// A path, and the machine that it is in.
fn place(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        // As docker has it: what begins like a path of this host is one, colons or not.
        Some((machine, path)) if !machine.is_empty() && !machine.contains('/') && machine != "." => {
            (Some(machine), path)
        }
        _ => (None, text),
    }
}

/// `rvisor cp`.
pub fn copy(options: &Cp) -> anyhow::Result<ExitCode> {
    let machines = machines()?;
    match (place(&options.source), place(&options.target)) {
        ((None, "-"), (Some(machine), to)) => {
            ensure!(!to.is_empty(), "{}: no path; write MACHINE:DIRECTORY", options.target);
            unpack_to_guest(&machines.open(machine)?, io::stdin(), to, options.archive)?;
        }
        ((Some(machine), from), (None, "-")) => {
            ensure!(!from.is_empty(), "{}: no path; write MACHINE:PATH", options.source);
            pack_from_guest(&machines.open(machine)?, from, &mut io::stdout())?;
        }
        ((None, from), (Some(machine), to)) => {
            ensure!(!to.is_empty(), "{}: no path; write MACHINE:PATH", options.target);
            copy_to_guest(&machines.open(machine)?, Path::new(from), to, options.archive)?;
        }
        ((Some(machine), from), (None, to)) => {
            ensure!(!from.is_empty(), "{}: no path; write MACHINE:PATH", options.source);
            copy_from_guest(&machines.open(machine)?, from, Path::new(to))?;
        }
        _ => bail!("one of the two is in a machine, the other isn't; write MACHINE:PATH for the one that is"),
    }
    Ok(ExitCode::SUCCESS)
}

/// `rvisor logs`.
pub fn logs(options: &Logs) -> anyhow::Result<ExitCode> {
    let directory = machines()?.open(&options.machine)?;
    let is_command = directory.config().is_ok_and(|config| !config.command.is_empty());
    let console = options.console || !is_command;
    let wanted = options.since.unwrap_or(0)..=options.until.unwrap_or(u64::MAX);
    let mut reader = LogReader::new(&directory);
    let mut next = || loop {
        let record = reader.next_record()?;
        if (record.source == Source::Console) == console && wanted.contains(&record.time) {
            return Some(Said { source: record.source, time: record.time, bytes: record.bytes });
        }
    };
    let mut printer = Printer { timestamps: options.timestamps, is_inside: false };
    match options.tail {
        None => std::iter::from_fn(&mut next).try_for_each(|said| printer.print(&said))?,
        Some(tail) => {
            let lines = last_lines(std::iter::from_fn(&mut next), tail);
            lines.into_iter().try_for_each(|said| printer.print(&said))?;
        }
    }
    if options.follow {
        loop {
            // Asked first, so that what came before the end is read after it.
            let is_over = !directory.is_running()? || table::now() > *wanted.end();
            std::iter::from_fn(&mut next).try_for_each(|said| printer.print(&said))?;
            if is_over {
                break;
            }
            thread::sleep(LOOK);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Something that was said.
struct Said {
    source: Source,
    time: u64,
    bytes: Vec<u8>,
}

/// The last lines of what comes in pieces, each with who said its beginning, and when.
fn last_lines(pieces: impl Iterator<Item = Said>, count: usize) -> VecDeque<Said> {
    let mut lines: VecDeque<Said> = VecDeque::new();
    for said in pieces {
        for line in said.bytes.split_inclusive(|byte| *byte == b'\n') {
            match lines.back_mut() {
                Some(last) if !last.bytes.ends_with(b"\n") => last.bytes.extend(line),
                _ => lines.push_back(Said { bytes: line.to_vec(), ..said }),
            }
            while lines.len() > count.max(1) {
                lines.pop_front();
            }
        }
    }
    lines.truncate(count);
    lines
}

/// Writes what was said, each to the stream that it was for.
struct Printer {
    timestamps: bool,
    /// The last line has no end yet.
    is_inside: bool,
}

impl Printer {
    fn print(&mut self, said: &Said) -> io::Result<()> {
        let mut text = Vec::new();
        for line in said.bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.timestamps && !self.is_inside {
                text.extend(format!("{}  ", table::moment(said.time)).into_bytes());
            }
            self.is_inside = !line.ends_with(b"\n");
            text.extend(line);
        }
        if said.source == Source::Stderr {
            return io::stderr().write_all(&text);
        }
        let mut stdout = io::stdout();
        stdout.write_all(&text)?;
        stdout.flush()
    }
}

/// `rvisor events`.
pub fn events(options: &cli::Events) -> anyhow::Result<ExitCode> {
    let wanted = options.since.unwrap_or_else(table::now)..=options.until.unwrap_or(u64::MAX);
    let mut reader = Events::new(machines()?.store()).read();
    loop {
        // Asked first, so that what came before the end is read after it.
        let is_over = options.no_stream || table::now() > *wanted.end();
        while let Some(event) = reader.next_event() {
            if wanted.contains(&event.time) {
                writeln!(io::stdout(), "{}", line(&event, options.format)?)?;
            }
        }
        if is_over {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(LOOK);
    }
}

fn line(event: &Event, format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return Ok(serde_json::to_string(event)?);
    }
    let detail = event.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    Ok(format!("{}  {} {}{detail}", table::moment(event.time), event.action, event.machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_whole_whatever_the_pieces() {
        let said = |text: &str| Said { source: Source::Console, time: 0, bytes: text.into() };
        let lines: Vec<_> = last_lines(["a\nb", "b\nc", "\n"].map(said).into_iter(), 2)
            .into_iter()
            .map(|said| said.bytes)
            .collect();
        assert_eq!(lines, [b"bb\n".to_vec(), b"c\n".to_vec()]);
        assert!(last_lines([said("x\n")].into_iter(), 0).is_empty());
    }

    #[test]
    fn machine_and_path_are_told_apart() {
        assert_eq!(place("web:/etc"), (Some("web"), "/etc"));
        assert_eq!(place("./a:b"), (None, "./a:b"));
        assert_eq!(place("/a:b"), (None, "/a:b"));
        assert_eq!(place("plain"), (None, "plain"));
    }
}
