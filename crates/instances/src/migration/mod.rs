//! Live migration: a machine goes on in another process, mostly on another host, while its guest hardly notices (the
//! book, "Migration").
//!
//! `source` is the command that moves a machine; it has the machine's own process, which is confined, send what the
//! machine is (`sending`). `target` is the command that takes one over: it writes down what comes (`incoming`), starts a
//! process that stops right before the guest goes on, and lets it go on when the source says so. Between the two stand
//! messages (`wire`) on a `link`; `keys` says who is at the other end.

mod handover;
mod incoming;
mod keys;
mod link;
mod moved;
mod sending;
mod source;
mod target;
mod wire;

pub use incoming::check_stream;
pub use keys::{Identity, Trust};
pub use link::Address;
pub use source::{Amounts, MigrateOptions, Report, migrate};
pub use target::{Announced, ReceiveOptions, receive};

pub(crate) use sending::send;
pub(crate) use wire::read as read_message;

use std::time::Duration;

/// How long the other side may say nothing, or take nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to make durable what it was sent, while the guest goes on.
const WRITING: Duration = Duration::from_secs(600);
/// How long a target may take to make ready, while the guest stands still.
const READYING: Duration = Duration::from_secs(30);
/// How long a source asks what has become of a machine that it has handed over.
const DOUBT: Duration = Duration::from_secs(30);
/// How long a target keeps a machine that is ready for a source that doesn't come: longer than that source asks.
const HOLD: Duration = Duration::from_secs(60);
