//! Tells what happens in a machine step by step, in columns for those who act, as books on virtual machine monitors
//! draw it. Homes make the steps from real events; how they are named and laid out is the same everywhere.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Who acts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Column {
    /// Guest code in U-mode.
    Application,
    /// Guest code in S-mode.
    GuestOs,
    /// Rvisor.
    Monitor,
    /// What Rvisor runs on: the host's processor, or the machine's own.
    Hardware,
}

impl Column {
    /// All of them, from left to right.
    pub const ALL: [Self; 4] = [Self::Application, Self::GuestOs, Self::Monitor, Self::Hardware];

    /// As it stands above the column.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::GuestOs => "guest OS",
            Self::Monitor => "monitor",
            Self::Hardware => "hardware",
        }
    }
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Nanoseconds since the story began, where that is known.
    pub time: Option<u64>,
    /// Who acts.
    pub column: Column,
    /// What is done.
    pub text: String,
}

/// Steps in their order. Displayed as a table.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Story {
    /// What it is about.
    pub title: String,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Story {
    /// A story without steps.
    #[must_use]
    pub const fn new(title: String) -> Self {
        Self { title, steps: Vec::new() }
    }

    /// Adds a step.
    pub fn add(&mut self, time: Option<u64>, column: Column, text: String) {
        self.steps.push(Step { time, column, text });
    }
}

/// Characters of the column of times, and of each other.
const TIME: usize = 9;
const WIDTH: usize = 30;

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        write!(f, "{:>TIME$}", "µs")?;
        for column in Column::ALL {
            write!(f, " | {:WIDTH$}", column.title())?;
        }
        writeln!(f)?;
        write!(f, "{:->TIME$}", "")?;
        Column::ALL.iter().try_for_each(|_| write!(f, "-+-{:->WIDTH$}", ""))?;
        writeln!(f)?;
        for step in &self.steps {
            for (number, line) in wrap(&step.text).iter().enumerate() {
                match step.time.filter(|_| number == 0) {
                    Some(time) => write!(f, "{:>5}.{:03}", time / 1000, time % 1000)?,
                    None => write!(f, "{:TIME$}", "")?,
                }
                for column in Column::ALL {
                    write!(f, " | {:WIDTH$}", if column == step.column { line } else { "" })?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Lines of words, each no wider than a column where the words let that be.
fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn steps_stand_in_their_columns() {
        let mut story = Story::new("a system call".into());
        story.add(Some(0), Column::Application, "ecall".into());
        story.add(
            Some(1_500),
            Column::Monitor,
            "takes the trap on the virtual hart, and enters the handler".into(),
        );
        story.add(None, Column::Hardware, "nothing".into());
        let text = story.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "a system call");
        let place = |title| lines[2].find(title).map(|byte| lines[2][..byte].chars().count());
        for (line, word, column) in [
            (4, "ecall", "application"),
            (5, "takes", "monitor"),
            (6, "hart,", "monitor"),
            (7, "nothing", "hardware"),
        ] {
            assert_eq!(lines[line].find(word), place(column), "{text}");
        }
        assert!(lines[4].starts_with("    0.000") && lines[5].starts_with("    1.500"), "{text}");
        assert!(lines[6].starts_with("          |") && lines.iter().all(|line| line.chars().count() <= 142));
    }
}
