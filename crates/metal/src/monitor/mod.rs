//! The monitor's prompt: what may be typed there, and what it means. What commands do is the home's.

pub mod command;
pub mod prompt;
