//! Whoever follows the log hears of everything that is appended.

use std::time::{Duration, Instant};

use notification_ledger::clock::{IdSource, System};
use notification_ledger::ledger::database::Database;
use notification_ledger::ledger::record::{Partition, Position};
use notification_ledger::ledger::{Ledger, Options};
use notification_ledger::tasks::Tasks;
use tokio::sync::watch;

use crate::client::{Client, sent};
use crate::support::{Place, on_each_storage, on_postgres};

on_each_storage!("current_thread":
    what_is_committed_is_told_before_it_is_answered,
    what_another_process_appends_is_noticed,
);

const HERE: Partition = Partition(3);
/// Longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Announcements are that quick at least half of the time. Looks alone take a second, or half of
/// one on average.
const AT_ONCE: Duration = Duration::from_millis(200);
const APPENDS: i64 = 10;

async fn what_is_committed_is_told_before_it_is_answered(place: &Place) {
    let client = Client::of(place).for_tenant("acme", 3);
    let here = client.ledger.appended().subscribe(HERE);
    let elsewhere = client.ledger.appended().subscribe(Partition(2));

    let stream = client.requested().await;
    assert_eq!(*here.borrow(), Position(1));
    client.tell(stream, sent("one")).await.unwrap();
    assert_eq!(*here.borrow(), Position(2));
    // It is on record already.
    client.tell(stream, sent("one")).await.unwrap();
    assert_eq!(*here.borrow(), Position(2));
    assert_eq!(*elsewhere.borrow(), Position(0));
}

/// A process that follows the others, until it is stopped.
struct Following {
    tasks: Tasks,
    here: watch::Receiver<Position>,
}

impl Following {
    fn of(place: &Place) -> Self {
        Self::on(&place.process(Options::default()))
    }

    fn on(ledger: &Ledger) -> Self {
        let tasks = Tasks::new();
        ledger.follow(&tasks);
        Self {
            tasks,
            here: ledger.appended().subscribe(HERE),
        }
    }

    /// Says how long it took.
    async fn hears_of(&mut self, position: i64) -> Duration {
        let started = Instant::now();
        let heard = self.here.wait_for(|known| *known >= Position(position));
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        assert_eq!(*heard.unwrap().unwrap(), Position(position));
        started.elapsed()
    }

    async fn stop(self) {
        assert!(self.tasks.stop(PATIENCE).await, "it does not end");
    }
}

async fn what_another_process_appends_is_noticed(place: &Place) {
    let client = Client::of(place).for_tenant("acme", 3);
    client.requested().await;
    let mut following = Following::of(place);

    following.hears_of(1).await;
    client.requested().await;
    following.hears_of(2).await;
    following.stop().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn an_announcement_is_heard_at_once_and_again_after_the_connection_broke() {
    on_postgres(async |place| {
        let client = Client::of(place).for_tenant("acme", 3);
        // So that its connections can be told from everybody else's.
        let name = format!("test-{}", System.random().simple());
        let Database::Postgres { pool, options } = place.database().clone() else {
            unreachable!("the test runs on PostgreSQL")
        };
        let options = Box::new(options.application_name(&name));
        let storage = Database::Postgres { pool, options }.storage();
        let mut following = Following::on(&place.process_on(storage, Options::default()));
        client.requested().await;
        following.hears_of(1).await;
        assert_announcements_are_heard(&client, &mut following).await;

        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = '{name}' AND query LIKE 'LISTEN%'"
        );
        assert_eq!(place.sql(&end).await.unwrap(), 1);
        client.requested().await;
        following.hears_of(2 + APPENDS).await;
        following.stop().await;
    })
    .await;
}

async fn assert_announcements_are_heard(client: &Client, following: &mut Following) {
    let mut took = Vec::new();
    for position in 2..2 + APPENDS {
        client.requested().await;
        took.push(following.hears_of(position).await);
    }
    took.sort_unstable();
    assert!(took[took.len() / 2] < AT_ONCE, "{took:?}");
}
