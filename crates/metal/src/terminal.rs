//! One physical console for all guests: lines of several guests carry their names, and what is typed goes to one
//! of them, which a key chooses.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_waist::ConsoleBackend;
use spin::Mutex;

/// The key that gives the keyboard to the next guest: Ctrl-B.
const NEXT_GUEST: u8 = 2;
/// Bytes typed that wait for a guest at most; more are lost.
const TYPED_AHEAD: usize = 4096;

/// Writes bytes to the physical console.
pub type Output = fn(&[u8]);

/// What guests have printed and not been told to the console yet, and what was typed for them.
struct Line {
    prefix: String,
    typed: VecDeque<u8>,
}

/// The console's users.
pub struct Terminal {
    output: Output,
    state: Mutex<State>,
}

struct State {
    lines: Vec<Line>,
    /// Who has the keyboard.
    focus: usize,
    /// Who printed last, and whether that line is unfinished.
    last: Option<usize>,
}

impl Terminal {
    /// A terminal for guests of these names.
    pub fn new(names: &[&str], output: Output) -> Arc<Self> {
        let prefix = |name: &&str| if names.len() > 1 { alloc::format!("[{name}] ") } else { String::new() };
        let line = |name| Line { prefix: prefix(name), typed: VecDeque::new() };
        let state = State { lines: names.iter().map(line).collect(), focus: 0, last: None };
        Arc::new(Self { output, state: Mutex::new(state) })
    }

    /// The end of the line that guest `index` has.
    pub fn port(self: &Arc<Self>, index: usize) -> Box<dyn ConsoleBackend> {
        Box::new(Port { terminal: Arc::clone(self), index })
    }

    /// Takes what was typed; returns the guest that got some of it.
    pub fn type_in(&self, bytes: &[u8]) -> Option<usize> {
        let mut state = self.state.lock();
        let mut reached = None;
        for byte in bytes {
            if *byte == NEXT_GUEST && state.lines.len() > 1 {
                state.focus = (state.focus + 1) % state.lines.len();
                continue;
            }
            let focus = state.focus;
            let typed = &mut state.lines[focus].typed;
            if typed.len() < TYPED_AHEAD {
                typed.push_back(*byte);
                reached = Some(focus);
            }
        }
        reached
    }

    fn print(&self, index: usize, bytes: &[u8]) {
        let state = &mut *self.state.lock();
        let prefix = state.lines[index].prefix.as_bytes();
        if prefix.is_empty() {
            return (self.output)(bytes);
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if state.last != Some(index) {
                if state.last.is_some() {
                    (self.output)(b"\r\n");
                }
                (self.output)(prefix);
            }
            (self.output)(line);
            state.last = (!line.ends_with(b"\n")).then_some(index);
        }
    }
}

/// A guest's end.
struct Port {
    terminal: Arc<Terminal>,
    index: usize,
}

impl ConsoleBackend for Port {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.terminal.print(self.index, bytes);
        bytes.len()
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut state = self.terminal.state.lock();
        let typed = &mut state.lines[self.index].typed;
        let count = buffer.len().min(typed.len());
        for (slot, byte) in buffer.iter_mut().zip(typed.drain(..count)) {
            *slot = byte;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static PRINTED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    #[test]
    fn lines_of_several_guests_carry_their_names() {
        let terminal = Terminal::new(&["a", "b"], |bytes| PRINTED.lock().extend(bytes));
        let (mut a, mut b) = (terminal.port(0), terminal.port(1));
        a.write(b"one\ntw");
        a.write(b"o");
        b.write(b"three\n");
        a.write(b"four\n");
        assert_eq!(&PRINTED.lock()[..], b"[a] one\n[a] two\r\n[b] three\n[a] four\n");
    }

    #[test]
    fn key_gives_the_keyboard_to_the_next_guest() {
        let terminal = Terminal::new(&["a", "b"], |_| {});
        let (mut a, mut b) = (terminal.port(0), terminal.port(1));
        assert_eq!(terminal.type_in(b"x\x02yz"), Some(1));
        let mut buffer = [0; 8];
        assert_eq!((a.read(&mut buffer), buffer[0]), (1, b'x'));
        assert_eq!((b.read(&mut buffer), &buffer[..2]), (2, &b"yz"[..]));
        assert_eq!(b.read(&mut buffer), 0);
    }

    #[test]
    fn too_much_typing_is_lost() {
        let terminal = Terminal::new(&["a"], |_| {});
        terminal.type_in(&[b'x'; 2 * TYPED_AHEAD]);
        assert_eq!(terminal.port(0).read(&mut [0; 3 * TYPED_AHEAD]), TYPED_AHEAD);
    }
}
