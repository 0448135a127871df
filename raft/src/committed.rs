//! What is committed as of now: one question to the engine on its way, and everyone who waits shares the next.
//!
//! Whoever refuses must know what was committed when it was asked, see `agora-actors`. The engine answers through its own
//! queue, behind everything it has to do, so a question for every refusal would cost most where refusals are most: in a rush
//! for what is sold out. An answer is good for whoever waited before its question was put; what comes in meanwhile waits
//! for the next one, since it may have seen what that answer does not know.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::counters::Counters;

/// Who may wait for one answer. What is admitted is bounded far below.
const WAITING_MAX: usize = 100_000;

/// Shared by all who ask.
pub(crate) struct CommittedIndex {
    /// `None` when nobody asks any more.
    waiting: Mutex<Option<Vec<oneshot::Sender<Option<u64>>>>>,
    bell: Notify,
    counters: Arc<Counters>,
}

impl CommittedIndex {
    pub(crate) fn new(counters: Arc<Counters>) -> CommittedIndex {
        CommittedIndex { waiting: Mutex::new(Some(Vec::new())), bell: Notify::new(), counters }
    }

    /// An index that was committed at some moment after this call. `None` when nobody answers any more, or too many wait.
    pub(crate) async fn index(&self) -> Option<u64> {
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            let waiting = waiting.as_mut()?;
            if waiting.len() >= WAITING_MAX {
                // Whoever gave up while the engine did not answer.
                waiting.retain(|one| !one.is_closed());
                if waiting.len() >= WAITING_MAX {
                    return None;
                }
            }
            waiting.push(answer);
        }
        self.bell.notify_one();
        receiver.await.unwrap_or(None)
    }

    /// Asks again and again, as long as someone waits. `ask` answers with what is committed as of the moment it is called,
    /// or later.
    pub(crate) async fn run<F: Future<Output = Option<u64>>>(self: Arc<Self>, ask: impl Fn() -> F) {
        let _closing = Closing(&self);
        loop {
            self.bell.notified().await;
            loop {
                let waiting = self.waiting.lock().as_mut().map(std::mem::take).unwrap_or_default();
                if waiting.is_empty() {
                    break;
                }
                self.counters.committed_questions.one();
                self.counters.committed_answers.add(waiting.len() as u64);
                let index = ask().await;
                for one in waiting {
                    // Whoever gave up waiting does not need it.
                    let _ = one.send(index);
                }
            }
        }
    }
}

/// Lets everyone go when the task that asks ends.
struct Closing<'a>(&'a CommittedIndex);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_waits_shares_the_next_question_and_never_the_one_under_way() {
        let counters = Arc::new(Counters::default());
        let committed = Arc::new(CommittedIndex::new(counters.clone()));
        let log_end = Arc::new(AtomicU64::new(1));
        let gate = Arc::new(Semaphore::new(0));
        // What is committed is looked at when the question is put; the answer takes its time.
        let ask = {
            let (log_end, gate) = (log_end.clone(), gate.clone());
            move || {
                let (index, gate) = (log_end.load(Ordering::SeqCst), gate.clone());
                async move {
                    gate.acquire().await.unwrap().forget();
                    Some(index)
                }
            }
        };
        let run = tokio::spawn(committed.clone().run(ask));
        let mut first: Vec<_> = (0..50).map(|_| Box::pin(committed.index())).collect();
        for one in &mut first {
            assert!(one.now_or_never().is_none());
        }
        while counters.committed_questions.get() == 0 {
            tokio::task::yield_now().await;
        }
        log_end.store(2, Ordering::SeqCst);
        let mut late: Vec<_> = (0..50).map(|_| Box::pin(committed.index())).collect();
        for one in &mut late {
            assert!(one.now_or_never().is_none());
        }
        gate.add_permits(1);
        for one in first {
            assert_eq!(one.await, Some(1));
        }
        gate.add_permits(1);
        for one in late {
            assert_eq!(one.await, Some(2), "an answer from before it asked");
        }
        assert_eq!((counters.committed_questions.get(), counters.committed_answers.get()), (2, 100));
        run.abort();
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_when_the_node_ends() {
        let committed = Arc::new(CommittedIndex::new(Arc::default()));
        let run = tokio::spawn(committed.clone().run(std::future::pending::<Option<u64>>));
        let mut waits = Box::pin(committed.index());
        assert!((&mut waits).now_or_never().is_none());
        while committed.counters.committed_questions.get() == 0 {
            tokio::task::yield_now().await;
        }
        let mut late = Box::pin(committed.index());
        assert!((&mut late).now_or_never().is_none());
        run.abort();
        assert_eq!((waits.await, late.await, committed.index().await), (None, None, None));
    }
}
