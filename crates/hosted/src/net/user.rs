//! The back end that the device talks to.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rvisor_waist::NetBackend;

use super::engine::Engine;
use super::ports::Ports;
use super::queue::Queues;
use super::{NetError, NetOptions};
use crate::counters::Transfers;

/// A network on the host's sockets. Dropping it ends its thread and all its connections.
pub struct UserNetwork {
    queues: Arc<Queues>,
    counters: Arc<Transfers>,
    ports: Ports,
    /// Whether no other machine's frames come here, and none go there.
    is_local: bool,
    thread: Option<JoinHandle<()>>,
}

impl UserNetwork {
    /// Makes the network and starts its thread. `wake` is called from that thread whenever there are new
    /// frames for the guest.
    pub fn new(options: &NetOptions, wake: Arc<dyn Fn() + Send + Sync>) -> Result<Self, NetError> {
        let queues = Arc::new(Queues::new()?);
        let engine = Engine::new(options, Arc::clone(&queues), wake)?;
        let ports = engine.ports();
        let thread = thread::Builder::new().name("network".into()).spawn(move || serve(engine))?;
        let is_local = options.member.is_none();
        Ok(Self { queues, counters: Arc::default(), ports, is_local, thread: Some(thread) })
    }

    /// Its forwards, which may come and go.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports.clone()
    }

    /// What the guest has sent and received.
    #[must_use]
    pub fn counters(&self) -> Arc<Transfers> {
        Arc::clone(&self.counters)
    }
}

fn serve(engine: Engine) {
    let ended: io::Result<()> = engine.run();
    if let Err(error) = ended {
        log::error!("the network has stopped: {error}");
    }
}

impl NetBackend for UserNetwork {
    fn send(&mut self, frame: &[u8]) {
        self.counters.outgoing.count(frame.len() as u64);
        self.queues.send(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let received = self.queues.receive(frame);
        if received {
            self.counters.incoming.count(frame.len() as u64);
        }
        received
    }

    fn is_local(&self) -> bool {
        self.is_local
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        self.queues.close();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic handler; there is nothing to add.
            let _ = thread.join();
        }
    }
}
