//! A folder of a test's own, and the program run in it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

/// Longest wait for something that takes a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Base64 of 32 bytes. Nothing secret is sealed under it.
pub(crate) const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Makes the names of databases differ.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Where a ledger is kept, and the settings of every process on it.
#[derive(Debug)]
pub(crate) struct Place {
    settings: Vec<(&'static str, String)>,
    folder: TempDir,
    /// The server and the database on it, if it is PostgreSQL.
    postgres: Option<(String, String)>,
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running service. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Place {
    /// The defaults: a SQLite file in the working folder.
    pub(crate) fn sqlite() -> Self {
        Self {
            settings: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            postgres: None,
        }
    }

    /// A new database on the server that `TEST_POSTGRES_URL` names.
    pub(crate) async fn postgres() -> Self {
        let server = std::env::var("TEST_POSTGRES_URL")
            .expect("TEST_POSTGRES_URL names a server; `scripts/test` starts one");
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("ledger_cli_{}_{number}", std::process::id());
        on_server(&server, &format!("CREATE DATABASE {name}")).await;
        let (host, _) = server.rsplit_once('/').unwrap();
        let url = format!("{host}/{name}");
        let mut place = Self::sqlite().with("LEDGER_DATABASE_URL", &url);
        place.postgres = Some((server, name));
        place.with("LEDGER_MASTER_KEY", MASTER_KEY)
    }

    /// With a setting for every process.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value.to_owned()));
        self
    }

    /// Without a setting it had.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.settings.retain(|(other, _)| *other != name);
        self
    }

    pub(crate) fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(other, _)| *other == name);
        found.map_or("", |(_, value)| value)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with arguments, in this place, with no settings but its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_notification-ledger"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments))
    }

    /// Runs the program with something on its standard input.
    pub(crate) fn run_with(&self, input: &str, arguments: &[&str]) -> Ran {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // From a thread of its own: a pipe holds less than some inputs.
        let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let ran = Ran::from(child.wait_with_output().unwrap());
        writing.join().unwrap().unwrap();
        ran
    }

    /// Runs the program, which must succeed, and answers with its stdout.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code(), 0, "{arguments:?}: {ran:?}");
        ran.stdout
    }

    /// The same, of an answer in JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(arguments)).unwrap()
    }

    /// With the tenant `acme`, on a ledger that exists.
    pub(crate) fn with_tenant(self) -> Self {
        self.done(&["migrate"]);
        self.done(&["tenants", "create", "acme"]);
        self
    }

    /// Starts a service and waits until it listens.
    pub(crate) fn serve(&self) -> Service {
        self.start(&["serve"])
    }

    /// Starts the program with these arguments as a service, and waits until it listens.
    pub(crate) fn start(&self, arguments: &[&str]) -> Service {
        let file = self.path("address");
        let _ = std::fs::remove_file(&file);
        let mut child = self
            .command(arguments)
            .env("LEDGER_LISTEN", "127.0.0.1:0")
            .env("LEDGER_LISTEN_FILE", &file)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let address = until("the service listens", || {
            assert_eq!(child.try_wait().unwrap(), None, "the service ended");
            std::fs::read_to_string(&file).ok()
        });
        Service {
            address: address.parse().unwrap(),
            child,
        }
    }

    /// Runs statements in the ledger's database, past the program.
    pub(crate) async fn sql(&self, statements: &str) {
        if let Some((server, name)) = &self.postgres {
            let (host, _) = server.rsplit_once('/').unwrap();
            on_server(&format!("{host}/{name}"), statements).await;
            return;
        }
        let mut connection = open(&self.path("data/ledger.db")).await;
        let statements = AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((server, name)) = self.postgres.take() else {
            return;
        };
        // Dropped inside a runtime, which can't be asked to wait.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let statement = format!("DROP DATABASE {name} WITH (FORCE)");
            runtime.unwrap().block_on(on_server(&server, &statement));
        });
        if dropping.join().is_err() {
            eprintln!("a database was left behind");
        }
    }
}

async fn open(file: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", file.display()))
        .await
        .unwrap()
}

async fn on_server(url: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statements = AssertSqlSafe(statements.to_owned());
    sqlx::raw_sql(statements)
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        Self {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    pub(crate) fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }

    /// The exit status; a program that a signal ended has none.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

impl Service {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, and answers with its exit status and stdout.
    pub(crate) fn ended(mut self, patience: Duration) -> Ran {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < patience, "the service runs on");
            std::thread::sleep(LOOK_INTERVAL);
        };
        let mut stdout = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut stdout)
            .unwrap();
        Ran {
            status,
            stdout,
            stderr: String::new(),
        }
    }

    /// Tells it to stop and waits until it has.
    pub(crate) fn stop(self) -> Ran {
        self.signal("TERM");
        self.ended(PATIENCE)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until there is something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Runs the same test on both databases.
macro_rules! on_both_databases {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::place::Place::sqlite()).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs PostgreSQL"]
            async fn $name() {
                super::$name(crate::place::Place::postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;
