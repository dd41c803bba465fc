//! The API as callers meet it: the real router over a real database.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that panics fails the test that called it"
)]

mod administration;
mod bodies;
mod bulk;
mod commands;
mod counts;
mod description;
mod edge;
mod erasure;
mod fixture;
mod headers;
mod history;
mod lists;
mod live;
mod queries;
mod rebuilds;
mod timeline;

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

/// A whole answer, which is the same on both databases.
macro_rules! snapshot {
    ($($parts:tt)*) => {
        insta::allow_duplicates! { insta::assert_json_snapshot!($($parts)*) }
    };
}
pub(crate) use snapshot;
