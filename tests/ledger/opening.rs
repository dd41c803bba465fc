//! A ledger is created once, whoever comes first, and knows what it is ever after.

use std::time::Duration;

use notification_ledger::clock::IdSource;
use notification_ledger::ledger::database::{Database, LedgerRow, OpenError};
use notification_ledger::ledger::record::Position;

use crate::client::Client;
use crate::support::{PARTITIONS, Place, on_each_database};

on_each_database!("multi_thread":
    the_first_to_create_a_ledger_says_what_it_is,
    the_schema_can_be_brought_up_to_date_again,
    a_newer_schema_is_left_alone,
    processes_that_start_together_bring_the_schema_up_to_date,
    a_new_epoch_concerns_every_partition,
    who_may_only_read_can_tell_the_schema,
);

async fn the_first_to_create_a_ledger_says_what_it_is(place: &Place) {
    let database = place.database();
    place
        .sql("DELETE FROM ledger; DELETE FROM partition_heads")
        .await
        .unwrap();
    let row = |partitions| LedgerRow {
        ledger_id: place.ids.random(),
        partitions,
        key_check: format!("check {partitions}"),
        created_at: place.surroundings().now(),
    };
    assert_eq!(database.ledger_row().await.unwrap(), None);

    let (two, five) = (row(2), row(5));
    let epoch = place.ids.random();
    let created = tokio::join!(
        database.create_ledger(&two, epoch),
        database.create_ledger(&five, epoch)
    );
    let (one, other) = (created.0.unwrap(), created.1.unwrap());
    assert!(one.1 != other.1, "one of them created it");
    let standing = if one.1 { two } else { five };
    assert_eq!((&one.0, &other.0), (&standing, &standing));
    assert_eq!(database.ledger_row().await.unwrap(), Some(standing.clone()));
    let heads = place.storage.heads().await.unwrap();
    assert_eq!(heads.len(), usize::try_from(standing.partitions).unwrap());
    assert!(
        heads
            .iter()
            .all(|head| head.position == Position(0) && head.epoch == epoch)
    );
}

async fn the_schema_can_be_brought_up_to_date_again(place: &Place) {
    let database = place.database();
    Client::of(place).requested().await;

    database.migrate().await.unwrap();
    database.require_current_schema().await.unwrap();
    database.ping().await.unwrap();
    assert_eq!(
        place.storage.heads().await.unwrap()[0].position,
        Position(1)
    );
    let folder = tempfile::tempdir().unwrap();
    let patience = Duration::from_secs(5);
    let empty = Database::sqlite(&folder.path().join("a/b"), true, 1, patience)
        .await
        .unwrap();
    let behind = empty.require_current_schema().await;
    assert!(
        matches!(behind, Err(OpenError::SchemaBehind { found: 0, .. })),
        "{behind:?}"
    );
    empty.close().await;
}

async fn a_newer_schema_is_left_alone(place: &Place) {
    let newer = "INSERT INTO _sqlx_migrations
            (version, description, success, checksum, execution_time)
        SELECT 9999, 'from the future', success, checksum, execution_time
        FROM _sqlx_migrations
        WHERE version = 1";
    place.sql(newer).await.unwrap();

    let migrated = place.database().migrate().await;
    assert!(
        matches!(migrated, Err(OpenError::NewerSchema { found: 9999, .. })),
        "{migrated:?}"
    );
    let required = place.database().require_current_schema().await;
    assert!(
        matches!(required, Err(OpenError::NewerSchema { .. })),
        "{required:?}"
    );
}

async fn a_new_epoch_concerns_every_partition(place: &Place) {
    let before = place.storage.heads().await.unwrap();
    let epoch = place.ids.random();
    place.database().begin_epoch(epoch).await.unwrap();

    let heads = place.storage.heads().await.unwrap();
    assert_eq!(heads.len(), usize::try_from(PARTITIONS).unwrap());
    assert!(
        heads
            .iter()
            .zip(&before)
            .all(|(new, old)| new.epoch == epoch && old.epoch != epoch)
    );
}

async fn who_may_only_read_can_tell_the_schema(place: &Place) {
    let database = place.read_only_database();
    database.require_current_schema().await.unwrap();
    database.close().await;
}

/// The same database, without anything in it.
async fn emptied(place: &Place) -> tempfile::TempDir {
    if place.is_postgres() {
        let empty = "DO $$ BEGIN
            EXECUTE format('DROP SCHEMA %1$I CASCADE; CREATE SCHEMA %1$I', current_schema());
        END $$";
        place.sql(empty).await.unwrap();
    }
    tempfile::tempdir().unwrap()
}

async fn processes_that_start_together_bring_the_schema_up_to_date(place: &Place) {
    let folder = emptied(place).await;
    let start = || async {
        let patience = Duration::from_secs(5);
        let database = match place.database() {
            Database::Sqlite { .. } => {
                Database::sqlite(&folder.path().join("x"), true, 2, patience)
                    .await
                    .unwrap()
            }
            Database::Postgres { options, .. } => Database::Postgres {
                pool: sqlx::postgres::PgPoolOptions::new()
                    .connect_lazy_with(options.as_ref().clone()),
                options: options.clone(),
            },
        };
        database.migrate().await.map(|()| database)
    };

    let started = tokio::join!(start(), start(), start(), start());
    for database in [started.0, started.1, started.2, started.3] {
        let database = database.unwrap();
        database.require_current_schema().await.unwrap();
        database.close().await;
    }
}
