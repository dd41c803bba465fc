//! The first start, by several processes at once.

use notification_ledger::projections::Projection;

use crate::process::{Process, until};
use crate::support::{PARTITIONS, on_postgres};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn two_first_starts_at_once_do_not_wait_for_each_other() {
    on_postgres(async |place| {
        let slow = "
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END';
            CREATE TRIGGER slow BEFORE INSERT ON projection_checkpoints
                FOR EACH ROW EXECUTE FUNCTION slow()";
        place.sql(slow).await.unwrap();
        let [first, second] = [Process::idle(place), Process::idle(place)];
        let comes_second = async {
            let is_adding = "
                SELECT 1 FROM pg_stat_activity
                WHERE wait_event = 'PgSleep' AND query LIKE '%INSERT INTO projection_checkpoints%'";
            until(async || match place.sql(is_adding).await.unwrap() {
                0 => Err("nobody has begun"),
                _ => Ok(()),
            })
            .await;
            // An append moves a head to the end of its table: who comes now finds another order
            // there, and would soon hold what the first wants, and want what the first holds.
            let append = "UPDATE partition_heads SET position = position WHERE partition = 0";
            place.sql(append).await.unwrap();
            second.projections.store().add_checkpoints().await
        };

        let (added, also_added) =
            tokio::join!(first.projections.store().add_checkpoints(), comes_second);

        added.unwrap();
        also_added.unwrap();
        let progress = first.projections.progress().await.unwrap();
        let all = usize::try_from(PARTITIONS).unwrap() * Projection::ALL.len();
        assert_eq!(progress.len(), all);
        first.stop().await;
        second.stop().await;
    })
    .await;
}
