//! The load: connections that ask, wait for the answer, and ask again.
//!
//! It runs on one thread. What a connection asks is its script's affair; here is when it asks, and how long it took.
//!
//! **Closed loop.** A connection begins a session when the one before has ended. The figure is what so many callers get.
//!
//! **Open loop.** Sessions are due at fixed moments, whatever became of those before; whichever connection is free takes
//! the next one. Latency counts from the moment a session was *due*, not from when a connection was free to send it: a
//! server that stalls for a second makes a second's worth of sessions late, and all of them are counted as late. A
//! generator that waits politely for the stall to end would count one ("coordinated omission").
//!
//! A connection that breaks is an error, and the next one goes to the next node.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use super::{
    connection::{Connection, Dial},
    recorder::{Count, Recorder},
    request::Request,
};

/// Longest wait for an answer: longer than a node's own deadline, so that it is the node that answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an error, so that a node that is down is not asked ten thousand times a second.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// The pacer sleeps at least so long: what falls due in between is released together, and still counts from when it was due.
const PACE_SLEEP_MIN: Duration = Duration::from_micros(100);
/// It looks this often whether the run is over.
const PACE_SLEEP_MAX: Duration = Duration::from_millis(20);
/// Sessions that may be due and not begun; what would be due beyond is not, and is reported.
const BACKLOG_MAX: u64 = 4_000_000;

/// What one connection does.
pub trait Script {
    /// Writes the next request of a session, or the first of a new one; returns its kind. `None`: nothing is left to do.
    fn next(&mut self, request: &mut Request) -> Option<usize>;

    /// Reads the answer.
    fn answered(&mut self, status: u16, body: &[u8]) -> Verdict;

    /// The request got no answer: the session is over.
    fn broken(&mut self) {}
}

/// What a script makes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to count.
    pub count: Count,
    /// The session goes on with another request.
    pub more: bool,
}

impl Verdict {
    /// The session ends with this.
    pub const fn end(count: Count) -> Verdict {
        Verdict { count, more: false }
    }

    /// The session goes on.
    pub const fn then(count: Count) -> Verdict {
        Verdict { count, more: true }
    }
}

/// When sessions are due.
#[derive(Clone)]
pub struct Schedule {
    start: Instant,
    interval: Duration,
    /// One permit per session that is due and not begun.
    due: Arc<Semaphore>,
    /// Nothing falls due any more.
    ended: Arc<AtomicBool>,
}

impl Schedule {
    /// So many per second from `start` on.
    pub fn new(start: Instant, rate: f64) -> Schedule {
        assert!(rate.is_finite() && rate > 0.0, "a rate is above 0, not {rate}");
        let interval = Duration::from_secs_f64(1.0 / rate);
        Schedule { start, interval, due: Arc::new(Semaphore::new(0)), ended: Arc::default() }
    }

    /// When a session is due.
    fn due_at(&self, number: u64) -> Instant {
        let nanos = self.interval.as_nanos() * u128::from(number);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many are due by `now`.
    fn due_by(&self, now: Instant) -> u64 {
        let Some(since) = now.checked_duration_since(self.start) else { return 0 };
        u64::try_from(since.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(u64::MAX) + 1
    }

    /// Releases what is due; returns how many were released in all, and how long there is nothing to do.
    fn release(&self, released: u64, now: Instant) -> (u64, Duration) {
        let due = self.due_by(now).max(released);
        let room = BACKLOG_MAX.saturating_sub(self.due.available_permits() as u64);
        let more = (due - released).min(room);
        self.due.add_permits(more as usize);
        let next = self.due_at(released + more).saturating_duration_since(now);
        (released + more, next.clamp(PACE_SLEEP_MIN, PACE_SLEEP_MAX))
    }

    /// Releases sessions on a thread of its own, because timers of the runtime are a millisecond wide, until nothing falls
    /// due any more.
    pub fn pace(&self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let schedule = self.clone();
        std::thread::Builder::new().name("pacer".to_owned()).spawn(move || {
            let mut released = 0;
            loop {
                // Once more after the end, so that what was due by then is released.
                let ended = schedule.ended.load(Ordering::Acquire);
                let pause;
                (released, pause) = schedule.release(released, Instant::now());
                if ended {
                    return;
                }
                std::thread::sleep(pause);
            }
        })
    }
}

/// What all connections share. They live on one thread.
pub struct Shared {
    schedule: Option<Schedule>,
    /// Sessions taken from the schedule.
    taken: Cell<u64>,
    /// From when to when sessions count.
    from: Cell<Option<Instant>>,
    until: Cell<Option<Instant>>,
    stopped: Cell<bool>,
    /// Connections that have not ended.
    live: Cell<usize>,
    /// When the session on its way on each connection was due.
    on_their_way: RefCell<Vec<Option<Instant>>>,
    recorder: RefCell<Recorder>,
}

/// How one session began.
#[derive(Clone, Copy)]
struct Session {
    due: Instant,
    counts: bool,
}

impl Shared {
    /// Nothing sent yet.
    pub fn new(recorder: Recorder, schedule: Option<Schedule>) -> Rc<Shared> {
        Rc::new(Shared {
            schedule,
            taken: Cell::new(0),
            from: Cell::new(None),
            until: Cell::new(None),
            stopped: Cell::new(false),
            live: Cell::new(0),
            on_their_way: RefCell::default(),
            recorder: RefCell::new(recorder),
        })
    }

    /// Counting begins.
    pub fn measure(&self) {
        self.from.set(Some(Instant::now()));
    }

    /// Counting ends: of an open loop, sessions due from here on do not count, but those due before still do.
    pub fn seal(&self) {
        let now = Instant::now();
        self.until.set(Some(now));
        if let Some(schedule) = &self.schedule {
            schedule.ended.store(true, Ordering::Release);
        }
        let measured = now.saturating_duration_since(self.from.get().unwrap_or(now));
        self.recorder.borrow_mut().finish(micros(measured));
    }

    /// Whether every session that was due has its answer.
    pub fn is_drained(&self) -> bool {
        let due = self.schedule.as_ref().map_or(0, |schedule| schedule.due.available_permits());
        due == 0 && self.on_their_way.borrow().iter().all(Option::is_none)
    }

    /// Lets every connection end after the answer it waits for.
    pub fn stop(&self) {
        self.stopped.set(true);
        if let Some(schedule) = &self.schedule {
            schedule.due.close();
        }
    }

    /// Whether all connections have ended.
    pub fn is_done(&self) -> bool {
        self.live.get() == 0
    }

    /// Whether this is an open loop.
    pub fn is_open(&self) -> bool {
        self.schedule.is_some()
    }

    /// Looks at what was counted.
    pub fn look<T>(&self, look: impl FnOnce(&Recorder) -> T) -> T {
        look(&self.recorder.borrow())
    }

    /// Closes the books: sessions of an open loop that were due before the end and have no answer took as long as has passed.
    pub fn settle(&self) {
        let Some((from, until)) = self.from.get().zip(self.until.get()) else { return };
        let Some(schedule) = &self.schedule else { return };
        let now = Instant::now();
        let first = self.taken.get();
        let never_begun =
            (first..schedule.due_by(until).min(first + BACKLOG_MAX)).map(|number| schedule.due_at(number));
        let on_their_way = self.on_their_way.borrow();
        let late = on_their_way.iter().flatten().copied().chain(never_begun).filter(|due| *due >= from && *due < until);
        let mut recorder = self.recorder.borrow_mut();
        for due in late {
            recorder.unanswered(micros(now.saturating_duration_since(due)));
        }
    }

    /// Waits until a session may begin. `None`: none does any more.
    async fn begin(&self) -> Option<Session> {
        let due = match &self.schedule {
            Some(schedule) => {
                schedule.due.acquire().await.ok()?.forget();
                schedule.due_at(self.taken.replace(self.taken.get() + 1))
            }
            None => Instant::now(),
        };
        if self.stopped.get() {
            return None;
        }
        let counts = self.is_open() && self.from.get().is_some_and(|from| due >= from);
        Some(Session { due, counts })
    }

    /// Whether what ends now is counted. A closed loop counts what is answered in the window, an open one what was due.
    fn counts(&self, session: Session) -> bool {
        match (self.is_open(), self.from.get(), self.until.get()) {
            (true, _, Some(until)) => session.counts && session.due < until,
            (true, _, None) => session.counts,
            (false, Some(_), None) => true,
            (false, ..) => false,
        }
    }

    /// Microseconds since counting began, `None` after it ended.
    fn now_us(&self, now: Instant) -> Option<u64> {
        let from = self.from.get().filter(|_| self.until.get().is_none())?;
        Some(micros(now.saturating_duration_since(from)))
    }

    fn fail(&self, session: Session, error: &str) {
        if self.counts(session) {
            self.recorder.borrow_mut().fail(error);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Starts one task per script on the current `LocalSet`.
pub fn start<D: Dial>(shared: &Rc<Shared>, dial: D, lines: Vec<(Box<dyn Script>, Request)>) {
    shared.live.set(lines.len());
    shared.on_their_way.borrow_mut().resize(lines.len(), None);
    let dial = Rc::new(dial);
    for (number, (script, request)) in lines.into_iter().enumerate() {
        let at = number % dial.nodes();
        let (shared, dial) = (Rc::clone(shared), Rc::clone(&dial));
        let mut line = Line { shared, dial, number, at, open: None, script, request };
        tokio::task::spawn_local(async move {
            line.run().await;
            line.shared.live.set(line.shared.live.get() - 1);
        });
    }
}

/// One connection and what it does.
struct Line<D: Dial> {
    shared: Rc<Shared>,
    dial: Rc<D>,
    /// Which connection it is.
    number: usize,
    /// The node in use.
    at: usize,
    open: Option<Connection<D::Stream>>,
    script: Box<dyn Script>,
    request: Request,
}

impl<D: Dial> Line<D> {
    async fn run(&mut self) {
        while !self.shared.stopped.get() {
            let Some(session) = self.shared.begin().await else { return };
            self.shared.on_their_way.borrow_mut()[self.number] = Some(session.due);
            let ended = self.session(session).await;
            self.shared.on_their_way.borrow_mut()[self.number] = None;
            match ended {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.shared.fail(session, &format!("{}: {error}", self.dial.name(self.at)));
                    self.script.broken();
                    self.open = None;
                    self.at = (self.at + 1) % self.dial.nodes();
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// All requests of one session. `Ok(false)`: the script has ended. An error means that the connection is of no more use.
    async fn session(&mut self, session: Session) -> Result<bool, String> {
        let mut sent = session.due;
        let mut failed = false;
        loop {
            self.request.at(self.at);
            let Some(op) = self.script.next(&mut self.request) else { return Ok(false) };
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(Connection::new(self.dial.dial(self.at).await?)),
            };
            let asked = timeout(ANSWER_TIMEOUT, open.ask(self.request.bytes())).await;
            let head = asked.map_err(|_| "no answer in time".to_owned())??;
            let now = Instant::now();
            let verdict = self.script.answered(head.status, open.body(&head));
            failed |= verdict.count.errors > 0;
            let (now_us, counts) = (self.shared.now_us(now), self.shared.counts(session));
            if now_us.is_some() || counts {
                let mut recorder = self.shared.recorder.borrow_mut();
                recorder.answer(op, verdict.count, micros(now.saturating_duration_since(sent)), now_us, counts);
                if verdict.count.errors > 0 {
                    recorder.note(head.status, open.body(&head));
                }
                if counts && !verdict.more && !failed {
                    recorder.session(micros(now.saturating_duration_since(session.due)), now_us);
                }
            }
            open.done(&head);
            if head.close {
                self.open = None;
            }
            if matches!(head.status, 429 | 500..) {
                sleep(ERROR_PAUSE).await;
            }
            if !verdict.more {
                return Ok(true);
            }
            sent = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::LocalSet,
    };

    use super::*;
    use crate::bench::connection::Tcp;

    /// Asks the same again, so many times.
    struct Again(u64);

    impl Script for Again {
        fn next(&mut self, request: &mut Request) -> Option<usize> {
            self.0 = self.0.checked_sub(1)?;
            request.begin("GET", &["/"]);
            Some(0)
        }

        fn answered(&mut self, status: u16, _body: &[u8]) -> Verdict {
            Verdict::end(if status == 200 { Count::DONE } else { Count::ERROR })
        }
    }

    fn lines(connections: usize, times: u64) -> Vec<(Box<dyn Script>, Request)> {
        let endpoints = ["127.0.0.1:1".parse().unwrap()];
        let line = |number| (Box::new(Again(times)) as Box<dyn Script>, Request::new(&endpoints, "k", "r", number));
        (0..connections).map(line).collect()
    }

    /// A node in memory that answers after a millisecond, and not at all while it stalls.
    struct Stalls {
        from: Instant,
        length: Duration,
    }

    impl Dial for Stalls {
        type Stream = DuplexStream;

        fn nodes(&self) -> usize {
            1
        }

        fn name(&self, _node: usize) -> String {
            "memory".to_owned()
        }

        async fn dial(&self, _node: usize) -> Result<DuplexStream, String> {
            let (ours, mut theirs) = duplex(4096);
            let (from, until) = (self.from, self.from + self.length);
            tokio::task::spawn_local(async move {
                let mut buffer = [0_u8; 4096];
                while theirs.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    sleep(Duration::from_millis(1)).await;
                    if Instant::now() >= from {
                        tokio::time::sleep_until(until).await;
                    }
                    if theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            });
            Ok(ours)
        }
    }

    /// Runs ten seconds on a paused clock, with a stall of one second in the middle. p50, p99 and longest latency in ms.
    async fn with_a_stall(rate: Option<f64>) -> (u64, u64, u64, u64) {
        let begun = Instant::now();
        let schedule = rate.map(|rate| Schedule::new(begun, rate));
        let shared = Shared::new(Recorder::new(&["get"], 10), schedule.clone());
        shared.measure();
        let stalls = Stalls { from: begun + Duration::from_secs(5), length: Duration::from_secs(1) };
        start(&shared, stalls, lines(4, u64::MAX));
        let mut released = 0;
        while begun.elapsed() < Duration::from_secs(10) {
            if let Some(schedule) = &schedule {
                (released, _) = schedule.release(released, Instant::now());
            }
            sleep(Duration::from_millis(1)).await;
        }
        shared.seal();
        while !shared.is_drained() && shared.is_open() {
            sleep(Duration::from_millis(1)).await;
        }
        shared.stop();
        shared.settle();
        shared.look(|recorder| {
            let ms = |share| recorder.sessions.quantile_us(share).unwrap() / 1_000;
            (recorder.sessions.count(), ms(0.5), ms(0.99), recorder.sessions.max_us().unwrap() / 1_000)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_of_the_server_shows_in_an_open_loop_and_hides_in_a_closed_one() {
        let (count, p50, p99, max) = LocalSet::new().run_until(with_a_stall(Some(100.0))).await;
        // A hundred of the thousand were due in the stall, so the slowest hundredth waited for nearly all of it.
        assert!((999..=1_001).contains(&count), "{count} sessions");
        assert!(p50 <= 3, "p50 {p50} ms");
        assert!((800..=1_010).contains(&p99), "p99 {p99} ms");
        assert!((900..=1_010).contains(&max), "longest {max} ms");
        let (count, p50, p99, max) = LocalSet::new().run_until(with_a_stall(None)).await;
        // The same stall: four sessions of ten thousands met it, and 99 % know nothing of it.
        assert!(count > 5_000, "{count} sessions");
        assert!(p50 <= 3 && p99 <= 3, "p50 {p50} ms, p99 {p99} ms");
        assert!(max >= 900, "longest {max} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_due_and_never_begun_counts_with_the_time_that_passed() {
        let run = async {
            let begun = Instant::now();
            let schedule = Schedule::new(begun, 10.0);
            let shared = Shared::new(Recorder::new(&["get"], 1), Some(schedule.clone()));
            shared.measure();
            // One connection, and a server that never answers again.
            let stalls = Stalls { from: begun, length: Duration::from_secs(3_600) };
            start(&shared, stalls, lines(1, u64::MAX));
            let (released, _) = schedule.release(0, begun);
            sleep(Duration::from_secs(1)).await;
            let (released, _) = schedule.release(released, Instant::now());
            assert_eq!(released, 11);
            shared.seal();
            sleep(Duration::from_secs(4)).await;
            shared.stop();
            shared.settle();
            shared.look(|recorder| {
                // Ten were due before the end: one is on its way, nine never began.
                assert_eq!((recorder.total.errors, recorder.sessions.count()), (10, 10));
                assert_eq!(recorder.sessions.max_us(), Some(5_000_000));
            });
        };
        LocalSet::new().run_until(run).await;
    }

    #[test]
    fn sessions_are_due_at_even_moments_from_the_start() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1_000.0);
        for (after_us, due) in [(0, 1), (999, 1), (1_000, 2), (10_500, 11)] {
            assert_eq!(schedule.due_by(start + Duration::from_micros(after_us)), due, "after {after_us} µs");
        }
        assert_eq!(schedule.due_at(10), start + Duration::from_millis(10));
        let (released, pause) = schedule.release(0, start + Duration::from_micros(10_500));
        assert_eq!((released, schedule.due.available_permits(), pause), (11, 11, Duration::from_micros(500)));
        let (released, pause) = schedule.release(released, start + Duration::from_micros(10_990));
        assert_eq!((released, pause), (11, PACE_SLEEP_MIN), "the pacer does not spin");
    }

    /// A node that breaks every tenth answer off in the middle and spreads the others over two packets.
    async fn clumsy_node() -> crate::config::Address {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::task::spawn_local(async move {
            let mut answered = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0_u8; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    answered += 1;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await.unwrap();
                    if answered % 10 == 0 {
                        break;
                    }
                    tokio::task::yield_now().await;
                    stream.write_all(b"ngth: 2\r\n\r\n{}").await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_run_counts_answers_and_survives_broken_connections() {
        let run = async {
            let shared = Shared::new(Recorder::new(&["get"], 1), None);
            shared.measure();
            start(&shared, Tcp(vec![clumsy_node().await]), lines(1, 25));
            while !shared.is_done() {
                sleep(Duration::from_millis(1)).await;
            }
            shared.look(|recorder| {
                assert_eq!(recorder.total, Count { done: 23, refused: 0, errors: 2 });
                assert_eq!((recorder.sessions.count(), recorder.ops[0].latency.count()), (23, 23));
                let error = recorder.first_error.as_deref().unwrap();
                assert!(error.ends_with("connection closed before the answer"), "{error}");
            });
        };
        timeout(Duration::from_secs(10), LocalSet::new().run_until(run)).await.unwrap();
    }
}
