//! The connection between source and target: TLS over TCP, or a Unix socket, which only its owner can use.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::PATIENCE;
use super::keys::{Identity, fingerprint};
use super::wire::{self, Message};
use crate::error::{Context, Error, Result};

/// Where a target listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("a path has to stand behind unix:".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => {
                let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
                match port.and_then(|port| port.parse::<u16>().ok()) {
                    Some(_) => Ok(Self::Tcp(text.to_owned())),
                    None => Err(format!("{text:?} is no address; write HOST:PORT or unix:PATH")),
                }
            }
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        // Zero would be none at all.
        let limit = Some(limit.max(Duration::from_millis(1)));
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit))
            }
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connection.
pub(super) struct Link {
    stream: Box<dyn Duplex>,
    socket: Socket,
    /// Fingerprint of the other side's key, where there is one.
    pub key: Option<String>,
    /// The other side's address, for people.
    pub peer: String,
}

fn key_of(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<Option<String>> {
    let first = certificates.and_then(|certificates| certificates.first());
    first.map(|first| Some(fingerprint(first))).ok_or_else(|| io::Error::other("it shows no key"))
}

impl Link {
    /// Connects to a target.
    pub fn connect(address: &Address, identity: &Identity) -> Result<Self> {
        let failed = |error: io::Error| {
            let told = match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => "nobody listens there".into(),
                _ => error.to_string(),
            };
            Error::Refused(format!("can't connect to {address} ({told}); is `rvisor receive` running there?"))
        };
        match address {
            Address::Tcp(text) => {
                let config = identity.client()?;
                let link = connect_tcp(text).and_then(|tcp| {
                    let socket = Socket::Tcp(tcp.try_clone()?);
                    socket.set_timeout(PATIENCE)?;
                    let name = ServerName::try_from("rvisor").map_err(io::Error::other)?;
                    let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
                    let mut stream = StreamOwned::new(tls, tcp);
                    stream.conn.complete_io(&mut stream.sock)?;
                    let key = key_of(stream.conn.peer_certificates())?;
                    Ok(Self { stream: Box::new(stream), socket, key, peer: text.clone() })
                });
                link.map_err(failed)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                Self::unix(stream, address.to_string()).map_err(failed)
            }
        }
    }

    fn unix(stream: UnixStream, peer: String) -> io::Result<Self> {
        let socket = Socket::Unix(stream.try_clone()?);
        socket.set_timeout(PATIENCE)?;
        Ok(Self { stream: Box::new(stream), socket, key: None, peer })
    }

    /// Sends a message; returns how many bytes that were.
    pub fn send(&mut self, message: &Message) -> io::Result<u64> {
        let (kind, payload) = message.encode();
        self.send_raw(kind, &payload)
    }

    /// The same, as it is.
    pub fn send_raw(&mut self, kind: u8, payload: &[u8]) -> io::Result<u64> {
        let sent = wire::write(kind, payload, &mut self.stream)?;
        self.stream.flush()?;
        Ok(sent)
    }

    /// Whether something has come, or the connection has ended.
    pub fn is_readable(&self) -> bool {
        is_ready(self.socket.as_fd(), Duration::ZERO)
    }

    /// Receives a message.
    pub fn receive(&mut self) -> io::Result<Message> {
        Message::read_from(&mut self.stream).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "it says nothing for too long")
            }
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::UnexpectedEof, "it has gone"),
            _ => error,
        })
    }

    /// The same; the other side may take so long.
    pub fn receive_within(&mut self, limit: Duration) -> io::Result<Message> {
        self.socket.set_timeout(limit)?;
        let received = self.receive();
        self.socket.set_timeout(PATIENCE)?;
        received
    }

    /// Tells why it can't be, and waits until the other side has had time to hear it: what it sends meanwhile would
    /// otherwise have the host throw that away.
    pub fn fail(mut self, reason: &str) {
        const FAREWELL: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + FAREWELL;
        let mut buffer = vec![0; 1 << 16];
        let sent =
            self.send(&Message::Failed(reason.to_owned())).and_then(|_| self.socket.set_timeout(FAREWELL));
        while sent.is_ok() && Instant::now() < deadline && matches!(self.stream.read(&mut buffer), Ok(1..)) {}
    }
}

fn connect_tcp(text: &str) -> io::Result<TcpStream> {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in text.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn is_ready(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let time = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0)
}

enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Where sources connect to. The file of a Unix socket goes when this is dropped.
pub(super) struct Listener {
    socket: Socketed,
    /// With the port that the host has chosen if it was to.
    pub address: Address,
}

impl Listener {
    /// Listens.
    pub fn open(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(text) => {
                let told = |error: io::Error| {
                    Error::Refused(format!("can't listen on {text}: {error}; choose another --listen"))
                };
                let listener = TcpListener::bind(text).map_err(told)?;
                let address = Address::Tcp(listener.local_addr().map_err(told)?.to_string());
                Ok(Self { socket: Socketed::Tcp(listener), address })
            }
            Address::Unix(path) => {
                // Only its owner may connect, from the first moment on.
                let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
                let bound = UnixListener::bind(path);
                rustix::process::umask(mask);
                let path = std::path::absolute(path).context("find", path)?;
                let listener = bound.context("listen on", &path)?;
                Ok(Self { socket: Socketed::Unix(listener, path), address: address.clone() })
            }
        }
    }

    /// The next connection, with whoever it may be; an error says why it came to nothing. `None` after that time.
    pub fn accept(&self, identity: &Identity, limit: Duration) -> Option<Result<Link>> {
        let fd = match &self.socket {
            Socketed::Tcp(listener) => listener.as_fd(),
            Socketed::Unix(listener, _) => listener.as_fd(),
        };
        is_ready(fd, limit).then(|| self.take(identity))
    }

    fn take(&self, identity: &Identity) -> Result<Link> {
        /// A stranger may not hold up those who come behind him.
        const HANDSHAKE: Duration = Duration::from_secs(5);
        let told = |error: io::Error| Error::Refused(format!("a connection came to nothing: {error}"));
        match &self.socket {
            Socketed::Unix(listener, _) => {
                let (stream, _) = listener.accept().map_err(told)?;
                Link::unix(stream, self.address.to_string()).map_err(told)
            }
            Socketed::Tcp(listener) => {
                let (tcp, peer) = listener.accept().map_err(told)?;
                let config = identity.server()?;
                let shake = || {
                    tcp.set_nodelay(true)?;
                    let socket = Socket::Tcp(tcp.try_clone()?);
                    socket.set_timeout(HANDSHAKE)?;
                    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
                    let mut stream = StreamOwned::new(tls, tcp);
                    stream.conn.complete_io(&mut stream.sock)?;
                    let key = key_of(stream.conn.peer_certificates())?;
                    socket.set_timeout(PATIENCE)?;
                    Ok(Link { stream: Box::new(stream), socket, key, peer: peer.to_string() })
                };
                shake().map_err(told)
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socketed::Unix(_, path) = &self.socket {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["localhost:1", "[::1]:7070", "unix:/tmp/x"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "host", "host:", "host:99999", ":1", "unix:"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn both_ends_know_each_other_by_their_keys() {
        let stores = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [source, target] = [0, 1].map(|i| Identity::open(stores[i].path()).unwrap());
        let keys = [source.fingerprint(), target.fingerprint()];
        let listener = Listener::open(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address.clone();
        let client = thread::spawn(move || {
            let mut link = Link::connect(&address, &source).unwrap();
            link.send(&Message::Ask([3; 16])).unwrap();
            (link.key.clone(), link.receive().unwrap())
        });
        let mut link = listener.accept(&target, PATIENCE).unwrap().unwrap();
        assert_eq!(link.key.as_ref(), Some(&keys[0]));
        assert_eq!(link.receive().unwrap(), Message::Ask([3; 16]));
        link.fail("no");
        assert_eq!(client.join().unwrap(), (Some(keys[1].clone()), Message::Failed("no".into())));
    }

    #[test]
    fn strangers_come_to_nothing() {
        let store = tempfile::tempdir().unwrap();
        let identity = Identity::open(store.path()).unwrap();
        let listener = Listener::open(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let Address::Tcp(address) = &listener.address else { unreachable!() };
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(listener.accept(&identity, PATIENCE).unwrap().is_err());
        assert!(listener.accept(&identity, Duration::from_millis(1)).is_none());
    }
}
