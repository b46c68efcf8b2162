//! Threads that carry out a device's requests, so that no hart waits for the host: what disks and shared directories
//! have in common.
//!
//! Requests need no order among themselves. Dropping a [`Pool`] finishes what was submitted.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{SigSet, Signal};

/// Threads of a pool: enough that one that waits for the host's disk doesn't hold up the others.
pub(crate) const THREADS: usize = 4;

/// Requests on their way to the threads, and completions on theirs back.
pub(crate) struct Requests<R, C> {
    /// Tells the home that there are completions.
    wake: Arc<dyn Fn() + Send + Sync>,
    state: Mutex<State<R, C>>,
    /// There is work, or the end.
    work: Condvar,
    /// Nothing is queued or running.
    idle: Condvar,
}

struct State<R, C> {
    queue: VecDeque<R>,
    running: usize,
    completed: VecDeque<C>,
    closing: bool,
}

impl<R, C> Requests<R, C> {
    fn state(&self) -> MutexGuard<'_, State<R, C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries requests out until the end, as one of the threads.
    pub fn serve(&self, mut perform: impl FnMut(R) -> C) {
        let mut state = self.state();
        loop {
            if let Some(request) = state.queue.pop_front() {
                state.running += 1;
                drop(state);
                let completion = perform(request);
                state = self.finish(completion);
            } else if state.closing {
                return;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Publishes a completion, wakes the home and returns with the state locked.
    fn finish(&self, completion: C) -> MutexGuard<'_, State<R, C>> {
        let mut state = self.state();
        state.completed.push_back(completion);
        // Before the wake: that waits for whoever has the device, who may be waiting for it to be idle.
        state.running -= 1;
        if state.running == 0 && state.queue.is_empty() {
            self.idle.notify_all();
        }
        drop(state);
        (self.wake)();
        self.state()
    }
}

/// The device's side of the threads.
pub(crate) struct Pool<R, C> {
    requests: Arc<Requests<R, C>>,
    threads: Vec<JoinHandle<()>>,
}

impl<R: Send + 'static, C: Send + 'static> Pool<R, C> {
    /// Threads of this name, each of which calls `body` once: it makes what a thread needs, and
    /// [serves](Requests::serve). `wake` is called from a thread whenever there are new completions to take.
    ///
    /// # Errors
    /// The host may refuse to make threads.
    pub fn start(
        name: &str,
        wake: Arc<dyn Fn() + Send + Sync>,
        body: impl Fn(&Requests<R, C>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State { queue: VecDeque::new(), running: 0, completed: VecDeque::new(), closing: false };
        let (work, idle) = (Condvar::new(), Condvar::new());
        let requests = Arc::new(Requests { wake, state: Mutex::new(state), work, idle });
        let mut pool = Self { requests, threads: Vec::new() };
        let body = Arc::new(body);
        for _ in 0..THREADS {
            let (requests, body) = (Arc::clone(&pool.requests), Arc::clone(&body));
            let run = move || {
                block_file_size_signal();
                body(&requests);
            };
            pool.threads.push(thread::Builder::new().name(name.into()).spawn(run)?);
        }
        Ok(pool)
    }
}

impl<R, C> Pool<R, C> {
    /// Hands a request to the threads.
    pub fn submit(&self, request: R) {
        self.requests.state().queue.push_back(request);
        self.requests.work.notify_one();
    }

    /// The next completion, if there is one.
    pub fn complete(&self) -> Option<C> {
        self.requests.state().completed.pop_front()
    }

    /// Waits until all that was submitted is done.
    pub fn settle(&self) {
        drop(self.settled());
    }

    /// The same, and forgets the completions.
    pub fn drain(&self) {
        self.settled().completed.clear();
    }

    /// Whether nothing is queued or running.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        let state = self.requests.state();
        state.running == 0 && state.queue.is_empty()
    }

    fn settled(&self) -> MutexGuard<'_, State<R, C>> {
        let busy = |state: &mut State<R, C>| !state.queue.is_empty() || state.running > 0;
        let state = self.requests.state();
        self.requests.idle.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R, C> Drop for Pool<R, C> {
    fn drop(&mut self) {
        self.requests.state().closing = true;
        self.requests.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was told already.
            let _ = thread.join();
        }
    }
}

/// Makes a write past the process's file size limit an error of that write; unblocked, its signal would end
/// the process.
pub(crate) fn block_file_size_signal() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    if let Err(error) = signals.thread_block() {
        log::warn!("cannot block SIGXFSZ: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_device_may_wait_for_requests_whose_wake_waits_for_the_device() {
        let device = Arc::new(Mutex::new(()));
        let woken = Arc::clone(&device);
        let wake = move || drop(woken.lock().unwrap());
        let pool =
            Pool::start("pool", Arc::new(wake), |requests| requests.serve(|number: u32| number)).unwrap();
        let has = device.lock().unwrap();
        pool.submit(1);
        pool.settle();
        assert_eq!(pool.complete(), Some(1));
        drop(has);
    }
}
