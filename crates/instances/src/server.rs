//! A machine's end of its control socket: a thread that listens, and one for each connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::agent::{Channel, ExecRequest};
use crate::directory::Directory;
use crate::error::{Context, Result};
use crate::link::FramedLink;
use crate::process::Control;
use crate::protocol::{Ended, Envelope, Frame, Reply, Request, TraceRequest, VERSION, read_line, write_line};

/// Connections at a time.
const CONNECTIONS: usize = 128;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens on the socket in `directory`, whose lock is held.
pub(crate) fn listen(directory: &Directory) -> Result<UnixListener> {
    let path = directory.socket();
    // What a process that was killed has left: its lock is ours.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).context("listen on", &path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).context("listen on", &path)?;
    Ok(listener)
}

/// Serves clients on threads until the process ends. Returns the number of clients that are being served.
pub(crate) fn serve(listener: UnixListener, control: &Arc<Control>) -> io::Result<Arc<AtomicUsize>> {
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, control) = (Arc::clone(&connections), Arc::clone(control));
    thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // No descriptors are left; there may be some later.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if count.load(Ordering::SeqCst) >= CONNECTIONS {
                continue;
            }
            let guard = Served::new(&count);
            let control = Arc::clone(&control);
            let thread = thread::Builder::new().name("client".into());
            let spawned = thread.spawn(move || {
                let _guard = guard;
                if let Err(error) = answer(stream, &control) {
                    log::debug!("a client has gone: {error}");
                }
            });
            if let Err(error) = spawned {
                log::warn!("a client can't be served: {error}");
            }
        }
    })?;
    Ok(connections)
}

/// Counts a client as long as it lives.
struct Served(Arc<AtomicUsize>);

impl Served {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Serialize)]
struct Answer<T> {
    version: u32,
    reply: Reply<T>,
}

fn reply<T: Serialize>(stream: &mut UnixStream, result: Result<T, String>) -> io::Result<()> {
    let reply = match result {
        Ok(value) => Reply::Ok(value),
        Err(text) => Reply::Error(text),
    };
    write_line(stream, &Answer { version: VERSION, reply })
}

fn answer(mut stream: UnixStream, control: &Control) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let line = read_line(&mut stream)?;
    stream.set_read_timeout(None)?;
    let request = match serde_json::from_slice(&line) {
        Ok(Envelope { version: VERSION, request }) => request,
        Ok(Envelope { version, .. }) => {
            let text =
                format!("this machine's process speaks version {VERSION} of the protocol, not {version}");
            return reply::<()>(&mut stream, Err(text));
        }
        Err(error) => return reply::<()>(&mut stream, Err(format!("the request makes no sense: {error}"))),
    };
    let ended = |exit_code| Ok(Ended { exit_code });
    match request {
        Request::Inspect => reply(&mut stream, Ok(control.live())),
        Request::Stats => reply(&mut stream, Ok(control.stats())),
        Request::Stop { seconds } => {
            let patience = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            reply(&mut stream, ended(control.stop(patience)))
        }
        Request::Kill => reply(&mut stream, ended(control.kill())),
        Request::PowerOff => reply(&mut stream, control.power_off()),
        Request::Wait => reply(&mut stream, ended(control.wait())),
        Request::Pause => reply(&mut stream, control.pause()),
        Request::Resume => reply(&mut stream, control.resume()),
        Request::Ports => reply(&mut stream, control.ports()),
        Request::AddPort(port) => reply(&mut stream, control.add_port(&port)),
        Request::RemovePort(port) => reply(&mut stream, control.remove_port(&port)),
        Request::Save => crate::saving::save(control, stream),
        Request::Migrate => crate::migration::send(control, stream),
        Request::Attach => attach(stream, control),
        Request::Debug => debug(stream, control),
        Request::Trace(request) => trace(stream, control, &request),
        Request::Exec(request) => exec(stream, control, &request),
    }
}

fn attach(mut stream: UnixStream, control: &Control) -> io::Result<()> {
    let listener = control.console().listen();
    reply(&mut stream, Ok(()))?;
    let mut input = stream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(Some(frame)) = Frame::read_from(&mut input) {
                if let Frame::Input(bytes) = frame {
                    control.type_in(&bytes);
                }
            }
            listener.close();
        });
        while let Some(frame) = listener.receive() {
            if frame.write_to(&mut stream).is_err() {
                break;
            }
        }
        listener.close();
        stream.shutdown(std::net::Shutdown::Both)
    })
}

fn trace(mut stream: UnixStream, control: &Control, request: &TraceRequest) -> io::Result<()> {
    let recording = match control.trace(request) {
        Ok(recording) => recording,
        Err(text) => return reply::<()>(&mut stream, Err(text)),
    };
    reply(&mut stream, Ok(()))?;
    recording.serve(stream)
}

fn debug(mut stream: UnixStream, control: &Control) -> io::Result<()> {
    let session = match control.debug() {
        Ok(session) => session,
        Err(text) => return reply::<()>(&mut stream, Err(text)),
    };
    reply(&mut stream, Ok(()))?;
    session.serve(&mut FramedLink(stream)).map_err(io::Error::other)
}

fn exec(mut stream: UnixStream, control: &Control, request: &ExecRequest) -> io::Result<()> {
    let channel = match control.exec(request) {
        Ok(channel) => channel,
        Err(text) => return reply::<()>(&mut stream, Err(text)),
    };
    if request.detach {
        return detach(stream, channel);
    }
    reply(&mut stream, Ok(()))?;
    let mut input = stream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(Some(frame)) = Frame::read_from(&mut input) {
                if !channel.send(&frame) {
                    break;
                }
            }
            // The client has gone, and the command goes with it; or the command has ended.
            channel.close();
        });
        while let Some(frame) = channel.receive() {
            if frame.write_to(&mut stream).is_err() {
                break;
            }
            if let Frame::Stdout(bytes) | Frame::Stderr(bytes) = &frame {
                channel.credit(bytes.len());
            }
        }
        channel.close();
        stream.shutdown(std::net::Shutdown::Both)
    })
}

/// Lets a command run to its end; what it says goes nowhere. The client is told how it began.
fn detach(mut stream: UnixStream, channel: Channel) -> io::Result<()> {
    channel.send(&Frame::InputEnd);
    let mut first = channel.receive();
    if let Some(Frame::Started) = first {
        reply(&mut stream, Ok(()))?;
        Frame::Started.write_to(&mut stream)?;
        drop(stream);
        channel.leave();
        return Ok(());
    }
    // It couldn't be run, or the guest ended.
    reply(&mut stream, Ok(()))?;
    while let Some(frame) = first {
        frame.write_to(&mut stream)?;
        first = channel.receive();
    }
    Ok(())
}
