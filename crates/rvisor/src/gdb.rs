//! `rvisor gdb`, and what `--gdb` of other commands does.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, bail};
use rvisor_hosted::gdb::{GdbAddress, GdbListener};
use rvisor_hosted::machine::MachineError;
use rvisor_instances::{Client, Frame};

use crate::cli::{Debugging, Engine, Gdb};
use crate::lifecycle::machines;
use crate::session::say;

/// Debuggers for RISC-V, by preference.
const DEBUGGERS: [&str; 2] = ["gdb-multiarch", "riscv64-linux-gnu-gdb"];

/// Attaches gdb to a machine.
pub fn gdb(options: &Gdb) -> anyhow::Result<ExitCode> {
    let directory = machines()?.open(&options.machine)?;
    if options.stdio {
        let session = Client::new(&directory).debug()?;
        return relay(session).context("the connection to the machine broke");
    }
    // Before gdb starts, and says so in its own way.
    Client::new(&directory).live()?;
    let program = match &options.debugger {
        Some(program) => program.clone(),
        None => DEBUGGERS.iter().map(PathBuf::from).find(is_there).with_context(|| {
            format!(
                "there is no gdb for RISC-V; install {}, or name one with --debugger",
                DEBUGGERS.join(" or ")
            )
        })?,
    };
    let this = std::env::current_exe().context("this program can't find itself")?;
    let this = this.to_str().context("this program's path isn't UTF-8; put it elsewhere")?;
    let error = Command::new(&program)
        .args(["-ex", &format!("target remote | {} gdb --stdio {}", quote(this), options.machine)])
        .args(&options.arguments)
        .exec();
    bail!("can't start {} ({error}); name another with --debugger", program.display())
}

fn is_there(program: &PathBuf) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

/// A word for a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Connects standard input and output with a machine's stub.
fn relay(mut session: rvisor_instances::Session) -> io::Result<ExitCode> {
    let mut sender = session.try_clone()?;
    thread::Builder::new().name("input".into()).spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            if sender.send(&Frame::Input(buffer[..length].to_vec())).is_err() {
                return;
            }
        }
        let _ = sender.send(&Frame::InputEnd);
    })?;
    let mut stdout = io::stdout();
    while let Some(frame) = session.receive()? {
        if let Frame::Stdout(bytes) = frame {
            stdout.write_all(&bytes)?;
            stdout.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Listens where the options say, and tells the user.
pub fn listen(options: &Debugging, engine: Engine) -> anyhow::Result<Option<GdbListener>> {
    let Some(address) = &options.gdb else { return Ok(None) };
    if engine == Engine::Lockstep {
        bail!(MachineError::LockstepDebugger);
    }
    let address: GdbAddress = address.parse().map_err(|error: String| anyhow::anyhow!("--gdb {error}"))?;
    let listener = GdbListener::bind(&address)
        .with_context(|| format!("can't listen for gdb on {address}; choose another --gdb"))?;
    let state = if options.gdb_wait { "the machine waits for it" } else { "the machine runs meanwhile" };
    say(&format!("gdb may connect with: target remote {}; {state}", listener.address()?));
    Ok(Some(listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("/a b/it's"), r"'/a b/it'\''s'");
    }

    #[test]
    fn address_that_makes_no_sense_returns_error() {
        let options = Debugging { gdb: Some("nowhere".into()), gdb_wait: false };
        let error = listen(&options, Engine::Translator).err().unwrap().to_string();
        assert!(error.contains("--gdb") && !error.contains('\n'), "{error}");
        let options = Debugging { gdb: Some("0".into()), gdb_wait: false };
        assert!(listen(&options, Engine::Lockstep).is_err());
        assert!(listen(&options, Engine::Interpreter).unwrap().is_some());
    }
}
