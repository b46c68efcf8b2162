//! Directories of the host that a guest may use, behind the 9P front end.
//!
//! Key types: [`ShareOptions`] (what is shared, as users write it), [`Shares`] (served on threads of its own).
//!
//! # What keeps a guest inside
//! A fid holds a descriptor of a file (`O_PATH`), never a path. The only step is from a directory to one of its
//! entries, by a name without a slash that isn't `..`, and without following a link; so every file that is reached was
//! an entry of a directory that was reached. `..` is answered only if the way up from there leads to the shared
//! directory again. Links are the guest's own business: it reads where they lead and walks there itself. Only regular
//! files and directories are ever opened, through the descriptor that was looked at, so that nothing can take their
//! place in between. See the decision record 0013.

mod directory;
mod fid;
mod file;
mod lock;
mod options;
mod server;
mod tree;
mod worker;

pub(crate) use fid::DESCRIPTORS;
pub use options::{ShareOptions, WrongShare};
pub use tree::ShareError;
pub use worker::Shares;

#[cfg(test)]
mod tests;
