//! Where each hart's thread looks between two slices whether somebody wants to see or hold its hart.
//!
//! A hart's state belongs to its thread, so whoever wants to see it hands the thread a job. [`PauseGate`] stops a
//! machine as a whole; here harts are held one by one, as a debugger needs it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rvisor_machine::{DebugStop, VirtualHart};

use crate::pause::PauseGate;
use crate::runner::HostedVm;

/// How long a hart's thread may take to do a job: slices are much shorter.
const PATIENCE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut VirtualHart, &HostedVm) + Send>;
type Sink = Box<dyn Fn(usize, DebugStop) + Send>;

/// One hart's.
#[derive(Default)]
struct Post {
    held: AtomicBool,
    stands: AtomicBool,
    jobs: Mutex<VecDeque<Job>>,
}

/// All harts'.
pub(crate) struct DebugGate {
    posts: Vec<Post>,
    /// Whether there may be anything to do: the one look that a machine pays for that nobody looks into.
    active: AtomicBool,
    sink: Mutex<Option<Sink>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DebugGate {
    pub fn new(harts: usize) -> Self {
        Self {
            posts: (0..harts).map(|_| Post::default()).collect(),
            active: AtomicBool::new(false),
            sink: Mutex::default(),
        }
    }

    /// Called by a hart's thread between two slices: does the jobs, and returns once the hart isn't held. A machine
    /// that is to end isn't waited for.
    #[inline]
    pub fn pass(&self, vm: &HostedVm, hart: &mut VirtualHart, pause: &PauseGate) {
        if self.active.load(Ordering::SeqCst) {
            self.stand(vm, hart, pause);
        }
    }

    #[cold]
    fn stand(&self, vm: &HostedVm, hart: &mut VirtualHart, pause: &PauseGate) {
        let post = &self.posts[hart.index()];
        loop {
            while let Some(job) = { lock(&post.jobs).pop_front() } {
                job(hart, vm);
            }
            if !post.held.load(Ordering::SeqCst) || vm.power_requested().is_some() {
                break;
            }
            post.stands.store(true, Ordering::SeqCst);
            // Whoever pauses the machine waits for this hart too.
            pause.pass(vm, hart);
            // A hold, or a job, that comes now leaves its token.
            if lock(&post.jobs).is_empty() && post.held.load(Ordering::SeqCst) {
                thread::park();
            }
        }
        post.stands.store(false, Ordering::SeqCst);
    }

    /// A hart has stopped for its debugger: so do all others.
    #[cold]
    pub fn stopped(&self, vm: &HostedVm, index: usize, stop: DebugStop) {
        let sink = lock(&self.sink);
        // Without a debugger nobody would let them go on.
        let Some(sink) = &*sink else { return };
        self.hold(vm);
        sink(index, stop);
    }

    /// Waits a moment for whoever hears: the machine has ended, and he may want to tell.
    pub fn bid_farewell(&self) {
        const FAREWELL: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + FAREWELL;
        while lock(&self.sink).is_some() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells who hears when harts stop. False if there is somebody already.
    pub fn connect(&self, sink: Sink) -> bool {
        let mut current = lock(&self.sink);
        if current.is_some() {
            return false;
        }
        *current = Some(sink);
        true
    }

    /// Whether somebody hears.
    pub fn is_connected(&self) -> bool {
        lock(&self.sink).is_some()
    }

    /// Nobody hears any more, and nothing is held.
    pub fn disconnect(&self, vm: &HostedVm) {
        lock(&self.sink).take();
        self.release(vm, |_| true);
    }

    /// Holds all harts as soon as they come by.
    pub fn hold(&self, vm: &HostedVm) {
        self.posts.iter().for_each(|post| post.held.store(true, Ordering::SeqCst));
        self.active.store(true, Ordering::SeqCst);
        vm.harts().iter().for_each(|hart| hart.kick());
    }

    /// Waits until all harts stand here. False if they don't come, because the machine ends or is paused.
    pub fn wait(&self, vm: &HostedVm) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.posts.iter().all(|post| post.stands.load(Ordering::SeqCst)) {
            if Instant::now() > deadline {
                return false;
            }
            vm.harts().iter().for_each(|hart| hart.kick());
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Lets those harts go on that `which` names by their index.
    pub fn release(&self, vm: &HostedVm, which: impl Fn(usize) -> bool) {
        for (index, post) in self.posts.iter().enumerate().filter(|&(index, _)| which(index)) {
            post.stands.store(false, Ordering::SeqCst);
            post.held.store(false, Ordering::SeqCst);
            vm.harts()[index].kick();
        }
    }

    /// The same, without waiting for it. `None` if there is no such hart.
    pub fn send(
        &self,
        vm: &HostedVm,
        index: usize,
        job: impl FnOnce(&mut VirtualHart, &HostedVm) + Send + 'static,
    ) -> Option<()> {
        lock(&self.posts.get(index)?.jobs).push_back(Box::new(job));
        self.active.store(true, Ordering::SeqCst);
        vm.harts()[index].kick();
        Some(())
    }

    /// Has a hart's thread do something with its hart, whether it is held or not. `None` if it doesn't come by.
    pub fn visit<T: Send + 'static>(
        &self,
        vm: &HostedVm,
        index: usize,
        job: impl FnOnce(&mut VirtualHart, &HostedVm) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = channel();
        self.send(vm, index, move |hart, vm| {
            let _ = sender.send(job(hart, vm));
        })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            vm.harts()[index].kick();
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => return None,
            }
        }
    }
}
