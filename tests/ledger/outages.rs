//! A database that is gone, read-only or busy: what was not stored is said not to be, and all
//! goes on by itself afterwards.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use notification_ledger::domain::ids::{EventId, Sequence};
use notification_ledger::domain::sealing::Subject;
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::ledger::storage::StorageError;
use notification_ledger::ledger::verify::verify;
use notification_ledger::ledger::{CommandError, LedgerError, Options};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;

use crate::client::{Client, Told, checked_record, idempotency, request, sent};
use crate::support::{Place, on_each_database, on_postgres, on_sqlite};

on_each_database!("current_thread":
    what_the_database_refuses_harms_nobody_else_in_its_batch,
    a_database_that_changed_its_mind_is_asked_again,
    a_private_text_is_not_stored_without_its_key,
    who_may_only_read_can_read_and_verify,
);

/// How long a lane may take to find a database that is back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

fn storage_error(told: &Told) -> Option<&StorageError> {
    match told {
        Err(CommandError::Ledger(LedgerError::Storage(error))) => Some(error),
        _ => None,
    }
}

fn assert_unavailable(told: &Told) {
    assert!(
        matches!(storage_error(told), Some(StorageError::Unavailable(_))),
        "{told:?}"
    );
}

/// A new notification, as soon as the database is back.
async fn requested_again(client: &Client) {
    let started = Instant::now();
    loop {
        let told = client.begin(client.new_stream(), request()).await;
        if told.is_ok() {
            return;
        }
        assert_unavailable(&told);
        assert!(started.elapsed() < BACK_WITHIN, "{told:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn what_the_database_refuses_harms_nobody_else_in_its_batch(place: &Place) {
    let client = Client::of(place);
    // PostgreSQL has no U+0000 in texts. SQLite has, and is given a rule to break instead.
    let bad = client.correlating("a\0b");
    if !place.is_postgres() {
        let rule = "CREATE TRIGGER no_nul BEFORE INSERT ON events
            WHEN instr(NEW.correlation_id, char(0)) > 0
            BEGIN SELECT RAISE(ABORT, 'no U+0000'); END";
        place.sql(rule).await.unwrap();
    }

    let clients = [client.clone(), bad.clone(), client.clone(), client.clone()];
    let told = clients
        .iter()
        .map(|client| client.begin(client.new_stream(), request()));
    let told = join_all(told).await;
    let refused = storage_error(&told[1]);
    assert!(
        matches!(refused, Some(StorageError::Rejected(_))),
        "{told:?}"
    );
    assert_eq!(told.iter().flatten().count(), 3, "{told:?}");
    // Alone it is refused, too, and leaves nothing behind.
    let alone = bad
        .with_key("k", 1)
        .begin(client.new_stream(), request())
        .await;
    assert!(
        matches!(storage_error(&alone), Some(StorageError::Rejected(_))),
        "{alone:?}"
    );
    let again = client
        .with_key("k", 1)
        .begin(client.new_stream(), request())
        .await
        .unwrap();
    assert!(!again.replayed);
    assert_eq!(checked_record(place).await.len(), 4);
}

async fn a_database_that_changed_its_mind_is_asked_again(place: &Place) {
    let client = Client::of(place);
    let stream = client.requested().await;
    place
        .sql("ALTER TABLE idempotency_keys RENAME TO moved")
        .await
        .unwrap();
    let keyed = client.with_key("k", 1);
    assert_unavailable(&keyed.begin(client.new_stream(), request()).await);
    // The others have no use for that table.
    client.tell(stream, sent("sg-1")).await.unwrap();

    place
        .sql("ALTER TABLE moved RENAME TO idempotency_keys")
        .await
        .unwrap();
    keyed.begin(client.new_stream(), request()).await.unwrap();
    assert_eq!(checked_record(place).await.len(), 3);
}

async fn a_private_text_is_not_stored_without_its_key(place: &Place) {
    let client = Client::of(place);
    let stream = client.key(client.new_stream());
    place
        .sql("ALTER TABLE data_keys RENAME TO moved")
        .await
        .unwrap();
    let id = EventId(client.surroundings.ids.time_ordered());
    let sealed = client
        .ledger
        .seal_apart(&stream, &Subject::Stream, id, "secret")
        .await;
    assert!(matches!(sealed, Err(LedgerError::Storage(_))), "{sealed:?}");
    let told = client.confide(stream.stream_id, request(), "secret").await;
    assert_unavailable(&told);
    assert_eq!(checked_record(place).await, []);

    place
        .sql("ALTER TABLE moved RENAME TO data_keys")
        .await
        .unwrap();
    client
        .confide(stream.stream_id, request(), "secret")
        .await
        .unwrap();
    assert_eq!(checked_record(place).await.len(), 1);
}

async fn who_may_only_read_can_read_and_verify(place: &Place) {
    let stream = Client::of(place).requested().await;
    let database = place.read_only_database();
    let reader = Client::on(
        place,
        place.process_on(database.storage(), Options::default()),
    );
    assert_unavailable(&reader.tell(stream, sent("sg-1")).await);
    let kept = reader
        .ledger
        .keep_answer(&reader.order.tenant, &idempotency("k", 1), None)
        .await;
    assert!(matches!(kept, Err(LedgerError::Storage(_))), "{kept:?}");

    assert_eq!(reader.load(stream).await.tip.sequence, Sequence(1));
    let head = database.storage().heads().await.unwrap().remove(0);
    let storage = database.storage();
    let verdict = verify(storage.as_ref(), &head, Position(1), |_| {})
        .await
        .unwrap();
    assert_eq!(verdict.unwrap().events, 1);
    assert_eq!(checked_record(place).await.len(), 1);
    database.close().await;
}

/// A process that is somebody of its own to PostgreSQL, named after the schema.
async fn as_a_role(place: &Place) -> (Client, Database) {
    let role = "DO $$ BEGIN
        EXECUTE format('CREATE ROLE %1$I LOGIN PASSWORD ''outage''', current_schema());
        EXECUTE format('GRANT USAGE ON SCHEMA %1$I TO %1$I', current_schema());
        EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %1$I TO %1$I', current_schema());
    END $$";
    place.sql(role).await.unwrap();
    let Database::Postgres { pool, options } = place.database() else {
        unreachable!()
    };
    let name: String = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(pool)
        .await
        .unwrap();
    let options = options.as_ref().clone().username(&name).password("outage");
    let database = Database::Postgres {
        pool: PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_millis(200))
            .connect_lazy_with(options.clone()),
        options: Box::new(options),
    };
    let ledger = place.process_on(database.storage(), Options::default());
    (Client::on(place, ledger), database)
}

/// Changes the role of [`as_a_role`] and ends its connections.
async fn change_role(place: &Place, to: &str) {
    let change = format!(
        "DO $$ BEGIN EXECUTE format('ALTER ROLE %I {to}', current_schema()); END $$;
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = current_schema()"
    );
    place.sql(&change).await.unwrap();
}

async fn its_connections_end(place: &Place) {
    let (client, database) = as_a_role(place).await;
    let stream = client.requested().await;
    change_role(place, "LOGIN").await;

    // Nobody need notice.
    client.tell(stream, sent("sg-1")).await.unwrap();
    change_role(place, "LOGIN").await;
    client.requested().await;
    assert_eq!(checked_record(place).await.len(), 3);
    database.close().await;
}

async fn it_lets_nobody_in(place: &Place) {
    let (client, database) = as_a_role(place).await;
    client.requested().await;
    change_role(place, "NOLOGIN").await;
    for _ in 0..3 {
        assert_unavailable(&client.begin(client.new_stream(), request()).await);
    }

    change_role(place, "LOGIN").await;
    requested_again(&client).await;
    assert_eq!(checked_record(place).await.len(), 2);
    database.close().await;
}

async fn it_is_read_only(place: &Place) {
    let (client, database) = as_a_role(place).await;
    let stream = client.requested().await;
    change_role(place, "SET default_transaction_read_only = on").await;
    assert_unavailable(&client.tell(stream, sent("sg-1")).await);
    assert_unavailable(&client.begin(client.new_stream(), request()).await);
    assert_eq!(client.events(stream).await.len(), 1);

    change_role(place, "RESET default_transaction_read_only").await;
    requested_again(&client).await;
    client.tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!(checked_record(place).await.len(), 3);
    database.close().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_broken_connection_is_replaced_unnoticed() {
    on_postgres(its_connections_end).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_database_that_comes_back_is_found() {
    on_postgres(it_lets_nobody_in).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_database_can_be_read_only_for_a_while() {
    on_postgres(it_is_read_only).await;
}

async fn somebody_else_holds_the_file(place: &Place) {
    let Database::Sqlite { options, path, .. } = place.database() else {
        unreachable!()
    };
    let options = options
        .as_ref()
        .clone()
        .busy_timeout(Duration::from_millis(20));
    let database = Database::Sqlite {
        pool: SqlitePoolOptions::new().connect_lazy_with(options.clone()),
        options: Box::new(options),
        path: path.clone(),
    };
    let ledger = place.process_on(database.storage(), Options::default());
    let client = Client::on(place, ledger);
    let stream = client.requested().await;
    let mut other = place.storage.writer().await.unwrap();
    other.lock_heads(&[Partition(0)]).await.unwrap();
    assert_unavailable(&client.tell(stream, sent("sg-1")).await);
    assert_eq!(client.events(stream).await.len(), 1);

    other.roll_back().await.unwrap();
    client.tell(stream, sent("sg-1")).await.unwrap();
    assert_eq!(checked_record(place).await.len(), 2);
    drop(client);
    database.close().await;
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_waited_for_only_so_long() {
    on_sqlite(somebody_else_holds_the_file).await;
}
