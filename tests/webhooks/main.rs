//! Webhooks, through the real router and a real database: what Novu sends, is answered, and what
//! is on record afterwards.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that panics fails the test that called it"
)]

mod any_order;
mod correlation;
mod erasure;
mod facts;
mod fixture;
mod novu;
mod quarantine;
mod signatures;
mod sources;

/// Runs each test on SQLite and, shown as ignored where there is none, on PostgreSQL.
macro_rules! on_both_databases {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                $crate::fixture::on_sqlite(super::$test).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            #[ignore = "needs PostgreSQL"]
            async fn $test() {
                $crate::fixture::on_postgres(super::$test).await;
            })+
        }
    };
}
pub(crate) use on_both_databases;
