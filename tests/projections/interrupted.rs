//! A storm of facts over services that are killed, and rebuilds that are killed in their midst: the
//! live tables, the rebuilt ones and what a replay prints are the same, row for row.
//!
//! Whoever goes on with a rebuild has to wait for the dead one's lease, so one wait serves several
//! rebuilds: one that the command line carried out and two of a service's.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use notification_ledger::clock::{Clock, System};
use notification_ledger::domain::time::Timestamp;
use notification_ledger::projections::Projection;
use notification_ledger::projections::rebuild::{Part, Phase, Rebuild, State};
use notification_ledger::projections::store::Store;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, SqliteConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::dice::Dice;
use crate::http::{Addresses, Caller, Tenant};
use crate::killed::opened;
use crate::place::Place;
use crate::printed::assert_replayed;
use crate::process::PATIENCE;
use crate::tables::{Tables, assert_expected};
use crate::wait::until;

/// More than are filled at the same time, so that some are done and some are not.
const PARTITIONS: u16 = 6;
/// How often a service is killed while it appends and follows.
const KILLS: usize = 3;
/// Commands of each tenant between two kills.
const WAVE: std::ops::Range<usize> = 40..80;
/// Commands in one call.
const CALL: usize = 25;
/// So that any part of what a service does may be the last one.
const A_LITTLE: Duration = Duration::from_millis(150);
/// Rebuilds that may end before they are caught, before the test gives up.
const CATCHES: usize = 20;
/// A dead process's lease, the longest pause between two looks for it, and a slow machine.
const GOES_ON: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_storm_and_any_kill_live_rebuilt_and_replayed_rows_are_the_same_on_sqlite() {
    let dice = Dice::of_test("interrupted on SQLite");
    let by = GoesOn::InTheNextService;
    interrupt(&divided(Place::sqlite()), Moment::Filling, by, dice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn after_any_storm_and_any_kill_live_rebuilt_and_replayed_rows_are_the_same_on_postgres() {
    let dice = Dice::of_test("interrupted on PostgreSQL");
    let place = divided(Place::postgres().await);
    // The same again, killed later, at the same time: most of it is waiting for leases.
    let other_place = divided(Place::postgres().await);
    let other_dice = Dice::of_test("interrupted later on PostgreSQL");
    let (here, there) = (GoesOn::InTheNextService, GoesOn::OnTheCommandLine);
    tokio::join!(
        interrupt(&place, Moment::Filling, here, dice),
        interrupt(&other_place, Moment::Filled, there, other_dice),
    );
}

fn divided(place: Place) -> Place {
    place.with("LEDGER_PARTITIONS", PARTITIONS.to_string())
}

/// What the service's rebuilds are at when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Some streams are in the shadow tables, others are not.
    Filling,
    /// All of them are, and the rest is under way.
    Filled,
}

/// Who finds what the dead have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoesOn {
    InTheNextService,
    OnTheCommandLine,
}

async fn interrupt(place: &Place, moment: Moment, by: GoesOn, mut dice: Dice) {
    let mut service = place.start().await;
    let addresses = Addresses::of(&[&service]);
    let mut storms: Vec<Storm> = (0..PARTITIONS)
        .map(|partition| Storm::over(place.tenant(&format!("t{partition}"), partition), &mut dice))
        .collect();
    let key = place.answer_of(&["keys", "create", "--operator"]);
    let id = "operator".to_owned();
    let operator = Caller::new(&addresses, &Tenant { id, key });
    let database = opened(place).await;
    let (store, storage) = (Store::new(&database), database.storage());

    for _ in 0..KILLS {
        let mut wave = rage(&mut storms, &addresses, &mut dice);
        tokio::time::sleep(dice.roll_time(A_LITTLE)).await;
        service.kill();
        service = place.start().await;
        addresses.change(&[&service]);
        while wave.join_next().await.transpose().unwrap().is_some() {}
    }
    assert_complete(&store, &storms).await;
    assert_expected(&store, storage.as_ref()).await;

    // One group of rebuilds in a process of its own, and two alone in the service.
    let together = [Projection::Timeline, Projection::Metrics];
    let alone = [Projection::Notifications, Projection::NotificationLogs];
    let mut wave = rage(&mut storms, &addresses, &mut dice);
    let command = async || Watching::over(place, &["timeline", "metrics"]);
    let (command, mut left, halt) =
        caught(place, &store, &together, Moment::Filling, command).await;
    command.kill();
    halt.release().await;
    let posts = async || {
        for projection in alone {
            let path = format!("/v1/admin/projections/{}/rebuild", projection.name());
            let begun = operator.post(&path, &[], "").await;
            assert_eq!(begun.status, 202, "{begun:?}");
        }
    };
    let ((), more, halt) = caught(place, &store, &alone, moment, posts).await;
    service.kill();
    halt.release().await;
    left.extend(more);
    let service = place.start().await;
    addresses.change(&[&service]);
    let watching = Watching::over(place, &["all"]);
    if by == GoesOn::InTheNextService {
        watching.kill();
    }
    // More comes in while nobody rebuilds.
    while wave.join_next().await.transpose().unwrap().is_some() {}
    rage(&mut storms, &addresses, &mut dice).join_all().await;
    assert_goes_on(&store, &left).await;

    assert_complete(&store, &storms).await;
    let tables = assert_expected(&store, storage.as_ref()).await;
    let events: usize = storms.iter().map(|storm| storm.events).sum();
    let timeline = tables.rows(Projection::Timeline.tables()[0]);
    assert_eq!(timeline.len(), events);

    // Undisturbed, and with nothing coming in.
    let rebuilt = place.answer_of(&["projections", "rebuild", "all", "--json"]);
    for rebuild in serde_json::from_str::<Vec<Value>>(&rebuilt).unwrap() {
        assert_eq!(rebuild["checksum_equal"], true, "{rebuild}");
        assert_eq!(rebuild["done"], rebuild["total"], "{rebuild}");
        assert_eq!(rebuild["done"], events, "{rebuild}");
    }
    let rebuilt = Tables::live(&store, &Projection::ALL).await;
    assert_eq!(rebuilt.difference(&tables), "");

    for projection in Projection::ALL {
        let printed: usize = storms
            .iter()
            .zip(["csv", "ndjson"].into_iter().cycle())
            .map(|(storm, format)| {
                assert_replayed(place, &tables, projection, &storm.tenant.id, format)
            })
            .sum();
        assert_eq!(printed, tables.rows(projection.tables()[0]).len());
    }
    drop(service);
    store.close().await;
    database.close().await;
}

/// Every distinct command is one event, and the tables have all of them.
async fn assert_complete(store: &Store, storms: &[Storm]) {
    let mut wanted: Vec<i64> = Vec::new();
    for storm in storms {
        wanted.push(i64::try_from(storm.events).unwrap());
    }
    until("the tables have everything", PATIENCE, async || {
        let progress = store.progress().await.unwrap();
        let places = progress.iter().map(|progress| &progress.checkpoint);
        places.clone().for_each(|at| {
            let number = usize::try_from(at.partition.0).unwrap();
            assert_eq!(at.head.0, wanted[number], "{at:?}");
            assert_eq!(at.error, None, "{at:?}");
        });
        let mut places = places;
        places.all(|at| at.position == at.head).then_some(())
    })
    .await;
}

/// Facts about one tenant's notifications, in any order, some of them told again.
struct Storm {
    tenant: Tenant,
    dice: Dice,
    notifications: Vec<Uuid>,
    told: Vec<Value>,
    /// Commands that differ from each other.
    events: usize,
}

impl Storm {
    fn over(tenant: Tenant, dice: &mut Dice) -> Self {
        Self {
            tenant,
            dice: dice.split(),
            notifications: Vec::new(),
            told: Vec::new(),
            events: 0,
        }
    }

    /// So many commands.
    fn wave(&mut self, commands: usize) -> Vec<Value> {
        let mut wave: Vec<Value> = (0..commands).map(|_| self.command()).collect();
        for last in (1..wave.len()).rev() {
            wave.swap(last, self.dice.roll(0..last + 1));
        }
        // There are no facts about what is not there yet.
        wave.sort_by_key(|command| command["type"] != "request");
        wave
    }

    fn command(&mut self) -> Value {
        let kind = self.dice.roll(0..10);
        if kind == 9 && !self.told.is_empty() {
            return self.dice.pick(&self.told).clone();
        }
        let command = if kind < 2 || self.notifications.is_empty() {
            self.request()
        } else {
            self.fact()
        };
        self.events += 1;
        self.told.push(command.clone());
        command
    }

    fn request(&mut self) -> Value {
        let id = self.dice.uuid();
        self.notifications.push(id);
        let number = self.events;
        let channels = [json!([]), json!(["email"]), json!(["email", "sms"])];
        json!({
            "type": "request",
            "id": id,
            "workflow_id": self.dice.pick(&["welcome", "=dunning, \"2nd\" 📨"]),
            "subscriber": { "id": self.dice.pick(&["ann", "bob"]), "email": "a@example.test" },
            "external_id": format!("-order {number}"),
            "channels": self.dice.pick(&channels),
            "category": self.dice.pick(&["transactional", "escalation"]),
            "metadata": { "line": format!("{number}\n\"é\"") },
        })
    }

    /// Late or early, about one of few messages.
    fn fact(&mut self) -> Value {
        let dice = &mut self.dice;
        let day = 86_400_000_000;
        let days = i64::try_from(dice.roll(0..3)).unwrap() - 1;
        let micros = i64::try_from(dice.roll(0..7_200)).unwrap() * 1_000_000;
        let noon = Timestamp::parse("2026-03-14T12:00:00Z").unwrap();
        // No two facts are the same fact.
        let number = i64::try_from(self.events).unwrap();
        let at = noon.as_micros() + days * day + micros + number;
        let mut message = json!({});
        if dice.roll(0..2) == 0 {
            message["provider_message_id"] = json!(dice.pick(&["sg-1", "sg-2"]));
        }
        if dice.roll(0..2) == 0 {
            message["channel"] = json!(dice.pick(&["email", "sms"]));
        }
        if dice.roll(0..3) == 0 {
            message["provider_id"] = json!(dice.pick(&["sendgrid", "ses"]));
        }
        let mut fact = match dice.roll(0..8) {
            0 | 1 => json!({ "type": "sent" }),
            2 | 3 => json!({ "type": "delivered" }),
            4 => {
                let kind = dice.pick(&["hard", "soft", "complaint"]);
                json!({ "type": "bounced", "bounce_type": kind, "code": "550" })
            }
            5 => json!({
                "type": "failed",
                "error": { "code": "timeout", "message": "no answer" },
                "retryable": dice.roll(0..2) == 0,
            }),
            6 => json!({ "type": dice.pick(&["seen", "read"]) }),
            _ => json!({ "type": "interacted", "kind": dice.pick(&["opened", "unread"]) }),
        };
        fact["notification_id"] = json!(dice.pick(&self.notifications));
        fact["message"] = message;
        fact["occurred_at"] = json!(Timestamp::from_micros(at).unwrap());
        fact
    }
}

/// Lets every tenant tell a wave of its own.
fn rage(storms: &mut [Storm], addresses: &Addresses, dice: &mut Dice) -> JoinSet<()> {
    let mut telling = JoinSet::new();
    for storm in storms {
        let wave = storm.wave(dice.roll(WAVE));
        let caller = Caller::new(addresses, &storm.tenant);
        let calls = wave.chunks(CALL).map(|commands| {
            let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
            (lines.join("\n"), commands.len())
        });
        let calls: Vec<_> = calls.collect();
        telling.spawn(async move {
            for (lines, commands) in calls {
                tell(&caller, &lines, commands).await;
            }
        });
    }
    telling
}

/// Repeats a call until all of it is answered.
async fn tell(caller: &Caller, lines: &str, commands: usize) {
    let started = Instant::now();
    while !try_to_tell(caller, lines, commands).await {
        assert!(started.elapsed() < GOES_ON, "nobody answers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn try_to_tell(caller: &Caller, lines: &str, commands: usize) -> bool {
    let Ok(answer) = caller.try_post_lines("/v1/commands", lines).await else {
        return false;
    };
    if answer.status == 503 {
        return false;
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.lines();
    let is_later = |result: &Value| result["status"] == 503;
    if results.len() < commands || results.iter().any(is_later) {
        return false;
    }
    for result in &results {
        let known = result["problem"]["code"] == "already_exists";
        let done = result["status"] == 200 || result["status"] == 201;
        assert!(done || known, "{result}");
    }
    true
}

/// A command that rebuilds, or watches until others have. Killed when dropped.
struct Watching(Child);

impl Watching {
    fn over(place: &Place, names: &[&str]) -> Self {
        let mut command = place.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let rebuild = command.args(["projections", "rebuild"]).args(names);
        Self(rebuild.spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nobody can note how far a rebuild has come, for as long as this is there.
enum Halt {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Halt {
    /// As soon as nobody is about to note it.
    async fn of(place: &Place) -> Self {
        let url = place.database_url();
        if url.starts_with("sqlite:") {
            let options: SqliteConnectOptions = url.parse().unwrap();
            // Its writers wait longer and longer, so who tries often gets in between.
            let options = options.busy_timeout(Duration::ZERO);
            let mut connection = options.connect().await.unwrap();
            while connection.execute("BEGIN IMMEDIATE").await.is_err() {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            return Self::Sqlite(connection);
        }
        let mut connection = PgConnection::connect(url).await.unwrap();
        let halt = "BEGIN; LOCK TABLE projection_rebuilds, projection_rebuild_parts IN SHARE MODE";
        sqlx::raw_sql(halt).execute(&mut connection).await.unwrap();
        Self::Postgres(connection)
    }

    async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

/// A rebuild as its process left it.
struct Left {
    rebuild: Rebuild,
    parts: Vec<Part>,
}

/// Lets some rebuilds begin until at least one is in its midst. Says who was begun, how the rebuilds
/// stand, and keeps them from going on.
async fn caught<B>(
    place: &Place,
    store: &Store,
    wanted: &[Projection],
    moment: Moment,
    mut begin: impl AsyncFnMut() -> B,
) -> (B, Vec<Left>, Halt) {
    for _ in 0..CATCHES {
        let before: Vec<_> = store.rebuilds().await.unwrap();
        let is_over = |rebuilds: &[Rebuild]| {
            let ended = rebuilds.iter().filter(|rebuild| {
                let is_new = before
                    .iter()
                    .all(|old| old.rebuild_id != rebuild.rebuild_id);
                wanted.contains(&rebuild.projection) && is_new && rebuild.state != State::Running
            });
            ended.count() == wanted.len()
        };
        let whoever = begin().await;
        loop {
            let halt = Halt::of(place).await;
            let mut left = Vec::new();
            for rebuild in store.rebuilds().await.unwrap() {
                if wanted.contains(&rebuild.projection) && rebuild.state == State::Running {
                    let parts = store.rebuild_parts(rebuild.projection).await.unwrap();
                    left.push(Left { rebuild, parts });
                }
            }
            let is_it = |left: &Left| match moment {
                Moment::Filling => {
                    let Rebuild { done, total, .. } = left.rebuild;
                    left.rebuild.phase == Phase::Filling && 0 < done && done < total
                }
                Moment::Filled => left.rebuild.phase != Phase::Filling,
            };
            if left.iter().any(is_it) {
                return (whoever, left, halt);
            }
            halt.release().await;
            if is_over(&store.rebuilds().await.unwrap()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    panic!("no rebuild was ever caught {moment:?}");
}

/// Whoever goes on does not begin anew, and not before the dead one's lease is over.
async fn assert_goes_on(store: &Store, left: &[Left]) {
    until("the rebuilds are done", GOES_ON, async || {
        let rebuilds = store.rebuilds().await.unwrap();
        let mut done = 0;
        for Left { rebuild, parts } in left {
            let now = rebuilds
                .iter()
                .find(|now| now.projection == rebuild.projection)
                .unwrap();
            assert_eq!(now.rebuild_id, rebuild.rebuild_id, "{now:?}");
            assert_eq!(now.started_at, rebuild.started_at, "{now:?}");
            assert!(
                [State::Running, State::Done].contains(&now.state),
                "{now:?}"
            );
            if now.owner != rebuild.owner {
                assert!(System.now() > rebuild.lease_until, "{now:?}");
            }
            assert_none_goes_back(store, parts, rebuild).await;
            if now.state == State::Done {
                assert_eq!(now.done, now.total, "{now:?}");
                assert_eq!(now.checksum_equal, Some(true), "{now:?}");
                done += 1;
            }
        }
        (done == left.len()).then_some(())
    })
    .await;
}

async fn assert_none_goes_back(store: &Store, parts: &[Part], rebuild: &Rebuild) {
    let now = store.rebuild_parts(rebuild.projection).await.unwrap();
    let now: BTreeMap<_, _> = now.iter().map(|part| (part.partition, part)).collect();
    for part in parts {
        let now = now[&part.partition];
        assert!(now.done >= part.done, "{now:?}, {part:?}");
        assert!(now.is_filled >= part.is_filled, "{now:?}, {part:?}");
        assert_eq!(now.target, part.target, "{now:?}");
    }
}
