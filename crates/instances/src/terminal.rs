//! A machine's command on a terminal of the guest: the agent runs it (the book, "The guest protocol"), and the script
//! that serves the machine is told its exit code when it has ended.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::agent::{AgentLink, Channel, ExecRequest};
use crate::protocol::Frame;

/// Keys that wait for a command which hasn't started, at most.
const EARLY: usize = 4096;

/// The command's end on the host.
#[derive(Clone, Default)]
pub(crate) struct TerminalCommand(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    channel: Option<Arc<Channel>>,
    early: Vec<u8>,
    size: Option<(u16, u16)>,
}

impl TerminalCommand {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let Some(channel) = state.channel.clone() else {
            let room = EARLY - state.early.len();
            state.early.extend(&bytes[..bytes.len().min(room)]);
            return;
        };
        drop(state);
        // It waits for a command that doesn't read.
        channel.send(&Frame::Input(bytes.to_vec()));
    }

    /// Makes the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let mut state = self.lock();
        state.size = Some((rows, columns));
        if let Some(channel) = &state.channel {
            channel.send(&Frame::Resize(rows, columns));
        }
    }

    /// Runs the command once the agent has started, to its end. Returns its exit code, or `None` if the machine ends
    /// before it.
    pub fn run(&self, agent: &AgentLink, mut request: ExecRequest, output: &mut impl Write) -> Option<u8> {
        if !agent.is_ready() {
            agent.wait_start(0)?;
        }
        let mut state = self.lock();
        request.terminal = state.size.or(request.terminal);
        match agent.exec(&request) {
            Ok(channel) => {
                let channel = state.adopt(channel);
                drop(state);
                self.serve(&channel, output)
            }
            Err(reason) => Some(refused(output, 125, &reason)),
        }
    }

    /// Goes on with a command that runs already, to its end; as [`run`](Self::run).
    pub fn go_on(&self, channel: Channel, output: &mut impl Write) -> Option<u8> {
        let mut state = self.lock();
        if let Some((rows, columns)) = state.size {
            channel.send(&Frame::Resize(rows, columns));
        }
        let channel = state.adopt(channel);
        drop(state);
        self.serve(&channel, output)
    }

    /// The agent's channel that it is on, while it runs.
    pub fn channel(&self) -> Option<u32> {
        self.lock().channel.as_ref().map(|channel| channel.id())
    }

    fn serve(&self, channel: &Channel, output: &mut impl Write) -> Option<u8> {
        let mut code = None;
        while code.is_none()
            && let Some(frame) = channel.receive()
        {
            match frame {
                Frame::Stdout(bytes) => {
                    // Nobody may be there to read it; the log has it.
                    let _ = output.write_all(&bytes).and_then(|()| output.flush());
                    channel.credit(bytes.len());
                }
                Frame::Exit(ended) => code = Some(ended),
                Frame::Failed(failed, reason) => code = Some(refused(output, failed, &reason)),
                _ => {}
            }
        }
        self.lock().channel = None;
        code
    }
}

impl State {
    /// From now on keys go to a channel; those that waited, too.
    fn adopt(&mut self, channel: Channel) -> Arc<Channel> {
        let channel = Arc::new(channel);
        if !self.early.is_empty() {
            channel.send(&Frame::Input(std::mem::take(&mut self.early)));
        }
        self.channel = Some(Arc::clone(&channel));
        channel
    }
}

/// Says why the command couldn't be run.
fn refused(output: &mut impl Write, code: u8, reason: &str) -> u8 {
    let _ = output.write_all(format!("rvisor: error: {reason}\r\n").as_bytes());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_wait_for_the_command_and_have_a_limit() {
        let terminal = TerminalCommand::default();
        terminal.type_in(b"ls\n");
        terminal.type_in(&[b'x'; 2 * EARLY]);
        assert_eq!(terminal.lock().early.len(), EARLY);
        let agent = AgentLink::new();
        agent.close();
        assert_eq!(terminal.run(&agent, ExecRequest::default(), &mut std::io::sink()), None);
    }
}
