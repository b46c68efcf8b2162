//! The one command of a machine whose guest was up already: run by the guest's agent.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::agent::{Channel, ExecRequest};
use crate::command::Outcome;
use crate::protocol::Frame;

/// What a shell does before it becomes the command, as it is for commands of guests that are booted.
const SCRIPT: &str = "cd \"$HOME\" 2>/dev/null; unset OLDPWD; exec \"$@\"";

/// What the agent is asked to run.
pub(crate) fn request(command: &[String], environment: &[String], is_durable: bool) -> ExecRequest {
    let words = ["/bin/sh", "-c", SCRIPT, "sh"].map(str::to_owned);
    let words = words.into_iter().chain(command.iter().cloned()).collect();
    let environment = ["LANG=C.UTF-8".to_owned()].into_iter().chain(environment.iter().cloned());
    ExecRequest { is_durable, ..ExecRequest::new(words, environment) }
}

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    is_over: bool,
    channel: Option<u32>,
}

/// How the command is.
#[derive(Clone, Default)]
pub(crate) struct ExecCommand(Arc<(Mutex<State>, Condvar)>);

impl ExecCommand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects the command on `channel` with these streams; `ended` is called once its outcome is known, and its
    /// output written.
    pub fn start(
        &self,
        channel: Channel,
        stdin: Option<Box<dyn Read + Send>>,
        (mut stdout, mut stderr): (impl Write + Send + 'static, impl Write + Send + 'static),
        ended: impl Fn() + Send + 'static,
    ) -> std::io::Result<()> {
        self.state().channel = Some(channel.id());
        let channel = Arc::new(channel);
        match stdin {
            None => drop(channel.send(&Frame::InputEnd)),
            Some(stdin) => {
                let channel = Arc::clone(&channel);
                thread::Builder::new().name("input".into()).spawn(move || copy_input(stdin, &channel))?;
            }
        }
        let command = self.clone();
        thread::Builder::new().name("command".into()).spawn(move || {
            let mut outcome = None;
            while let Some(frame) = channel.receive() {
                // What nobody takes is lost, as for a program that ignores it.
                match &frame {
                    Frame::Stdout(bytes) => drop(stdout.write_all(bytes)),
                    Frame::Stderr(bytes) => drop(stderr.write_all(bytes)),
                    Frame::Exit(code) => outcome = Some(Outcome::Exit(*code)),
                    Frame::Failed(code @ (126 | 127), _) => outcome = Some(Outcome::Exit(*code)),
                    Frame::Failed(125, reason) => outcome = Some(Outcome::Failed(reason.clone())),
                    _ => {}
                }
                if let Frame::Stdout(bytes) | Frame::Stderr(bytes) = &frame {
                    channel.credit(bytes.len());
                }
            }
            let is_known = outcome.is_some();
            let mut state = command.state();
            (state.outcome, state.is_over) = (outcome, true);
            drop(state);
            command.0.1.notify_all();
            if is_known {
                ended();
            }
        })?;
        Ok(())
    }

    /// Waits until standard output and standard error have taken everything; the channel has ended.
    pub fn drain(&self, patience: Duration) {
        let waiting = |state: &mut State| state.channel.is_some() && !state.is_over;
        let waited = self.0.1.wait_timeout_while(self.state(), patience, waiting);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// How it ended, if it did before its machine.
    pub fn outcome(&self) -> Option<Outcome> {
        self.state().outcome.clone()
    }

    /// It has ended like this, elsewhere than on a channel of its own.
    pub fn tell(&self, outcome: Outcome) {
        let mut state = self.state();
        (state.outcome, state.is_over) = (Some(outcome), true);
    }

    /// The agent's channel that it is on.
    pub fn channel(&self) -> Option<u32> {
        let state = self.state();
        state.channel.filter(|_| !state.is_over)
    }
}

fn copy_input(mut stdin: Box<dyn Read + Send>, channel: &Channel) {
    let mut buffer = [0; 16 << 10];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                if !channel.send(&Frame::Input(buffer[..length].to_vec())) {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    channel.send(&Frame::InputEnd);
}
