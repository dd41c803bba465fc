//! PostgreSQL for the tests: databases of their own on the server that `TEST_POSTGRES_URL` names,
//! and whole servers that a test may kill.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::dice::Dice;
use crate::place::{Place, signal};
use crate::wait::until;

/// Longest wait for a server to start or to end. After a kill, the old server's children have to
/// notice first.
const PATIENCE: Duration = Duration::from_mins(1);
/// Ports that are tried. Below those that Linux hands to outgoing connections.
const PORTS: std::ops::Range<usize> = 20_000..32_000;
const PORT_ATTEMPTS: u32 = 20;

/// A database that is gone after the test.
#[derive(Debug)]
pub(crate) struct OwnDatabase {
    pub(crate) url: String,
    name: String,
    server: String,
}

impl OwnDatabase {
    pub(crate) async fn create() -> Self {
        let server = std::env::var("TEST_POSTGRES_URL")
            .expect("TEST_POSTGRES_URL names a server; `scripts/test` starts one");
        let number = Dice::of_moment().number();
        let name = format!("ledger_processes_{number:016x}");
        run_sql(&server, &format!("CREATE DATABASE {name}")).await;
        let (address, options) = server.split_once('?').unwrap_or((&server, ""));
        let (host, _) = address.rsplit_once('/').unwrap();
        let url = format!("{host}/{name}?{options}");
        Self { url, name, server }
    }
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let server = self.server.clone();
        // Dropped inside a runtime, which can't be asked to wait.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(run_sql(&server, &statement));
        });
        if dropping.join().is_err() {
            eprintln!("the database {} was left behind", self.name);
        }
    }
}

/// Runs statements in a connection of their own.
pub(crate) async fn run_sql(url: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

/// Keeps everybody else from writing to the ledger, for as long as it is there: no batch can get
/// further than its first statement.
#[derive(Debug)]
pub(crate) enum Hold {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Hold {
    pub(crate) async fn of(place: &Place) -> Self {
        let url = place.database_url();
        if url.starts_with("sqlite:") {
            let mut connection = SqliteConnection::connect(url).await.unwrap();
            connection.execute("BEGIN IMMEDIATE").await.unwrap();
            return Self::Sqlite(connection);
        }
        let mut connection = PgConnection::connect(url).await.unwrap();
        connection.execute("BEGIN").await.unwrap();
        connection
            .execute("SELECT 1 FROM partition_heads FOR UPDATE")
            .await
            .unwrap();
        Self::Postgres(connection)
    }

    pub(crate) async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

/// Somebody waits, and goes on waiting, for a lock that somebody else holds.
pub(crate) async fn writers_wait(place: &Place) -> bool {
    const WAIT: &str = "
        SELECT EXISTS (
            SELECT 1
            FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND now() - query_start > INTERVAL '400 milliseconds')";
    /// Longer than the wait that is looked for.
    const LOOK: Duration = Duration::from_millis(500);
    let mut connection = PgConnection::connect(place.database_url()).await.unwrap();
    tokio::time::sleep(LOOK).await;
    let wait: bool = sqlx::query_scalar(WAIT)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    wait
}

/// A PostgreSQL server of the test's own. Ended and deleted when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    programs: PathBuf,
    port: u16,
    running: bool,
    folder: TempDir,
}

impl Cluster {
    /// Creates and starts one.
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ledger-postgres-")
            .tempdir()
            .unwrap();
        let mut cluster = Self {
            programs: programs(),
            port: 0,
            running: false,
            folder,
        };
        cluster.own(cluster.folder.path());
        let data = cluster.data();
        let arguments = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
        ];
        let mut initdb = cluster.program("initdb");
        let made = initdb
            .args(arguments)
            .arg("--no-sync")
            .arg("--pgdata")
            .arg(&data)
            .output();
        assert_success("initdb", &made.unwrap());
        let mut dice = Dice::of_moment();
        for _ in 0..PORT_ATTEMPTS {
            cluster.port = u16::try_from(dice.roll(PORTS)).unwrap();
            cluster.configure();
            if cluster.try_start() {
                return cluster;
            }
        }
        panic!("PostgreSQL did not start: {}", cluster.log());
    }

    /// Lets the server keep something in a folder.
    #[expect(
        clippy::unused_self,
        reason = "there is nobody to let without a server"
    )]
    pub(crate) fn own(&self, folder: &Path) {
        if is_root() {
            let done = Command::new("chown").arg("postgres:").arg(folder).status();
            assert!(
                done.unwrap().success(),
                "root needs a user `postgres` to run PostgreSQL"
            );
        }
    }

    fn configure(&self) {
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\n\
             max_connections = 60\n",
            self.port
        );
        let file = self.data().join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
    }

    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs statements as the administrator.
    pub(crate) async fn run(&self, statements: &str) {
        run_sql(&self.url("postgres", "postgres"), statements).await;
    }

    /// Stops it, cutting its clients off.
    pub(crate) fn stop(&mut self) {
        self.running = false;
        assert_success(
            "pg_ctl stop",
            &self.pg_ctl(&["stop", "--mode=fast", "--wait"]),
        );
    }

    /// Ends the server without a warning; `everybody` ends those who work for it in the same
    /// moment, as a power cut would.
    pub(crate) async fn kill(&mut self, everybody: bool) {
        let postmaster = self.postmaster().expect("a server that runs");
        let children = children(postmaster);
        self.running = false;
        assert!(
            signal("KILL", postmaster),
            "PostgreSQL ended by itself: {}",
            self.log()
        );
        if everybody {
            for child in children {
                // One that ended by itself meanwhile is just as dead.
                signal("KILL", child);
            }
        }
        until("the server is dead", PATIENCE, async || {
            (!is_alive(postmaster)).then_some(())
        })
        .await;
    }

    /// Starts it again on the same data and port.
    pub(crate) async fn start_again(&mut self) {
        // What is left of a killed server keeps a new one from starting until it has noticed.
        until("the server starts again", PATIENCE, async || {
            self.try_start().then_some(())
        })
        .await;
    }

    fn try_start(&mut self) -> bool {
        let log = self.folder.path().join("server.log");
        let log = format!("--log={}", log.display());
        let started = self.pg_ctl(&["start", "--wait", "--timeout=60", &log]);
        self.running = started.status.success();
        self.running
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Output {
        let mut command = self.program("pg_ctl");
        // The server keeps what it is given for output; a pipe would never end.
        command.args(arguments).arg("--pgdata").arg(self.data());
        let status = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        Output {
            status,
            stdout: Vec::new(),
            stderr: self.log().into_bytes(),
        }
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // The current folder may be closed to the server's user.
        command
            .current_dir(self.folder.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn postmaster(&self) -> Option<u32> {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- PostgreSQL said last:\n{}", self.log());
        }
        if self.running {
            let stopped = self.pg_ctl(&["stop", "--mode=immediate", "--wait"]);
            if !stopped.status.success() {
                eprintln!(
                    "a PostgreSQL server may be left behind in {}",
                    self.folder.path().display()
                );
            }
        }
    }
}

/// The newest server programs on this machine.
fn programs() -> PathBuf {
    // Debian keeps them out of PATH, one folder per major version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions
        .filter_map(|version| {
            version
                .ok()?
                .file_name()
                .into_string()
                .ok()?
                .parse::<u32>()
                .ok()
        })
        .max()
        .map(|version| {
            Path::new("/usr/lib/postgresql")
                .join(version.to_string())
                .join("bin")
        });
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    debian
        .into_iter()
        .chain(std::env::split_paths(&in_path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .expect("PostgreSQL's server programs, such as Debian's package `postgresql`")
}

fn assert_success(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{said}", output.status);
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The state letter and the parent of a process, if there is one.
fn process(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field, a name in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn is_alive(id: u32) -> bool {
    // Nobody may have asked yet what became of it.
    process(id).is_some_and(|(state, _)| state != "Z")
}

fn children(of: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| process(*id).is_some_and(|(_, parent)| parent == of))
        .collect()
}
