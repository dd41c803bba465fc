//! Keeps the tables up to date: takes steps whenever events were appended.
//!
//! A task per partition; any number of processes share the work, since whoever holds a partition's
//! checkpoints takes the step and the others leave. Woken in this process by the lanes, by other
//! processes through the database, and by a slow poll in case a wake-up was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::Inner;
use super::projection::Projection;
use super::recent::Recent;
use super::step::{Hands, Outcome, STEP_EVENTS_MAX, Step, Stepper, Trouble, Wanted};
use super::store::Checkpoint;
use crate::ledger::record::{Partition, Position};
use crate::ledger::storage::StorageError;
use crate::tasks::Tasks;
use crate::telemetry::{ErrorChain, ProjectionPlace};

/// How often it is looked without having been woken.
const POLL: Duration = Duration::from_secs(1);
/// How soon it is looked again when somebody else was at it: they may not have seen the last events.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The shortest time from the beginning of one step to the next, unless it was a full one: what
/// comes in meanwhile shares a transaction.
const PACE: Duration = Duration::from_millis(10);
/// For how many times as long as a step took there is no other, unless it was a full one: so the more
/// there is to do for everybody, the larger steps become, and the less they cost for each event.
const REST: u32 = 3;
/// The longest such rest. It is most of what readers are behind under load.
const REST_MAX: Duration = Duration::from_millis(25);
/// Steps at the same time in one process. More would take the connections from callers.
const STEPS_AT_ONCE: usize = 2;
/// The first pause after the database failed or a projection stopped; then twice as long each
/// time, up to the longest. A database comes back by itself, and then everybody waits; what stopped
/// a projection waits for a person.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const OUTAGE_PAUSE_MAX: Duration = Duration::from_secs(5);
const STOPPED_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a projection is getting on, as this process sees it.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Normal,
    /// Something in the next events is wrong: one at a time until it is found or past.
    Careful {
        left: i64,
    },
    /// It stopped. It is tried again now and then: perhaps by then the cause is gone.
    Stopped {
        until: Instant,
        pause: Duration,
    },
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    AtOnce,
    /// When it is woken, or after some time.
    Later(Duration),
}

/// One partition's task.
struct Follower {
    partition: Partition,
    stepper: Stepper,
    recent: Recent,
    room: Arc<Inner>,
    modes: BTreeMap<Projection, Mode>,
    /// For the next step.
    hands: Hands,
    outage: Option<Duration>,
}

/// Starts following.
pub(super) fn start(room: &Arc<Inner>, tasks: &Tasks) {
    let at_once = if room.store.has_one_writer() {
        1
    } else {
        STEPS_AT_ONCE
    };
    let turns = Arc::new(Semaphore::new(at_once));
    for partition in room.partitions.clone() {
        let follower = Follower {
            partition,
            stepper: room.stepper(),
            recent: Recent::default(),
            room: Arc::clone(room),
            modes: Projection::ALL
                .into_iter()
                .map(|projection| (projection, Mode::Normal))
                .collect(),
            hands: Hands::One,
            outage: None,
        };
        let appended = room.ledger_appended.subscribe(partition);
        let stopping = tasks.stopping().clone();
        let turns = Arc::clone(&turns);
        tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = follower.run(appended, turns) => {}
            }
        });
    }
}

impl Follower {
    async fn run(mut self, mut appended: watch::Receiver<Position>, turns: Arc<Semaphore>) {
        loop {
            appended.mark_unchanged();
            let (begun, next) = {
                let Ok(_turn) = turns.acquire().await else {
                    return;
                };
                (Instant::now(), self.step().await)
            };
            match (next, self.outage) {
                (_, Some(pause)) => tokio::time::sleep(pause).await,
                (Next::AtOnce, None) => tokio::task::yield_now().await,
                (Next::Later(pause), None) => {
                    tokio::time::sleep_until(rested(begun, Instant::now())).await;
                    let woken = tokio::time::timeout(pause, appended.changed()).await;
                    if matches!(woken, Ok(Err(_))) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes a step.
    async fn step(&mut self) -> Next {
        let wanted: Vec<Wanted> = self.wanted();
        let hands = std::mem::replace(&mut self.hands, Hands::One);
        let step = self
            .stepper
            .next_step(self.partition, &wanted, hands, &mut self.recent);
        match step.await {
            Ok(steps) => {
                if self.outage.take().is_some() {
                    tracing::info!(
                        partition = self.partition.0,
                        "projections follow the ledger again"
                    );
                }
                let Some(steps) = steps else {
                    return Next::Later(LOOK_AGAIN);
                };
                let someone_else_has_some = steps.len() < wanted.len();
                let mut more = false;
                for step in steps {
                    more |= self.note(step).await;
                }
                if more {
                    self.hands = self.hands_behind();
                    Next::AtOnce
                } else if someone_else_has_some {
                    Next::Later(LOOK_AGAIN)
                } else {
                    Next::Later(POLL)
                }
            }
            Err(error) => {
                self.pause(&error);
                Next::Later(POLL)
            }
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let now = Instant::now();
        self.modes
            .iter()
            .filter_map(|(projection, mode)| {
                let events_max = match mode {
                    Mode::Normal => STEP_EVENTS_MAX,
                    Mode::Careful { .. } => 1,
                    Mode::Stopped { until, .. } if *until <= now => 1,
                    Mode::Stopped { .. } => return None,
                };
                Some(Wanted {
                    projection: *projection,
                    events_max,
                })
            })
            .collect()
    }

    /// Whoever has more to do than a step takes in hurries, unless something has to be found out first.
    fn hands_behind(&self) -> Hands {
        let mut modes = self.modes.values();
        let all_normal = modes.all(|mode| matches!(mode, Mode::Normal));
        if all_normal { Hands::Three } else { Hands::One }
    }

    /// The database failed: nothing is wrong with the projections.
    fn pause(&mut self, error: &StorageError) {
        if self.outage.is_none() {
            tracing::warn!(
                partition = self.partition.0,
                error = %ErrorChain(error),
                "projections can't follow the ledger for now"
            );
        }
        self.outage = Some(next_pause(self.outage, OUTAGE_PAUSE_MAX));
    }

    /// Says whether the projection can go on at once.
    async fn note(&mut self, step: Step) -> bool {
        let projection = step.projection;
        let mode = self.modes.get(&projection).copied().unwrap_or(Mode::Normal);
        match step.outcome {
            Outcome::UpToDate { at } => {
                // What stopped it was put right, and there is no event that would show it.
                if at.error.is_some() {
                    self.recover(&at).await;
                }
                self.reached(&at);
                false
            }
            Outcome::OtherVersion { at } => {
                self.measure(&at, false);
                false
            }
            Outcome::Moved { to, events } => {
                if matches!(mode, Mode::Stopped { .. }) {
                    Self::tell_it_goes_on(&to);
                }
                self.reached(&to);
                self.room
                    .metrics
                    .projection_events(projection.name(), events);
                let has_more = to.position < to.head;
                let events = i64::try_from(events).unwrap_or(i64::MAX);
                let next = match mode {
                    Mode::Normal => Mode::Normal,
                    Mode::Careful { left } if left <= events => Mode::Normal,
                    Mode::Careful { left } => Mode::Careful {
                        left: left - events,
                    },
                    Mode::Stopped { .. } => Mode::Careful {
                        left: STEP_EVENTS_MAX,
                    },
                };
                self.modes.insert(projection, next);
                matches!(next, Mode::Careful { .. }) || has_more
            }
            Outcome::Stopped { at, why } => {
                let looked_closely = !matches!(mode, Mode::Normal);
                if looked_closely || matches!(why, Trouble::Fork { .. }) {
                    self.stop(mode, &at, &why).await;
                    return false;
                }
                let careful = Mode::Careful {
                    left: STEP_EVENTS_MAX,
                };
                self.modes.insert(projection, careful);
                true
            }
        }
    }

    async fn recover(&mut self, at: &Checkpoint) {
        if let Err(error) = self.room.store.recover(at).await {
            self.pause(&error);
            return;
        }
        Self::tell_it_goes_on(at);
        self.modes.insert(at.projection, Mode::Normal);
    }

    fn tell_it_goes_on(at: &Checkpoint) {
        tracing::info!(
            projection = at.projection.name(),
            partition = at.partition.0,
            "the projection goes on"
        );
    }

    fn reached(&self, at: &Checkpoint) {
        self.room.reached(at);
        self.measure(at, false);
    }

    fn measure(&self, at: &Checkpoint, stopped: bool) {
        self.room.metrics.projection_place(ProjectionPlace {
            projection: at.projection.name(),
            partition: at.partition.0,
            position: at.position.0,
            lag: (at.head.0 - at.position.0).max(0),
            stopped,
        });
    }

    async fn stop(&mut self, mode: Mode, at: &Checkpoint, why: &Trouble) {
        let before = match mode {
            Mode::Stopped { pause, .. } => Some(pause),
            Mode::Normal | Mode::Careful { .. } => None,
        };
        let error = ErrorChain(why).to_string();
        if before.is_none() {
            tracing::error!(
                projection = at.projection.name(),
                partition = at.partition.0,
                position = at.position.0,
                error,
                "a projection stopped; the others go on"
            );
            self.room
                .metrics
                .projection_stop(at.projection.name(), why.reason());
        }
        self.measure(at, true);
        let now = self.room.surroundings.now();
        if let Err(error) = self.room.store.fail(at, &error, now).await {
            self.pause(&error);
        }
        let pause = next_pause(before, STOPPED_PAUSE_MAX);
        self.modes.insert(
            at.projection,
            Mode::Stopped {
                until: Instant::now() + pause,
                pause,
            },
        );
    }
}

/// When a step may follow one that began and ended then.
fn rested(begun: Instant, ended: Instant) -> Instant {
    let rest = REST_MAX.min((ended - begun) * REST);
    (begun + PACE).max(ended + rest)
}

fn next_pause(last: Option<Duration>, longest: Duration) -> Duration {
    last.map_or(PAUSE_MIN, |last| longest.min(last * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_followed_by_a_rest_that_grows_with_it() {
        let begun = Instant::now();
        let pause = |took| rested(begun, begun + Duration::from_millis(took)) - begun;

        let paused = [0, 2, 4, 10, 20, 200].map(|took| pause(took).as_millis());

        assert_eq!(paused, [10, 10, 16, 35, 45, 225]);
    }
}
