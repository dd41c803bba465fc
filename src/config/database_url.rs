//! Which database keeps the ledger.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

/// The database. Neither `Display` nor `Debug` shows a password.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// One embedded file.
    Sqlite { path: PathBuf },
    /// A server. The URL is whole and may hold a password.
    Postgres { url: SecretString },
}

impl DatabaseUrl {
    /// The SQLite file, if that is what keeps the ledger.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite { path } => Some(path),
            Self::Postgres { .. } => None,
        }
    }
}

const EXPECTED: &str = "sqlite://PATH (sqlite:///PATH from the root), or \
                        postgres://USER:PASSWORD@HOST:PORT/DATABASE with reserved characters \
                        percent-encoded";

/// `sqlite:` with a path, which is taken as it stands, or a PostgreSQL URL.
pub(super) fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    if let Some(rest) = text.strip_prefix("sqlite:") {
        return sqlite(rest.strip_prefix("//").unwrap_or(rest));
    }
    // The server's address is judged here and not at the first connection, so that this
    // fault is reported with all others.
    let is_postgres = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if is_postgres && text.parse::<PgConnectOptions>().is_ok() {
        let url = SecretString::from(text);
        return Ok(DatabaseUrl::Postgres { url });
    }
    Err(EXPECTED.to_owned())
}

fn sqlite(path: &str) -> Result<DatabaseUrl, String> {
    // The driver's special names. A ledger in memory would be gone with the process.
    if path.contains(":memory:") {
        return Err("a file: a ledger in memory would not be durable".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err("a path without parameters after sqlite://".to_owned());
    }
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return Err(EXPECTED.to_owned());
    }
    Ok(DatabaseUrl::Sqlite {
        path: PathBuf::from(path),
    })
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => write!(f, "sqlite://{}", path.display()),
            Self::Postgres { url } => f.write_str(&without_password(url.expose_secret())),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// The URL with `***` for a password, and without parameters, which may repeat it.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", ""));
    let rest = rest.split(['?', '#']).next().unwrap_or("");
    let (authority, database) = match rest.split_once('/') {
        Some((authority, database)) => (authority, format!("/{database}")),
        None => (rest, String::new()),
    };
    let host = match authority.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("{login}@{host}"),
        },
        None => authority.to_owned(),
    };

    format!("{scheme}://{host}{database}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("sqlite://data/ledger.db", Some("data/ledger.db"))]
    #[case("sqlite:///var/lib/ledger.db", Some("/var/lib/ledger.db"))]
    #[case("sqlite:ledger.db", Some("ledger.db"))]
    #[case("sqlite:/abs/ledger.db", Some("/abs/ledger.db"))]
    #[case("sqlite://with space.db", Some("with space.db"))]
    #[case("sqlite:", None)]
    #[case("sqlite://", None)]
    #[case("sqlite://data/", None)]
    #[case("sqlite::memory:", None)]
    #[case("sqlite://:memory:", None)]
    #[case("sqlite://x.db?mode=ro", None)]
    fn sqlite_urls_name_a_file(#[case] text: &str, #[case] expected: Option<&str>) {
        let url = database_url(text).ok();
        let path = url.as_ref().and_then(DatabaseUrl::sqlite_path);

        assert_eq!(path, expected.map(Path::new));
    }

    #[rstest]
    #[case("postgres://localhost/ledger")]
    #[case("postgresql://user@host:5433/ledger?sslmode=require")]
    #[case("postgres:///ledger?host=/run/postgresql")]
    fn postgres_urls_are_kept_whole(#[case] text: &str) {
        match database_url(text) {
            Ok(DatabaseUrl::Postgres { url }) => assert_eq!(url.expose_secret(), text),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[rstest]
    #[case("mysql://host/ledger")]
    #[case("data/ledger.db")]
    #[case("postgres:ledger")]
    #[case("postgres://host:port/ledger")]
    #[case("")]
    fn other_urls_are_refused(#[case] text: &str) {
        assert!(database_url(text).is_err());
    }

    #[rstest]
    #[case("postgres://u:hunter2@h:1/db", "postgres://u:***@h:1/db")]
    #[case("postgres://u:hunt%2Fer2@h/db", "postgres://u:***@h/db")]
    #[case("postgres://u:hunter2@x@h/db", "postgres://u:***@h/db")]
    #[case("postgres://u@h/db?password=hunter2&x=1", "postgres://u@h/db")]
    #[case("postgres://h", "postgres://h")]
    fn a_password_is_never_displayed(#[case] text: &str, #[case] shown: &str) {
        let url = database_url(text).unwrap();

        assert_eq!(url.to_string(), shown);
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
