//! Machines on this host: one process each, a directory each, and a socket in it that every command uses.
//!
//! Key types: [`Machines`] (all of them), [`Directory`] (one, on disk), [`VmProcess`] (one, running in this process),
//! [`Client`] (one, running in another process), [`AgentLink`] (commands in a guest).
//!
//! There is no central process. What is true of a machine follows from its directory and from a lock that its
//! process holds; the book describes both in "Machines". This crate is not for parsing command lines.
#![forbid(unsafe_code)]

mod agent;
mod archive;
mod boot_files;
mod client;
mod command;
mod config;
mod confinement;
mod console;
mod copies;
mod daemon;
mod directory;
mod drive;
mod error;
mod events;
mod exec_command;
mod export;
mod file_copy;
mod identity;
mod link;
mod log_file;
pub mod migration;
mod moving;
mod networks;
mod packed;
mod process;
mod protocol;
mod ready;
mod saved;
mod saving;
mod server;
mod settle;
mod snapshot;
mod terminal;
mod trace;
mod usage;

pub use agent::{AgentLink, ExecRequest};
pub use archive::{copy_from_guest, copy_to_guest, pack_from_guest, take_archive, unpack_to_guest};
pub use client::{Client, Session};
pub use command::check_control;
pub use config::{Config, EngineConfig, Paging, State, Status};
pub use daemon::{Arrival, GO, PREPARED, READY, start_arriving, start_detached};
pub use directory::{Directory, Listed, Lock, Machines, check_name};
pub use drive::{Drive, Outcome};
pub use error::{Error, Result};
pub use events::{Event, EventReader, Events};
pub use export::{export, import};
pub use log_file::{LogReader, Record, Source};
pub use moving::{Arriving, Leaving, arrive};
pub use networks::{ListedMember, ListedNetwork, Networks};
pub use process::{End, Front, VmProcess};
pub use protocol::{Frame, HartStats, Live, Stats, TraceRequest, Transfer, VERSION};
pub use ready::ReadyPoint;
pub use snapshot::SnapshotInfo;

/// The in-guest agent, an ELF file for RISC-V Linux.
const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
