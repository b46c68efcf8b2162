//! `rvisor trace`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, bail};
use rvisor_instances::{Client, Frame, Session, TraceRequest};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Trace;
use crate::lifecycle::machines;

/// Records what a machine does, or tells a story of it.
pub fn trace(options: &Trace) -> anyhow::Result<ExitCode> {
    let directory = machines()?.open(&options.machine)?;
    let request = TraceRequest {
        only: options.only.clone(),
        seconds: options.seconds.map(|limit| limit.as_secs_f64()),
        story: options.story.map(|story| story.word().to_owned()),
    };
    if options.story.is_some() {
        let session = Client::new(&directory).trace(request)?;
        stop_on_signals(&session)?;
        return receive(session, &mut io::stdout(), Path::new("standard output"));
    }
    let path = match &options.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{}.trace.json", options.machine)),
    };
    let session = Client::new(&directory).trace(request)?;
    let mut file = File::create(&path)
        .with_context(|| format!("can't write {}; choose another file with --output", path.display()))?;
    stop_on_signals(&session)?;
    if options.seconds.is_none() {
        eprintln!("rvisor: tracing {} until Ctrl-C", options.machine);
    }
    let code = receive(session, &mut file, &path)?;
    eprintln!("rvisor: wrote {}; open it in Perfetto (ui.perfetto.dev) or chrome://tracing", path.display());
    Ok(code)
}

/// Ctrl-C ends the recording, not this program: the file gets its end.
fn stop_on_signals(session: &Session) -> anyhow::Result<()> {
    let mut sender = session.try_clone()?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            let _ = sender.send(&Frame::InputEnd);
        }
    })?;
    Ok(())
}

/// Writes what comes.
fn receive(mut session: Session, output: &mut impl Write, path: &Path) -> anyhow::Result<ExitCode> {
    let mut code = 0;
    loop {
        match session.receive().context("the connection to the machine broke")? {
            Some(Frame::Stdout(bytes)) => {
                output.write_all(&bytes).with_context(|| format!("can't write to {}", path.display()))?
            }
            Some(Frame::Stderr(bytes)) => io::stderr().write_all(&bytes)?,
            Some(Frame::Exit(exit)) => code = exit,
            Some(Frame::Failed(_, reason)) => bail!(reason),
            Some(_) => {}
            None => break,
        }
    }
    output.flush().with_context(|| format!("can't write to {}", path.display()))?;
    Ok(ExitCode::from(code))
}
