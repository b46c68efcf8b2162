//! The line being typed at the prompt.

use alloc::string::String;
use core::mem;

/// What the prompt looks like.
pub const PROMPT: &str = "rvisor> ";
/// Characters of a line at most.
const LINE: usize = 200;

/// A line while it is typed.
#[derive(Default)]
pub struct Line {
    text: String,
}

/// What a key did.
#[derive(PartialEq, Eq, Debug)]
pub enum Key {
    /// Print this, and wait for more.
    Echo(&'static str),
    /// Print the character.
    Character(u8),
    /// The line is complete.
    Enter(String),
}

impl Line {
    /// Takes a key.
    pub fn press(&mut self, key: u8) -> Key {
        const BACKSPACE: u8 = 8;
        const DELETE: u8 = 0x7f;
        const CANCEL: [u8; 2] = [3, 0x15];
        match key {
            b'\r' | b'\n' => Key::Enter(mem::take(&mut self.text)),
            BACKSPACE | DELETE => Key::Echo(if self.text.pop().is_some() { "\x08 \x08" } else { "" }),
            key if CANCEL.contains(&key) => {
                self.text.clear();
                Key::Echo("^C\r\nrvisor> ")
            }
            b' '..=b'~' if self.text.len() < LINE => {
                self.text.push(char::from(key));
                Key::Character(key)
            }
            _ => Key::Echo(""),
        }
    }

    /// What was typed so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &mut Line, keys: &str) -> Option<String> {
        keys.bytes().fold(None, |_, key| match line.press(key) {
            Key::Enter(text) => Some(text),
            _ => None,
        })
    }

    #[test]
    fn line_is_edited_and_entered() {
        let mut line = Line::default();
        assert_eq!(typed(&mut line, "lost\x7f\x08\x08ist\r").as_deref(), Some("list"));
        assert_eq!(typed(&mut line, "wrong\x15help\r").as_deref(), Some("help"));
        assert_eq!(typed(&mut line, "\x7f\x1b\r").as_deref(), Some(""));
    }

    #[test]
    fn endless_line_stops_growing() {
        let mut line = Line::default();
        (0..10_000).for_each(|_| drop(line.press(b'x')));
        assert_eq!(line.text().len(), LINE);
    }
}
