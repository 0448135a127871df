//! What was counted while measuring: per operation, for whole sessions, and over time.

use super::histogram::Histogram;

/// Most points of a line over time; longer runs have longer intervals.
const POINTS_MAX: u64 = 600;
/// Shortest interval, in microseconds.
const INTERVAL_US_MIN: u64 = 100_000;
/// Bytes of an answer that are shown.
const SHOWN_BYTES_MAX: usize = 400;

/// What one answer came to, in units of the scenario: orders, requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Done as asked.
    pub done: u64,
    /// A definite no of the shop, such as *out of stock*.
    pub refused: u64,
    /// Neither.
    pub errors: u64,
}

impl Count {
    /// One, done.
    pub const DONE: Count = Count { done: 1, refused: 0, errors: 0 };
    /// One, refused.
    pub const REFUSED: Count = Count { done: 0, refused: 1, errors: 0 };
    /// One, gone wrong.
    pub const ERROR: Count = Count { done: 0, refused: 0, errors: 1 };
    /// An answer on the way to what is counted.
    pub const NOTHING: Count = Count { done: 0, refused: 0, errors: 0 };

    fn add(&mut self, more: Count) {
        self.done += more.done;
        self.refused += more.refused;
        self.errors += more.errors;
    }
}

/// One kind of request.
#[derive(Clone)]
pub struct Op {
    /// Its name.
    pub name: &'static str,
    /// Answers of this kind.
    pub answers: u64,
    /// What they came to.
    pub count: Count,
    /// How long they took, errors left out.
    pub latency: Histogram,
}

/// One interval of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Where it ends, seconds from the start of measuring.
    pub at_s: f64,
    /// What was done per second in it.
    pub per_second: f64,
    /// Median latency of the sessions that ended in it, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The same for 99 %.
    pub p99_ms: Option<f64>,
}

/// The lines over time in the making.
struct Series {
    interval_us: u64,
    end_us: u64,
    done: u64,
    latency: Histogram,
    points: Vec<Point>,
}

impl Series {
    fn advance(&mut self, now_us: u64) {
        while now_us >= self.end_us && (self.points.len() as u64) < 2 * POINTS_MAX {
            let ms = |share| self.latency.quantile_us(share).map(|us| us as f64 / 1e3);
            self.points.push(Point {
                at_s: self.end_us as f64 / 1e6,
                per_second: self.done as f64 * 1e6 / self.interval_us as f64,
                p50_ms: ms(0.5),
                p99_ms: ms(0.99),
            });
            self.latency.clear();
            self.done = 0;
            self.end_us += self.interval_us;
        }
    }
}

/// All of it. Times are microseconds from the start of measuring.
pub struct Recorder {
    /// Whole sessions, errors left out.
    pub sessions: Histogram,
    /// By kind of request.
    pub ops: Vec<Op>,
    /// All sessions that count: of an open loop those that were due while measuring, whenever they were answered.
    pub total: Count,
    /// All that was answered while measuring, whenever it was due: what the nodes did in that time.
    pub in_time: Count,
    /// When something was last done.
    pub last_done_us: u64,
    /// The first error, in words.
    pub first_error: Option<String>,
    series: Series,
}

impl Recorder {
    /// For a run that is measured for about so many seconds.
    pub fn new(ops: &[&'static str], seconds: u64) -> Recorder {
        let interval_us = (seconds * 1_000_000 / POINTS_MAX).max(INTERVAL_US_MIN);
        let op = |name: &&'static str| Op { name, answers: 0, count: Count::default(), latency: Histogram::default() };
        Recorder {
            sessions: Histogram::default(),
            ops: ops.iter().map(op).collect(),
            total: Count::default(),
            in_time: Count::default(),
            last_done_us: 0,
            first_error: None,
            series: Series {
                interval_us,
                end_us: interval_us,
                done: 0,
                latency: Histogram::default(),
                points: Vec::new(),
            },
        }
    }

    /// An answer to a request of kind `op`. `now_us` is `None` when it came before or after measuring; `counts` is false when its
    /// session was not due then.
    pub fn answer(&mut self, op: usize, count: Count, took_us: u64, now_us: Option<u64>, counts: bool) {
        let op = &mut self.ops[op];
        if let Some(now_us) = now_us {
            op.answers += 1;
            self.in_time.add(count);
            if count.done > 0 {
                self.series.advance(now_us);
                self.series.done += count.done;
                self.last_done_us = self.last_done_us.max(now_us);
            }
        }
        if counts {
            op.count.add(count);
            self.total.add(count);
            if count.errors == 0 {
                op.latency.record(took_us);
            }
        }
    }

    /// A session that ended well.
    pub fn session(&mut self, took_us: u64, now_us: Option<u64>) {
        self.sessions.record(took_us);
        if let Some(now_us) = now_us {
            self.series.advance(now_us);
            self.series.latency.record(took_us);
        }
    }

    /// A request that nobody answered, or a session that could not begin.
    pub fn fail(&mut self, error: &str) {
        self.total.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_owned());
    }

    /// An answer that is an error, for the report.
    pub fn note(&mut self, status: u16, body: &[u8]) {
        let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
        self.first_error.get_or_insert_with(|| format!("{status}: {}", String::from_utf8_lossy(shown)));
    }

    /// Sessions that were meant to begin and had not ended when the run was over: they took this long at least.
    pub fn unanswered(&mut self, waited_us: u64) {
        self.sessions.record(waited_us);
        self.fail("sessions that were due had no answer when the run was over");
    }

    /// Closes the intervals up to the end.
    pub fn finish(&mut self, end_us: u64) {
        self.series.advance(end_us);
    }

    /// The lines over time.
    pub fn points(&self) -> &[Point] {
        &self.series.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_falls_into_its_interval() {
        let mut recorder = Recorder::new(&["a"], 1);
        for (now_us, took_us) in [(10_000, 1_000), (99_999, 3_000), (250_000, 5_000)] {
            recorder.answer(0, Count::DONE, took_us, Some(now_us), true);
            recorder.session(took_us, Some(now_us));
        }
        recorder.answer(0, Count::ERROR, 9, Some(260_000), true);
        recorder.finish(300_000);
        recorder.answer(0, Count::DONE, 60_000, None, true);
        recorder.session(60_000, None);
        let points: Vec<(f64, f64, Option<f64>)> =
            recorder.points().iter().map(|point| (point.at_s, point.per_second, point.p99_ms)).collect();
        assert_eq!(points, [(0.1, 20.0, Some(3.0)), (0.2, 0.0, None), (0.3, 10.0, Some(5.0))]);
        assert_eq!((recorder.ops[0].answers, recorder.ops[0].latency.count(), recorder.last_done_us), (4, 4, 250_000));
        assert_eq!(recorder.total, Count { done: 4, refused: 0, errors: 1 });
        assert_eq!((recorder.in_time, recorder.sessions.count()), (Count { done: 3, refused: 0, errors: 1 }, 4));
        // Due before measuring and answered in it: the nodes did it, but it says nothing of what was due.
        recorder.answer(0, Count::DONE, 900_000, Some(290_000), false);
        assert_eq!((recorder.in_time.done, recorder.total.done, recorder.ops[0].latency.count()), (4, 4, 4));
    }

    #[test]
    fn the_lines_are_bounded_whatever_the_length() {
        let mut recorder = Recorder::new(&["a"], 86_400);
        recorder.answer(0, Count::DONE, 1, Some(u64::MAX / 2), true);
        assert!(recorder.points().len() as u64 <= 2 * POINTS_MAX);
    }
}
