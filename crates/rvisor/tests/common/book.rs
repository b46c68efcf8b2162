//! The code on the book's pages, so that what is tested is what it says.

use std::fs;
use std::path::Path;

/// A page of the book.
pub struct Page {
    name: &'static str,
    text: String,
}

impl Page {
    #[track_caller]
    pub fn open(name: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src").join(name);
        Self { name, text: fs::read_to_string(path).expect("a page") }
    }

    /// The fenced code in a language that stands under a heading.
    #[track_caller]
    pub fn code(&self, heading: &str, language: &str) -> Vec<&str> {
        let under =
            self.text.split("\n## ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
        let under = under.unwrap_or_else(|| panic!("{} has no heading {heading:?}", self.name));
        // Every second part stands between two fences.
        let fenced = under.split("```").skip(1).step_by(2);
        fenced.filter_map(|code| code.strip_prefix(language)?.strip_prefix('\n')).collect()
    }

    /// The commands of each session that stands under a heading, without what they print.
    #[track_caller]
    pub fn sessions(&self, heading: &str) -> Vec<Vec<&str>> {
        let sessions = self.code(heading, "console").into_iter();
        sessions.map(|code| code.lines().filter_map(|line| line.strip_prefix("$ ")).collect()).collect()
    }
}
