//! One physical console for all guests and the monitor's prompt.
//!
//! Lines of several guests carry their names; or, without prefixes, only the guest that has the keyboard prints, and
//! what others print is kept until they get it. Ctrl-B begins what is meant for the terminal itself.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_waist::ConsoleBackend;
use spin::Mutex;

use crate::monitor::prompt::{Key, Line, PROMPT};

/// What is typed before a key for the terminal: Ctrl-B.
const ESCAPE: u8 = 2;
/// Bytes typed that wait for a guest at most; more are lost.
const TYPED_AHEAD: usize = 4096;
/// Bytes printed that wait for a guest to get the keyboard; the oldest are lost.
const BACKLOG: usize = 16 << 10;
const HELP: &str = "Ctrl-B: n next guest, 1-9 that guest, m the monitor's prompt, b Ctrl-B itself";

/// Writes bytes to the physical console.
pub type Output = fn(&[u8]);

/// Looks at the keyboard until half a line is printed that another line was in the way of.
const PATIENCE: u8 = 5;
/// Bytes of a line that is held back at most.
const LONGEST_LINE: usize = 1024;

/// A guest's line.
struct Wire {
    name: String,
    /// Printed, and held back while another's line is unfinished.
    held: Vec<u8>,
    /// For how long.
    waited: u8,
    typed: VecDeque<u8>,
    backlog: VecDeque<u8>,
}

/// Who has the keyboard, or printed last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum User {
    Guest(usize),
    Monitor,
}

/// The console's users.
pub struct Terminal {
    output: Output,
    /// Whether several guests' lines are told apart by prefixes.
    prefixes: bool,
    state: Mutex<State>,
}

struct State {
    wires: Vec<Wire>,
    focus: User,
    /// Who printed last, if that line is unfinished.
    last: Option<User>,
    /// The next key is for the terminal.
    escaped: bool,
    line: Line,
    /// A command is being carried out: the prompt comes when it is done.
    is_answering: bool,
}

/// What typing has led to.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Typed {
    /// Guests that got some of it, one bit for each.
    pub guests: u64,
    /// Lines entered at the prompt.
    pub commands: Vec<String>,
}

impl Terminal {
    /// A terminal for guests of these names. The first has the keyboard.
    pub fn new(names: &[&str], prefix: bool, output: Output) -> Arc<Self> {
        let wire = |name: &&str| Wire {
            name: String::from(*name),
            held: Vec::new(),
            waited: 0,
            typed: VecDeque::new(),
            backlog: VecDeque::new(),
        };
        let state = State {
            wires: names.iter().map(wire).collect(),
            focus: User::Guest(0),
            last: None,
            escaped: false,
            line: Line::default(),
            is_answering: false,
        };
        Arc::new(Self { output, prefixes: prefix && names.len() > 1, state: Mutex::new(state) })
    }

    /// The end of the line that guest `index` has.
    pub fn port(self: &Arc<Self>, index: usize) -> Box<dyn ConsoleBackend> {
        Box::new(Port { terminal: Arc::clone(self), index, has_keyboard: true })
    }

    /// Prints on guest `index`'s line, and gets nothing of what is typed.
    pub fn output(self: &Arc<Self>, index: usize) -> Box<dyn ConsoleBackend> {
        Box::new(Port { terminal: Arc::clone(self), index, has_keyboard: false })
    }

    /// Whether the keyboard is at the monitor's prompt.
    pub fn is_at_prompt(&self) -> bool {
        self.state.lock().focus == User::Monitor
    }

    /// Gives the keyboard to a guest.
    pub fn focus(&self, guest: usize) {
        self.change_focus(&mut self.state.lock(), User::Guest(guest));
    }

    /// Takes the keyboard from the prompt, if it is there.
    pub fn leave_prompt(&self) {
        let mut state = self.state.lock();
        if state.focus == User::Monitor {
            state.focus = User::Guest(0);
        }
    }

    /// Takes what was typed.
    pub fn type_in(&self, bytes: &[u8]) -> Typed {
        let state = &mut *self.state.lock();
        let mut result = Typed::default();
        for byte in bytes {
            if core::mem::take(&mut state.escaped) {
                self.command_key(state, *byte, &mut result);
            } else if *byte == ESCAPE {
                state.escaped = true;
            } else {
                self.key(state, *byte, &mut result);
            }
        }
        result
    }

    /// A key behind Ctrl-B.
    fn command_key(&self, state: &mut State, key: u8, result: &mut Typed) {
        let count = state.wires.len();
        let numbered = usize::from(key).wrapping_sub(usize::from(b'1'));
        match key {
            b'n' | b' ' => {
                let next = match state.focus {
                    User::Guest(index) => (index + 1) % count,
                    User::Monitor => 0,
                };
                self.change_focus(state, User::Guest(next));
            }
            b'm' => self.change_focus(state, User::Monitor),
            b'b' | ESCAPE => self.key(state, ESCAPE, result),
            _ if key.is_ascii_digit() && numbered < count => self.change_focus(state, User::Guest(numbered)),
            _ => self.line(state, HELP),
        }
    }

    fn key(&self, state: &mut State, key: u8, result: &mut Typed) {
        match state.focus {
            User::Guest(index) => {
                let typed = &mut state.wires[index].typed;
                if typed.len() < TYPED_AHEAD {
                    typed.push_back(key);
                    result.guests |= 1 << index;
                }
            }
            User::Monitor => match state.line.press(key) {
                Key::Echo(text) => (self.output)(text.as_bytes()),
                Key::Character(key) => (self.output)(&[key]),
                Key::Enter(text) => {
                    (self.output)(b"\r\n");
                    (state.last, state.is_answering) = (None, true);
                    result.commands.push(text);
                }
            },
        }
    }

    fn change_focus(&self, state: &mut State, user: User) {
        state.focus = user;
        match user {
            User::Monitor => {
                self.begin(state, User::Monitor);
                self.draw_prompt(state);
            }
            User::Guest(index) => {
                if state.wires.len() > 1 {
                    let name = state.wires[index].name.clone();
                    self.line(state, &alloc::format!("rvisor: keyboard: {name}"));
                } else {
                    self.begin(state, user);
                }
                let backlog: Vec<u8> = state.wires[index].backlog.drain(..).collect();
                self.print(state, index, &backlog);
            }
        }
    }

    /// Begins to print for `user`: another's unfinished line ends.
    fn begin(&self, state: &mut State, user: User) {
        if state.last.is_some_and(|last| last != user) {
            (self.output)(b"\r\n");
            state.last = None;
        }
    }

    /// Draws the prompt with what was typed, on a new line.
    fn draw_prompt(&self, state: &mut State) {
        if state.focus == User::Monitor && state.last.is_none() && !state.is_answering {
            (self.output)(PROMPT.as_bytes());
            (self.output)(state.line.text().as_bytes());
            state.last = Some(User::Monitor);
        }
    }

    /// Prints a whole line of the monitor's.
    fn line(&self, state: &mut State, text: &str) {
        if state.last.take().is_some() {
            (self.output)(b"\r\n");
        }
        (self.output)(text.as_bytes());
        (self.output)(b"\r\n");
    }

    /// Prints a whole line of the monitor's.
    pub fn say(&self, text: &str) {
        let state = &mut *self.state.lock();
        self.line(state, text);
        self.draw_prompt(state);
    }

    /// After a command: the prompt again, where the keyboard still is.
    pub fn prompt(&self) {
        let state = &mut *self.state.lock();
        state.is_answering = false;
        self.draw_prompt(state);
    }

    fn print(&self, state: &mut State, index: usize, bytes: &[u8]) {
        let user = User::Guest(index);
        if !self.prefixes && state.wires.len() > 1 && state.focus != user {
            let backlog = &mut state.wires[index].backlog;
            backlog.extend(bytes);
            let excess = backlog.len().saturating_sub(BACKLOG);
            backlog.drain(..excess);
            return;
        }
        let is_next = state.last.map_or(state.focus == user, |last| last == user);
        if is_next && state.wires.iter().all(|wire| wire.held.is_empty()) {
            // Nobody waits for a turn: guests print byte by byte.
            self.show(state, index, bytes);
            self.draw_prompt(state);
            return;
        }
        state.wires[index].held.extend(bytes);
        self.flush(state);
    }

    /// Time goes on: half lines don't wait for ever.
    pub fn tick(&self) {
        let state = &mut *self.state.lock();
        for wire in state.wires.iter_mut().filter(|wire| !wire.held.is_empty()) {
            wire.waited = wire.waited.saturating_add(1);
        }
        self.flush(state);
    }

    /// Prints what guests have printed, whole lines where several are at it.
    fn flush(&self, state: &mut State) {
        // Who is in the middle of a line first: when it has ended, others may go on.
        let mut order: Vec<_> = (0..state.wires.len()).collect();
        order.sort_by_key(|index| state.last != Some(User::Guest(*index)));
        for index in &order {
            // Whole lines go before the prompt, which is drawn again.
            let may_print = [None, Some(User::Monitor), Some(User::Guest(*index))].contains(&state.last);
            let held = &state.wires[*index].held;
            let whole = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            if may_print && whole > 0 {
                self.put(state, *index, whole);
            }
        }
        for index in order {
            let user = User::Guest(index);
            let wire = &state.wires[index];
            let is_due = wire.waited >= PATIENCE || wire.held.len() > LONGEST_LINE;
            let is_wanted = state.last == Some(user) || state.last.is_none() && state.focus == user;
            if is_due || is_wanted {
                self.put(state, index, wire.held.len());
            }
        }
        self.draw_prompt(state);
    }

    /// Prints so much of what a guest's wire holds.
    fn put(&self, state: &mut State, index: usize, count: usize) {
        let wire = &mut state.wires[index];
        let bytes: Vec<u8> = wire.held.drain(..count).collect();
        if wire.held.is_empty() {
            wire.waited = 0;
        }
        self.show(state, index, &bytes);
    }

    /// Prints what a guest has printed, now.
    fn show(&self, state: &mut State, index: usize, bytes: &[u8]) {
        let user = User::Guest(index);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begin(state, user);
            if self.prefixes && state.last.is_none() {
                (self.output)(b"[");
                (self.output)(state.wires[index].name.as_bytes());
                (self.output)(b"] ");
            }
            (self.output)(line);
            state.last = (!line.ends_with(b"\n")).then_some(user);
        }
    }
}

/// A guest's end.
struct Port {
    terminal: Arc<Terminal>,
    index: usize,
    has_keyboard: bool,
}

impl ConsoleBackend for Port {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.terminal.print(&mut self.terminal.state.lock(), self.index, bytes);
        bytes.len()
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        if !self.has_keyboard {
            return 0;
        }
        let mut state = self.terminal.state.lock();
        let typed = &mut state.wires[self.index].typed;
        let count = buffer.len().min(typed.len());
        for (slot, byte) in buffer.iter_mut().zip(typed.drain(..count)) {
            *slot = byte;
        }
        count
    }
}

#[cfg(test)]
mod tests;
