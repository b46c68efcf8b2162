//! A back end for shared files without a home: it notes what it is asked, and answers with what the test gives it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use rvisor_waist::{FileShareBackend, ShareCall, ShareCompletion, ShareError, ShareReply, ShareRequest};
use spin::Mutex;

/// What a [`TestShare`] was asked and what it answers.
#[derive(Default)]
pub struct ShareState {
    /// Requests, in order.
    pub calls: Vec<ShareCall>,
    /// Answers to come, in order; then [`ShareReply::Done`].
    pub answers: VecDeque<Result<ShareReply, ShareError>>,
    /// Whether requests wait for [`TestShare::finish`] instead of being answered at once.
    pub manual: bool,
    /// Whether fids are held.
    pub is_in_use: bool,
    waiting: VecDeque<u64>,
    finished: VecDeque<ShareCompletion>,
}

/// A back end; clones are the same one.
#[derive(Clone, Default)]
pub struct TestShare {
    /// Its state.
    pub state: Arc<Mutex<ShareState>>,
}

impl ShareState {
    fn answer(&mut self, id: u64) {
        let result = self.answers.pop_front().unwrap_or(Ok(ShareReply::Done));
        self.finished.push_back(ShareCompletion { id, result });
    }
}

impl TestShare {
    /// Answers the request that waits longest.
    pub fn finish(&self) {
        let mut state = self.state.lock();
        if let Some(id) = state.waiting.pop_front() {
            state.answer(id);
        }
    }
}

impl FileShareBackend for TestShare {
    fn tag(&self) -> &str {
        "files"
    }

    fn submit(&mut self, request: ShareRequest) {
        let mut state = self.state.lock();
        state.calls.push(request.call);
        if state.manual {
            state.waiting.push_back(request.id);
        } else {
            state.answer(request.id);
        }
    }

    fn complete(&mut self) -> Option<ShareCompletion> {
        self.state.lock().finished.pop_front()
    }

    fn drain(&mut self) {
        let mut state = self.state.lock();
        state.waiting.clear();
        state.finished.clear();
    }

    fn is_in_use(&self) -> bool {
        self.state.lock().is_in_use
    }
}
