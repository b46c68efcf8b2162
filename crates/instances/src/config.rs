//! The two documents of a machine's directory: what it is, and how it is.

use std::path::PathBuf;

use rvisor_hosted::machine::EngineKind;
use rvisor_hosted::translator::{Optimize, Options};
use rvisor_machine::TranslationMode;
use serde::{Deserialize, Serialize};

/// Version of both documents' format.
pub(crate) const FORMAT: u32 = 1;

/// A mode of translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paging {
    /// Sv39
    Sv39,
    /// Sv48
    Sv48,
    /// Sv57
    Sv57,
}

impl Paging {
    /// The same for the machine.
    #[must_use]
    pub fn mode(self) -> TranslationMode {
        match self {
            Self::Sv39 => TranslationMode::Sv39,
            Self::Sv48 => TranslationMode::Sv48,
            Self::Sv57 => TranslationMode::Sv57,
        }
    }

    /// What a machine's mode is called; `None` without translation.
    #[must_use]
    pub fn of(mode: TranslationMode) -> Option<Self> {
        [Self::Sv39, Self::Sv48, Self::Sv57].into_iter().find(|paging| paging.mode() == mode)
    }
}

/// What a machine is (`config.json`). It never changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this format.
    pub format: u32,
    /// Seconds since 1970 when the machine was made.
    pub created: u64,
    /// Name of the image.
    pub image: String,
    /// SHA-256 of the files of the image that the machine needs: its kernel.
    pub kernel: String,
    /// Its run initrd.
    pub run_initrd: String,
    /// The disk under the machine's own one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_disk: Option<String>,
    /// Kernel command line of the image.
    pub append: String,
    /// Number of harts.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Whether the harts have the hypervisor extension.
    #[serde(default)]
    pub hypervisor: bool,
    /// Whether its guest is told of nothing but what machines have on any hardware, in any home (`--portable`).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub portable: bool,
    /// The largest mode of translation that its harts have; else what suits its memory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paging: Option<Paging>,
    /// Thousandths of a host's processor that its harts may use together; else all that they can.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_limit: Option<u32>,
    /// Whether there is a network card.
    pub network: bool,
    /// The named network that it is on; else it has one for itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub private_network: Option<String>,
    /// The tap device of the host that it is on; empty: one that is made for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tap: Option<String>,
    /// Ports of the host that lead to the guest, as on the command line.
    pub publish: Vec<String>,
    /// Directories shared with the guest, as on the command line, with absolute paths.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub volumes: Vec<String>,
    /// Bytes of each disk beside the first, which is empty when the machine is made.
    pub disks: Vec<u64>,
    /// What the guest runs; none: its own system.
    pub command: Vec<String>,
    /// Where, if not in root's home directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workdir: Option<String>,
    /// Whether it has a terminal.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub terminal: bool,
    /// `NAME=VALUE` for the command.
    pub environment: Vec<String>,
    /// Whether the directory goes when the machine ends.
    pub remove: bool,
    /// What executes the guest's instructions.
    pub engine: EngineConfig,
    /// Whether its process may do all that its user may (`--no-sandbox`).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub unconfined: bool,
    /// Made to be saved once it is ready, for others to begin as copies of it; listed nowhere.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub template: bool,
    /// Whether it takes a command; also true of a template without one.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub takes_command: bool,
    /// Of a template: whether its copies have shared directories.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub takes_shares: bool,
}

impl Config {
    /// Whether the guest boots to run one command, and not its own system.
    #[must_use]
    pub fn is_for_command(&self) -> bool {
        self.takes_command || !self.command.is_empty()
    }
}

impl Config {
    /// The words that run the command in its directory.
    pub(crate) fn words(&self) -> Vec<String> {
        const SCRIPT: &str = r#"mkdir -p "$1" && cd "$1" || exit 125; shift; unset OLDPWD; exec "$@""#;
        let Some(directory) = &self.workdir else { return self.command.clone() };
        let before = ["/bin/sh", "-c", SCRIPT, "sh", directory].map(str::to_owned);
        before.into_iter().chain(self.command.iter().cloned()).collect()
    }
}

/// What executes a guest's instructions, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// `translator`, `interpreter` or `lockstep`.
    pub engine: String,
    /// When code is translated again: `never`, `hot` or `always`.
    pub optimize: String,
    /// Where translated code is kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code_cache: Option<PathBuf>,
    /// Bytes of memory for translated code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code_memory: Option<usize>,
}

impl EngineConfig {
    /// The engine.
    pub(crate) fn kind(&self) -> EngineKind {
        match self.engine.as_str() {
            "interpreter" => EngineKind::Interpreter,
            "lockstep" => EngineKind::Lockstep,
            _ => EngineKind::Translator,
        }
    }

    /// What the translator is told; `Options` for what isn't kept.
    pub(crate) fn translator(&self, rest: Options) -> Options {
        let optimize = match self.optimize.as_str() {
            "never" => Optimize::Never,
            "always" => Optimize::Always,
            _ => Optimize::Hot,
        };
        Options { optimize, store: self.code_cache.clone(), code_memory: self.code_memory, ..rest }
    }
}

/// What a machine is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was made, and never started.
    Created,
    /// Its harts run.
    Running,
    /// Its harts are stopped.
    Paused,
    /// It has ended.
    Exited,
    /// Its process ended without the machine's having ended, or the host did.
    Crashed,
}

impl Status {
    /// As listings show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
            Self::Crashed => "crashed",
        }
    }
}

/// How a machine is (`state.json`): written by its process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of this format.
    pub format: u32,
    /// What its process has said last.
    pub status: Status,
    /// The process; 0 for none yet.
    pub pid: u32,
    /// Seconds since 1970 when it was started last; 0 for never.
    pub started: u64,
    /// Seconds since 1970 when it ended last; 0 for never.
    pub ended: u64,
    /// Its exit code, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit_code: Option<u8>,
    /// Why it couldn't go on, if it couldn't.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl State {
    /// Of a machine that has just been made.
    #[must_use]
    pub fn created() -> Self {
        Self {
            format: FORMAT,
            status: Status::Created,
            pid: 0,
            started: 0,
            ended: 0,
            exit_code: None,
            error: None,
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
