//! Commands of the prompt.

use alloc::format;
use alloc::string::String;

/// A command; guests by their place in the bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing was typed.
    Nothing,
    /// What commands there are.
    Help,
    /// All guests with their states.
    List,
    /// Switch a guest on.
    Start(usize),
    /// Switch a guest off, whatever it is doing.
    Stop(usize),
    /// Off and on again.
    Restart(usize),
    /// Keep its harts from running.
    Pause(usize),
    /// Let a paused guest go on.
    Resume(usize),
    /// Keep a guest's state on the disk and switch it off; started again, it goes on.
    Save(usize),
    /// Give the keyboard to a guest.
    Console(usize),
    /// What one or all guests have used.
    Stats(Option<usize>),
    /// Show one system call and one TLB miss of a guest, step by step.
    Trace(usize),
    /// Stop all guests and switch the hardware off.
    PowerOff,
}

type OfGuest = fn(usize) -> Command;

/// What a word takes.
enum Takes {
    Nothing(Command),
    Guest(OfGuest),
    Perhaps(Command, OfGuest),
}

/// Every command: its word, what it takes, what it does.
const COMMANDS: [(&str, Takes, &str); 12] = [
    ("list", Takes::Nothing(Command::List), "guests and their states"),
    ("start", Takes::Guest(Command::Start), "switch a guest on"),
    ("stop", Takes::Guest(Command::Stop), "switch a guest off"),
    ("restart", Takes::Guest(Command::Restart), "switch a guest off and on"),
    ("pause", Takes::Guest(Command::Pause), "keep a guest's harts from running"),
    ("resume", Takes::Guest(Command::Resume), "let a paused guest go on"),
    ("save", Takes::Guest(Command::Save), "keep a guest's state and switch it off"),
    ("console", Takes::Guest(Command::Console), "give the keyboard to a guest"),
    (
        "stats",
        Takes::Perhaps(Command::Stats(None), |guest| Command::Stats(Some(guest))),
        "what guests have used",
    ),
    ("trace", Takes::Guest(Command::Trace), "show a guest's next system call and TLB miss, step by step"),
    ("poweroff", Takes::Nothing(Command::PowerOff), "stop all guests and switch off"),
    ("help", Takes::Nothing(Command::Help), "this list"),
];

/// The lines of `help`.
pub fn help() -> impl Iterator<Item = String> {
    COMMANDS.iter().map(|(word, takes, about)| {
        let argument = match takes {
            Takes::Nothing(_) => "",
            Takes::Guest(_) => "GUEST",
            Takes::Perhaps(..) => "[GUEST]",
        };
        format!("{word:8} {argument:8} {about}")
    })
}

/// Reads a line; `names` are the guests'. A word may be cut short as long as only one command begins with it.
pub fn parse(line: &str, names: &[&str]) -> Result<Command, String> {
    let mut words = line.split_ascii_whitespace();
    let Some(word) = words.next() else { return Ok(Command::Nothing) };
    let exact = COMMANDS.iter().find(|(name, ..)| *name == word);
    let mut starts = COMMANDS.iter().filter(|(name, ..)| name.starts_with(word));
    let (name, takes, _) = match (exact, starts.next(), starts.next()) {
        (Some(exact), ..) | (None, Some(exact), None) => exact,
        (None, None, _) => return Err(format!("no command is called {word}; try help")),
        (None, Some((one, ..)), Some((two, ..))) => {
            return Err(format!("{word} may be {one} or {two}; write more of it"));
        }
    };
    let guest = words.next();
    if words.next().is_some() {
        return Err(format!("{name} takes one word at most; try help"));
    }
    let find = |name: &str| {
        let found = names.iter().position(|other| *other == name);
        found.ok_or_else(|| format!("no guest is called {name}; list shows them"))
    };
    match (takes, guest) {
        (Takes::Nothing(command) | Takes::Perhaps(command, _), None) => Ok(*command),
        (Takes::Guest(of) | Takes::Perhaps(_, of), Some(name)) => Ok(of(find(name)?)),
        // With one guest there is no doubt which.
        (Takes::Guest(of), None) if names.len() == 1 => Ok(of(0)),
        (Takes::Guest(_), None) => Err(format!("{name} which guest? list shows them")),
        (Takes::Nothing(_), Some(_)) => Err(format!("{name} takes nothing more; try help")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_guests() {
        let parse = |line| parse(line, &["one", "two"]);
        assert_eq!(parse("  stop   two "), Ok(Command::Stop(1)));
        assert_eq!(parse("li"), Ok(Command::List));
        assert_eq!(parse("stats"), Ok(Command::Stats(None)));
        assert_eq!(parse("stats one"), Ok(Command::Stats(Some(0))));
        assert_eq!(parse(""), Ok(Command::Nothing));
    }

    #[test]
    fn mistakes_are_explained() {
        for (line, words) in [
            ("sta one", "start or stats"),
            ("fly", "try help"),
            ("stop", "which guest"),
            ("stop three", "no guest is called three"),
            ("stop one two", "one word at most"),
            ("list one", "takes nothing more"),
        ] {
            let error = parse(line, &["one", "two"]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn only_guest_needs_no_name() {
        assert_eq!(parse("restart", &["one"]), Ok(Command::Restart(0)));
    }

    #[test]
    fn help_has_every_command() {
        assert_eq!(help().count(), COMMANDS.len());
        assert!(help().any(|line| line.contains("stats    [GUEST]")));
    }
}
