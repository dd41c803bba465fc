//! Lists of a range of time: what is found through zones is what somebody finds who looks at every
//! row. Rows are written into the tables directly, enough of them for many zones, with times that
//! follow their positions here, and go astray there.

use std::collections::BTreeMap;

use notification_ledger::domain::event::Category;
use notification_ledger::domain::ids::{StreamId, TenantId};
use notification_ledger::domain::state::Status;
use notification_ledger::domain::time::Timestamp;
use notification_ledger::ledger::record::{Partition, Position, TenantPlace};
use notification_ledger::projections::Projection;
use notification_ledger::projections::notification_logs::{self, NOTIFICATION_LOGS};
use notification_ledger::projections::notifications::{self, METADATA, NOTIFICATIONS};
use notification_ledger::projections::rebuild::State;
use notification_ledger::projections::store::{self, Store};
use notification_ledger::projections::table::{Cell, Kind, Rows, Table};
use ring::digest::{Context, SHA256};
use uuid::Uuid;

use crate::dice::Dice;
use crate::process::{Process, until};
use crate::storm::{Callers, storm};
use crate::support::{Place, on_each_database};
use crate::tables::Tables;

on_each_database!("multi_thread":
    ranges_have_what_is_in_them,
    ranges_have_what_is_in_them_after_a_storm_a_rebuild_and_an_upgrade,
);

/// Rows of each list: enough for thirty zones, and for more in one zone than are looked at by time.
const ROWS: u64 = 24_000;
/// Positions from one to the next, on average.
const STRIDE: u64 = 20;
const SECOND: i64 = 1_000_000;
/// When the first of them was: 2026-03-14T09:00:00Z.
const BEGIN: i64 = 1_773_478_800 * SECOND;
/// How long nothing happens, in the middle.
const GAP: i64 = 100_000 * SECOND;
/// Lists that are asked for.
const ASKED: usize = 250;
const WORKFLOWS: [&str; 4] = ["welcome", "dunning \u{1f4e8}", "rare", "none"];
const STATUSES: [Status; 4] = [
    Status::Delivered,
    Status::Bounced,
    Status::Queued,
    Status::Failed,
];

async fn ranges_have_what_is_in_them(place: &Place) {
    let mut dice = Dice::of_test("ranges_have_what_is_in_them");
    let store = Store::new(place.database());
    written(&store, &mut dice).await;

    let lists = Lists::of(&store).await;
    for _ in 0..ASKED {
        lists.ask(&store, &mut dice).await;
    }
    for _ in 0..5 {
        lists.page_through(&store, &mut dice).await;
    }
    store.close().await;
}

async fn ranges_have_what_is_in_them_after_a_storm_a_rebuild_and_an_upgrade(place: &Place) {
    let mut dice = Dice::of_test("ranges_after_a_storm");
    let process = Process::of(place).await;
    let store = process.projections.store().clone();
    let callers = Callers::of(&process.client);
    for turn in storm(400, 31).iter().filter(|turn| turn.is_a_deed()) {
        callers.act(turn).await;
    }
    drop(callers);
    process.settle().await;
    let lists = Lists::of(&store).await;
    let rows = &lists.0[0].rows;
    assert!(rows.len() >= 8, "a poor storm: {} rows", rows.len());
    for _ in 0..ASKED {
        lists.ask(&store, &mut dice).await;
    }
    process.stop().await;

    // A release that knew of no zones began to rebuild, and never ended.
    let process = Process::idle(place);
    let projections = [Projection::Notifications, Projection::NotificationLogs];
    for list in ["notifications", "notification_logs"] {
        let older = format!(
            "DROP INDEX {list}_by_zone;
            CREATE INDEX {list}_by_time ON {list} (tenant_id, occurred_at);
            DELETE FROM _sqlx_migrations WHERE version = 7"
        );
        place.sql(&older).await.unwrap();
    }
    assert_eq!(indexes(place, process.projections.store()).await, 0);
    process
        .projections
        .rebuild(&Projection::ALL, None)
        .await
        .unwrap();
    place.database().migrate().await.unwrap();
    for rebuild in process.projections.rebuilds().await.unwrap() {
        let is_failed = rebuild.state == State::Failed;
        assert_eq!(is_failed, projections.contains(&rebuild.projection));
    }
    assert_eq!(indexes(place, process.projections.store()).await, 2);
    for _ in 0..ASKED / 5 {
        lists.ask(process.projections.store(), &mut dice).await;
    }

    process.start().await;
    process
        .projections
        .rebuild(&projections, None)
        .await
        .unwrap();
    until(async || {
        let rebuilds = process.projections.rebuilds().await.unwrap();
        let is_done = |state| state == State::Done;
        let done = rebuilds.iter().all(|rebuild| is_done(rebuild.state));
        done.then_some(()).ok_or(rebuilds)
    })
    .await;
    assert_eq!(indexes(place, process.projections.store()).await, 2);
    for _ in 0..ASKED / 5 {
        lists.ask(process.projections.store(), &mut dice).await;
    }
    process.stop().await;
}

/// How many indexes there are by zone.
async fn indexes(place: &Place, store: &Store) -> usize {
    let all = if place.is_postgres() {
        "SELECT indexdef::text FROM pg_indexes WHERE schemaname = current_schema()"
    } else {
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    };
    let definition = &NOTIFICATIONS.columns[1..2];
    let found = store.select(all, &[], definition).await.unwrap();
    let by_zone =
        |row: &&Vec<Cell<'_>>| row[0].as_text().unwrap().contains("first_position / 16384");
    found.iter().filter(by_zone).count()
}

/// Writes rows of two tenants into both lists.
async fn written(store: &Store, dice: &mut Dice) {
    let tables: [&'static Table; 3] = [&NOTIFICATIONS, &NOTIFICATION_LOGS, &METADATA];
    let mut rows = tables.map(Rows::new);
    let mut position = 0;
    for number in 0..ROWS {
        position += 1 + dice.number() % (2 * STRIDE - 1);
        let ordered = i64::try_from(number).unwrap() * SECOND;
        let astray = i64::try_from(dice.number() % ROWS).unwrap() * SECOND;
        let since = match number * 100 / ROWS {
            0..30 => ordered,
            30..40 => ordered + GAP,
            40..60 => astray,
            _ if dice.number().is_multiple_of(100) => astray + GAP,
            _ => ordered + 2 * GAP,
        };
        let one_in = |of: u64| number.is_multiple_of(of);
        let workflow = match number {
            _ if one_in(3_000) => "rare",
            _ if one_in(3) => WORKFLOWS[0],
            _ => WORKFLOWS[1],
        };
        let status = match number {
            // Among the newest none is delivered.
            _ if number * 100 / ROWS >= 90 => Status::Failed,
            _ if one_in(1_000) => Status::Queued,
            _ if one_in(50) => Status::Bounced,
            _ => Status::Delivered,
        };
        let tenant = if one_in(500) { "globex" } else { "acme" };
        let order = if one_in(2_500) { "2" } else { "1" };
        let id = Uuid::from_u128(u128::from(number) + 1);
        for (table, rows) in tables.iter().zip(&mut rows) {
            let cell = |(name, kind)| match (name, kind) {
                ("tenant_id", _) => tenant.into(),
                ("notification_id", _) => id.into(),
                ("first_position", _) => i64::try_from(position).unwrap().into(),
                ("occurred_at", _) => (BEGIN + since).into(),
                ("workflow_id", _) => workflow.into(),
                ("status", _) => status.as_str().into(),
                ("category", _) => Category::Marketing.as_str().into(),
                ("subscriber_id", _) => format!("cust-{}", number % 700).into(),
                ("channel", _) => if one_in(7) { "sms" } else { "email" }.into(),
                ("metadata", _) => format!(r#"{{"order":"{order}"}}"#).into(),
                ("entry", _) => entry("order", order).into(),
                (_, Kind::Small | Kind::Int | Kind::Time) => Cell::Int(0),
                (_, Kind::Bool) => Cell::Bool(false),
                (_, Kind::Text) => "".into(),
                (_, Kind::Json) => "[]".into(),
                (_, Kind::Uuid) => Uuid::nil().into(),
            };
            let columns = table.columns.iter();
            let row: Vec<Cell<'_>> = columns
                .map(|column| cell((column.name, column.kind)))
                .collect();
            rows.extend_from_row(&row);
        }
    }
    let mut transaction = store.begin().await.unwrap();
    for rows in &rows {
        transaction.add(store::Place::Live, rows).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

/// How a metadata entry is found, as the projection has it.
fn entry(key: &str, value: &str) -> Uuid {
    let mut context = Context::new(&SHA256);
    context.update(&(key.len() as u64).to_be_bytes());
    context.update(key.as_bytes());
    context.update(value.as_bytes());
    Uuid::from_slice(&context.finish().as_ref()[..16]).unwrap()
}

/// All rows of both lists, newest first.
struct Lists([List; 2]);

struct List {
    table: &'static Table,
    rows: Vec<Vec<Cell<'static>>>,
}

/// What is asked of either list. Without values, a filter lets all pass.
#[derive(Clone, Debug)]
struct Question {
    tenant: TenantPlace,
    from: Option<i64>,
    to: Option<i64>,
    before: Option<i64>,
    limit: i64,
    statuses: Vec<Status>,
    workflows: Vec<String>,
    channels: Vec<String>,
    subscribers: Vec<String>,
    order: Option<String>,
}

impl Lists {
    async fn of(store: &Store) -> Self {
        let projections = [Projection::Notifications, Projection::NotificationLogs];
        let tables = Tables::live(store, &projections).await;
        let list = |table| List::of(table, tables.rows(table));
        Self([list(&NOTIFICATIONS), list(&NOTIFICATION_LOGS)])
    }

    /// Asks one of them for something, and looks whether the answer is what is there.
    async fn ask(&self, store: &Store, dice: &mut Dice) {
        let list = dice.pick(&self.0);
        let question = list.question(dice);
        let mut expected = list.expected(&question);
        expected.truncate(usize::try_from(question.limit).unwrap());
        let found = list.found(store, &question).await;
        assert_eq!(found, expected, "{}: {question:?}", list.table.name);
    }

    /// Pages through one of them: what is found altogether is what is there.
    async fn page_through(&self, store: &Store, dice: &mut Dice) {
        let list = dice.pick(&self.0);
        let mut question = Question {
            before: None,
            limit: 201,
            ..list.question(dice)
        };
        let expected = list.expected(&question);
        let mut found: Vec<i64> = Vec::new();
        loop {
            let page = list.found(store, &question).await;
            found.extend(&page);
            if page.len() < 201 {
                break;
            }
            question.before = page.last().copied();
        }
        assert_eq!(found, expected, "{}: {question:?}", list.table.name);
    }
}

impl List {
    fn of(table: &'static Table, rows: &[Vec<Cell<'static>>]) -> Self {
        let mut list = Self {
            table,
            rows: rows.to_vec(),
        };
        let mut rows = std::mem::take(&mut list.rows);
        rows.sort_by_key(|row| std::cmp::Reverse(list.cell(row, "first_position").as_int()));
        Self { table, rows }
    }

    fn cell<'a>(&self, row: &'a [Cell<'static>], name: &str) -> &'a Cell<'static> {
        let mut columns = self.table.columns.iter();
        &row[columns.position(|column| column.name == name).unwrap()]
    }

    fn int(&self, row: &[Cell<'static>], name: &str) -> i64 {
        self.cell(row, name).as_int().unwrap()
    }

    fn question(&self, dice: &mut Dice) -> Question {
        let time = |dice: &mut Dice| {
            let near: &Vec<_> = dice.pick(&self.rows);
            let near = self.int(near, "occurred_at");
            let by = *dice.pick(&[0, 0, 1, SECOND, -SECOND, GAP / 2, -GAP / 2, 3 * GAP]);
            (dice.roll(0..4) > 0).then_some(near + by)
        };
        let (from, mut to) = (time(dice), time(dice));
        if dice.roll(0..3) == 0 {
            // A short one.
            to = from.map(|from| from + *dice.pick(&[0, 1, 60, 3_600]) * SECOND);
        }
        let tenant: &&str = dice.pick(&["acme", "acme", "acme", "globex"]);
        let newest = self.int(&self.rows[0], "first_position");
        let few = |dice: &mut Dice| dice.roll(0..8).saturating_sub(5);
        let words = |dice: &mut Dice, words: &[&str]| {
            let words = (0..few(dice)).map(|_| (*dice.pick(words)).to_owned());
            words.collect::<Vec<String>>()
        };
        let is_logs = self.table.name == NOTIFICATION_LOGS.name;
        Question {
            tenant: TenantPlace {
                tenant_id: TenantId::new(tenant).unwrap(),
                partition: Partition(0),
            },
            from,
            to,
            before: (dice.roll(0..2) > 0)
                .then(|| i64::try_from(dice.number()).map_or(1, |one| one % (newest + 2))),
            limit: *dice.pick(&[1, 7, 51, 201]),
            statuses: (0..few(dice)).map(|_| *dice.pick(&STATUSES)).collect(),
            workflows: words(dice, &WORKFLOWS),
            channels: if is_logs {
                words(dice, &["email", "sms"])
            } else {
                Vec::new()
            },
            subscribers: match dice.roll(0..10) {
                0 => vec!["cust-7".to_owned(), "ann".to_owned()],
                _ => Vec::new(),
            },
            order: match dice.roll(0..6) {
                0 if !is_logs => Some((*dice.pick(&["1", "2", "3"])).to_owned()),
                _ => None,
            },
        }
    }

    /// First positions of the rows that fit, newest first.
    fn expected(&self, question: &Question) -> Vec<i64> {
        let one_of = |row: &[Cell<'static>], name: &str, values: &[String]| {
            let has = |text| values.iter().any(|value| value == text);
            values.is_empty() || self.cell(row, name).as_text().is_some_and(has)
        };
        let statuses: Vec<String> = question
            .statuses
            .iter()
            .map(|status| status.as_str().to_owned())
            .collect();
        let fits = |row: &&Vec<Cell<'static>>| {
            let occurred_at = self.int(row, "occurred_at");
            let is_logs = self.table.name == NOTIFICATION_LOGS.name;
            let has_order = |order: &String| {
                let metadata = self.cell(row, "metadata").as_text().unwrap();
                let metadata: BTreeMap<String, String> = serde_json::from_str(metadata).unwrap();
                metadata.get("order") == Some(order)
            };
            self.cell(row, "tenant_id").as_text() == Some(question.tenant.tenant_id.as_str())
                && question.from.is_none_or(|from| occurred_at >= from)
                && question.to.is_none_or(|to| occurred_at < to)
                && question
                    .before
                    .is_none_or(|before| self.int(row, "first_position") < before)
                && one_of(row, "status", &statuses)
                && one_of(row, "workflow_id", &question.workflows)
                && one_of(row, "subscriber_id", &question.subscribers)
                && (!is_logs || one_of(row, "channel", &question.channels))
                && question.order.as_ref().is_none_or(has_order)
        };
        let rows = self.rows.iter().filter(fits);
        rows.map(|row| self.int(row, "first_position")).collect()
    }

    /// The same, as the list says.
    async fn found(&self, store: &Store, question: &Question) -> Vec<i64> {
        let time = |micros: Option<i64>| micros.map(Timestamp::from_micros_clamped);
        let Question { tenant, limit, .. } = question;
        let before = question.before.map(Position);
        let mut ids: Vec<(StreamId, String)> = Vec::new();
        let positions: Vec<i64> = if self.table.name == NOTIFICATION_LOGS.name {
            let wanted = notification_logs::query::Wanted {
                status: question.statuses.clone(),
                workflow_id: question.workflows.clone(),
                channel: question.channels.clone(),
                subscriber_id: question.subscribers.clone(),
                from: time(question.from),
                to: time(question.to),
                ..Default::default()
            };
            let list = notification_logs::query::list(store, tenant, &wanted, before, *limit);
            let found = list.await.unwrap();
            for row in &found {
                ids.push((row.notification_id, row.message_key.clone()));
            }
            found.iter().map(|row| row.first_position.0).collect()
        } else {
            let orders = question.order.iter();
            let wanted = notifications::query::Wanted {
                status: question.statuses.clone(),
                workflow_id: question.workflows.clone(),
                subscriber_id: question.subscribers.clone(),
                metadata: orders
                    .map(|order| ("order".to_owned(), vec![order.clone()]))
                    .collect(),
                from: time(question.from),
                to: time(question.to),
                ..Default::default()
            };
            let list = notifications::query::list(store, tenant, &wanted, before, *limit);
            let found = list.await.unwrap();
            for row in &found {
                ids.push((row.notification_id, String::new()));
            }
            found.iter().map(|row| row.first_position.0).collect()
        };
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(
            ids.len(),
            positions.len(),
            "twice in one page: {question:?}"
        );
        positions
    }
}
