//! What can go wrong, each in one line that says what to do where something can be done.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the host could not be used.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// A verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// No mirror was given and none could be found.
    #[error(
        "no Debian mirror is known: name one with --mirror URL or in the environment variable {}",
        crate::archive::MIRROR_VARIABLE
    )]
    NoMirror,
    /// A download failed for good.
    #[error("can't download {url}: {reason}")]
    Download {
        /// What was asked for.
        url: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// The bytes are not those that the signed index promises.
    #[error("{url} is refused: {reason}; try again later or choose another mirror with --mirror URL")]
    WrongContent {
        /// Where it came from.
        url: String,
        /// Which check failed.
        reason: String,
    },
    /// The archive's index isn't signed by a key that is trusted.
    #[error("the archive {url} is refused: {reason}")]
    Untrusted {
        /// The signed file.
        url: String,
        /// Why.
        reason: String,
    },
    /// A file doesn't have the format it should.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The wanted packages can't be installed together.
    #[error("can't resolve the packages: {0}")]
    Unresolvable(String),
    /// A recipe asks for something impossible.
    #[error("recipe {name}: {reason}")]
    Recipe {
        /// The recipe's name or file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image isn't in the store.
    #[error(
        "there is no image {0}: get it with `rvisor pull {0}` or list what there is with `rvisor images`"
    )]
    NoImage(String),
    /// A name that can't be an image's.
    #[error(
        "{0:?} isn't an image name: use lowercase letters, digits, '.', '_' and '-', as in debian or debian:trixie"
    )]
    BadName(String),
    /// The builder VM failed.
    #[error("building {image} failed: {reason}")]
    Build {
        /// The image.
        image: String,
        /// What the guest said last.
        reason: String,
    },
}

/// The result of an operation of the image store.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Malformed`].
    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Malformed { what: what.into(), reason: reason.to_string() }
    }
}

/// Names the file and the action in an I/O error.
pub(crate) trait IoContext<T> {
    /// Turns the error into [`Error::Io`].
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
