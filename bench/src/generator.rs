//! The load: keep-alive connections that send as fast as answers come, or at a fixed rate.
//!
//! At a fixed rate a clock says when each request is due, and its latency counts from then, not from
//! when a connection was free to send it. A service that stalls is charged for all who would have
//! waited: the histogram is free of coordinated omission.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::http::{Connection, Target};

/// The clock of a fixed rate sleeps at least so long, or it would need a core of its own. What is
/// due meanwhile is sent right after, and its latency counts from when it was due.
const TICK: Duration = Duration::from_micros(250);

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// On each connection the next one when the last was answered.
    AsAnswered,
    /// So many a second, whatever the answers do.
    PerSecond(f64),
}

/// How long, how wide and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub connections: u64,
    pub pace: Pace,
    /// What happens in this time isn't counted.
    pub warm_up: Duration,
    pub duration: Duration,
}

/// One request, and the answer that is right.
pub struct Request {
    pub method: &'static str,
    pub path: Cow<'static, str>,
    /// Whole lines.
    pub headers: String,
    pub body: String,
    pub status: u16,
    /// What it counts for: commands in it.
    pub weight: u64,
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub per_second: f64,
    /// Not a number where there was nothing to wait for.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// All that was answered, in the warm-up too.
    pub answered: u64,
    /// Processor time of the server for each of those, and of its database, if somebody looked.
    pub server_us: Option<f64>,
    pub database_us: Option<f64>,
}

/// The requests of one connection, one after the other.
pub type Requests = Box<dyn FnMut() -> Request + Send>;

/// Latencies, what they count for, and when the last answer was there.
pub struct Tally {
    histogram: Histogram<u64>,
    weight: u64,
    answered: u64,
    last: Instant,
}

impl Tally {
    pub fn new() -> Result<Self> {
        Ok(Self {
            histogram: Histogram::new(3)?,
            weight: 0,
            answered: 0,
            last: Instant::now(),
        })
    }

    /// Notes something that took from `since` until now.
    pub fn note(&mut self, since: Instant, weight: u64, is_counted: bool) -> Result<()> {
        self.last = Instant::now();
        self.answered += weight;
        if !is_counted {
            return Ok(());
        }
        let took = self.last.duration_since(since);
        self.histogram.record(u64::try_from(took.as_micros())?)?;
        self.weight += weight;
        Ok(())
    }

    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.histogram.add(&other.histogram)?;
        self.weight += other.weight;
        self.answered += other.answered;
        self.last = self.last.max(other.last);
        Ok(())
    }

    pub fn measured(&self, elapsed: Duration) -> Measured {
        let ms = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Measured {
            per_second: self.weight as f64 / elapsed.as_secs_f64(),
            p50_ms: ms(0.50),
            p99_ms: ms(0.99),
            answered: self.answered,
            server_us: None,
            database_us: None,
        }
    }
}

/// Sends what `requests` makes for each connection, by its number. Connections take turns among the
/// targets. Ends with the first answer that isn't right.
pub async fn run(
    targets: &[Target],
    plan: Plan,
    requests: impl Fn(u64) -> Requests,
) -> Result<Measured> {
    let mut connections = Vec::new();
    for number in 0..plan.connections {
        let target = usize::try_from(number)? % targets.len();
        let connection = Connection::open(&targets[target]).await?;
        connections.push((connection, requests(number)));
    }
    let begun = Instant::now();
    let counted = begun + plan.warm_up;
    let end = counted + plan.duration;
    match plan.pace {
        Pace::AsAnswered => as_answered(connections, counted, end).await,
        Pace::PerSecond(rate) => per_second(connections, rate, begun, counted, end).await,
    }
}

/// The measurement without its connections: `work` again and again, by so many at the same time.
pub async fn repeat<W>(workers: u64, plan: Plan, work: impl Fn(u64) -> W) -> Result<Measured>
where
    W: Repeated + Send + 'static,
{
    let counted = Instant::now() + plan.warm_up;
    let end = counted + plan.duration;
    let mut all = JoinSet::new();
    for number in 0..workers {
        let mut work = work(number);
        all.spawn(async move {
            let mut tally = Tally::new()?;
            while Instant::now() < end {
                let sent = Instant::now();
                let weight = work.once().await?;
                tally.note(sent, weight, within(counted, end))?;
            }
            Ok(tally)
        });
    }
    Ok(joined(all).await?.measured(plan.duration))
}

/// Something that can be done again.
pub trait Repeated {
    /// Does it, and says what it counts for.
    fn once(&mut self) -> impl Future<Output = Result<u64>> + Send;
}

async fn as_answered(
    connections: Vec<(Connection, Requests)>,
    counted: Instant,
    end: Instant,
) -> Result<Measured> {
    let mut workers = JoinSet::new();
    for (mut connection, mut requests) in connections {
        workers.spawn(async move {
            let mut tally = Tally::new()?;
            while Instant::now() < end {
                let request = requests();
                let sent = Instant::now();
                connection.send(&request).await?;
                tally.note(sent, request.weight, within(counted, end))?;
            }
            Ok(tally)
        });
    }
    Ok(joined(workers).await?.measured(end - counted))
}

/// Answers count while the time is on, or a connection that hangs would add to both ends.
fn within(counted: Instant, end: Instant) -> bool {
    (counted..end).contains(&Instant::now())
}

async fn per_second(
    connections: Vec<(Connection, Requests)>,
    rate: f64,
    begun: Instant,
    counted: Instant,
    end: Instant,
) -> Result<Measured> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // A thread, because the runtime's timers are good to a millisecond only.
    let clock = std::thread::spawn(move || {
        for number in 0_u64.. {
            let due = begun + Duration::from_secs_f64(number as f64 / rate);
            if due >= end {
                break;
            }
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                std::thread::sleep(early.max(TICK));
            }
            if sender.send(due).is_err() {
                break;
            }
        }
    });
    // Whoever is free takes the oldest.
    let receiver = Arc::new(Mutex::new(receiver));
    let mut workers = JoinSet::new();
    for (mut connection, mut requests) in connections {
        let receiver = Arc::clone(&receiver);
        workers.spawn(async move {
            let mut tally = Tally::new()?;
            loop {
                let request = requests();
                let Some(due) = receiver.lock().await.recv().await else {
                    return Ok(tally);
                };
                connection.send(&request).await?;
                tally.note(due, request.weight, due >= counted)?;
            }
        });
    }
    let tally = joined(workers).await?;
    clock.join().ok().context("the clock panicked")?;
    Ok(tally.measured(tally.last - counted))
}

async fn joined(mut workers: JoinSet<Result<Tally>>) -> Result<Tally> {
    let mut all = Tally::new()?;
    while let Some(worker) = workers.join_next().await {
        all.add(&worker??)?;
    }
    Ok(all)
}
