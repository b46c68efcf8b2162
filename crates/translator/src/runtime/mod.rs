//! What translated code runs in: frames, spaces, the code cache, and the helpers that finish what it can't.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

pub mod cache;
pub mod code_memory;
pub mod dump;
pub mod frame;
pub mod heat;
pub mod helpers;
pub mod known;
pub mod optimizer;
pub mod profile;
pub mod run;
pub mod shared;
pub mod site;
pub mod space;
pub mod store;

/// What is to be told about a translator's work.
#[derive(Default, Debug)]
pub struct Options {
    /// Measure where time goes; costs some.
    pub profile: bool,
    /// Write every translation here.
    pub dump: Option<BufWriter<File>>,
    /// When the second tier translates again what the first has translated.
    pub optimize: Optimize,
    /// Directory that translations are taken from, and kept in for later runs; not used for a profile or
    /// where translations are written out.
    pub store: Option<PathBuf>,
    /// Bytes of host code that are kept at a time, for all harts; at least [`LEAST_CODE_MEMORY`](crate::LEAST_CODE_MEMORY).
    pub code_memory: Option<usize>,
}

/// When the second tier translates.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Optimize {
    /// Never.
    Never,
    /// What proves to be executed often, on a thread of its own.
    #[default]
    Hot,
    /// Everything, at once. For tests: guesses which way branches go.
    Always,
}
