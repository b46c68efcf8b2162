//! The user's terminal: raw while a guest owns it, restored whatever happens; and the escape key.

use std::io::{IsTerminal, stdin};
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::stream::Filter;

/// Ctrl-A, as in QEMU and minicom.
pub const ESCAPE: u8 = 0x01;

/// What to tell the user when a guest gets the terminal.
pub const ESCAPE_HELP: &str =
    "escape key: Ctrl-A; Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this";

/// Settings to go back to, kept where a panic hook and a signal's thread find them too.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal raw while it lives. Where standard input is no terminal, nothing is changed.
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input raw if it is a terminal. Output processing stays on where the terminal had it
    /// off only: a guest's own line discipline adds the carriage returns.
    ///
    /// # Errors
    /// What the host says about the terminal.
    pub fn enter() -> std::io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let settings = tcgetattr(stdin())?;
        let mut raw = settings.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(settings);
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was before [`RawTerminal::enter`]. May be called at any time.
pub fn restore() {
    if let Some(settings) = SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        // Nothing could be done about a terminal that has gone away.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &settings);
    }
}

/// A filter that acts on the escape key: `quit` ends the machine, `help` shows [`ESCAPE_HELP`].
pub fn escape_filter(quit: impl Fn() + Send + 'static, help: impl Fn() + Send + 'static) -> Filter {
    let mut escaped = false;
    Box::new(move |bytes, kept| {
        for &byte in bytes {
            match (std::mem::take(&mut escaped), byte) {
                (false, ESCAPE) => escaped = true,
                (false, _) | (true, ESCAPE) => kept.push(byte),
                (true, b'x' | b'X') => quit(),
                (true, b'h' | b'H' | b'?') => help(),
                (true, _) => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn escape_sequences_act_and_everything_else_passes() {
        let quits = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&quits);
        let mut filter = escape_filter(
            move || {
                counter.fetch_add(1, Ordering::Relaxed);
            },
            || {},
        );
        let mut kept = Vec::new();
        filter(b"a\x01", &mut kept);
        filter(b"\x01b\x01h\x01zc", &mut kept);
        assert_eq!(kept, b"a\x01bc");
        assert_eq!(quits.load(Ordering::Relaxed), 0);
        filter(b"\x01x", &mut kept);
        assert_eq!(quits.load(Ordering::Relaxed), 1);
    }
}
