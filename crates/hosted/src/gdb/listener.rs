//! Where gdb can connect to a machine of this process.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use super::session::{GdbSession, Link};
use crate::machine::MachineError;

/// An address to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GdbAddress {
    /// TCP; without an address, the loopback's: who reaches it controls the guest.
    Tcp(SocketAddr),
    /// A unix-domain socket of this user's.
    Unix(PathBuf),
}

impl FromStr for GdbAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.contains('/').then_some(text)) {
            return Ok(Self::Unix(path.into()));
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if let Ok(port) = port.parse::<u16>() {
            return Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("{text:?} is nowhere to listen; write a PORT, ADDRESS:PORT with a numeric address, or unix:PATH")
        })
    }
}

impl fmt::Display for GdbAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes a socket's file in the end.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A place where gdb may connect, one at a time.
pub struct GdbListener {
    listener: Listener,
    file: Option<SocketFile>,
}

/// A listener at work. The file of its socket is removed when this is dropped.
#[derive(Debug)]
pub struct Listening {
    _file: Option<SocketFile>,
}

impl GdbListener {
    /// Listens.
    ///
    /// # Errors
    /// If the host refuses the address.
    pub fn bind(address: &GdbAddress) -> io::Result<Self> {
        let listener = match address {
            GdbAddress::Tcp(address) => Listener::Tcp(TcpListener::bind(address)?),
            GdbAddress::Unix(path) => {
                remove_stale(path);
                let listener = UnixListener::bind(path)?;
                let file = SocketFile(path.clone());
                std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
                return Ok(Self { listener: Listener::Unix(listener), file: Some(file) });
            }
        };
        Ok(Self { listener, file: None })
    }

    /// Where it listens, with the port that the host chose if it was to.
    ///
    /// # Errors
    /// If the host doesn't say.
    pub fn address(&self) -> io::Result<GdbAddress> {
        Ok(match (&self.listener, &self.file) {
            (Listener::Tcp(listener), _) => GdbAddress::Tcp(listener.local_addr()?),
            (Listener::Unix(_), Some(SocketFile(path))) => GdbAddress::Unix(path.clone()),
            (Listener::Unix(_), None) => return Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn accept(&self) -> io::Result<Box<dyn Link>> {
        Ok(match &self.listener {
            Listener::Tcp(listener) => Box::new(listener.accept()?.0),
            Listener::Unix(listener) => Box::new(listener.accept()?.0),
        })
    }

    /// Serves one gdb after the other on a thread of its own, until the process ends; `attach` is
    /// called for each.
    ///
    /// # Errors
    /// If the host has no thread left.
    pub fn start(
        mut self,
        attach: impl Fn() -> Result<GdbSession, MachineError> + Send + 'static,
    ) -> io::Result<Listening> {
        let file = self.file.take();
        let serve = move |link: &mut dyn Link| match attach() {
            Ok(session) => session.serve(link),
            Err(error) => {
                link.close();
                Err(error.to_string())
            }
        };
        thread::Builder::new().name("gdb".into()).spawn(move || {
            loop {
                match self.accept() {
                    Ok(mut link) => {
                        if let Err(error) = serve(&mut *link) {
                            log::warn!("gdb: {error}");
                        }
                    }
                    // No descriptors are left; there may be some later.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        })?;
        Ok(Listening { _file: file })
    }
}

/// Removes a socket that nobody listens on any more: a confined process can't remove its own.
fn remove_stale(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refuses) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_loopback_is_the_default() {
        let read = |text: &str| text.parse::<GdbAddress>();
        assert_eq!(read("1234").unwrap().to_string(), "127.0.0.1:1234");
        assert_eq!(read(":0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(read("[::1]:7").unwrap().to_string(), "[::1]:7");
        assert_eq!(read("unix:a").unwrap(), GdbAddress::Unix("a".into()));
        assert_eq!(read("/tmp/a").unwrap(), GdbAddress::Unix("/tmp/a".into()));
        for wrong in ["", "host:1", "70000", "-1"] {
            assert!(read(wrong).unwrap_err().contains("PORT"), "{wrong}");
        }
    }

    #[test]
    fn socket_is_the_users_and_goes_with_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb");
        let listener = GdbListener::bind(&GdbAddress::Unix(path.clone())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
        // One that a process which is gone has left is replaced; a file, or a socket in use, isn't.
        drop(UnixListener::bind(&path).unwrap());
        let listener = GdbListener::bind(&GdbAddress::Unix(path.clone())).unwrap();
        assert!(GdbListener::bind(&GdbAddress::Unix(path.clone())).is_err());
        drop(listener);
        std::fs::write(&path, "kept").unwrap();
        assert!(GdbListener::bind(&GdbAddress::Unix(path.clone())).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
    }
}
