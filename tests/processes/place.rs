//! Where a ledger is kept, and the processes that are started on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::database::{Cluster, OwnDatabase};
use crate::http::Tenant;
use crate::wait::until;

/// Longest wait for a service to begin to listen: it opens a database and migrates it.
const START: Duration = Duration::from_secs(30);
/// A stopped service is gone by then: the promise is 10 s.
const STOP: Duration = Duration::from_secs(10);
/// Lines of a service's log that a failing test shows.
const LOG_LINES: usize = 30;
/// Base64 of 32 bytes. Nothing secret is sealed under it.
const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The ledger's folder, and the settings that every process on it gets.
#[derive(Debug)]
pub(crate) struct Place {
    settings: BTreeMap<&'static str, String>,
    started: AtomicU32,
    // The last two are dropped after everything that may still use them.
    folder: TempDir,
    database: Option<OwnDatabase>,
}

/// A running service. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    child: Child,
    listen_file: PathBuf,
    log: PathBuf,
}

impl Place {
    fn new(url: String) -> Self {
        let settings = BTreeMap::from([
            ("LEDGER_DATABASE_URL", url),
            ("LEDGER_LISTEN", "127.0.0.1:0".to_owned()),
            ("LEDGER_LOG_FORMAT", "text".to_owned()),
            ("LEDGER_PARTITIONS", "2".to_owned()),
        ]);
        Self {
            settings,
            started: AtomicU32::new(0),
            folder: tempfile::tempdir().unwrap(),
            database: None,
        }
    }

    /// In a SQLite file of its own.
    pub(crate) fn sqlite() -> Self {
        let place = Self::new(String::new());
        let file = place.folder().join("ledger.db");
        place.with(
            "LEDGER_DATABASE_URL",
            format!("sqlite://{}", file.display()),
        )
    }

    /// In a SQLite file in a folder of the test's.
    pub(crate) fn sqlite_in(folder: &Path) -> Self {
        Self::new(format!("sqlite://{}", folder.join("ledger.db").display()))
    }

    /// In a database of its own on the server that all tests share.
    pub(crate) async fn postgres() -> Self {
        let database = OwnDatabase::create().await;
        let mut place = Self::new(database.url.clone()).with("LEDGER_MASTER_KEY", MASTER_KEY);
        place.database = Some(database);
        place
    }

    /// In a database of a server of the test's own.
    pub(crate) fn on(cluster: &Cluster, user: &str, database: &str) -> Self {
        Self::new(cluster.url(user, database)).with("LEDGER_MASTER_KEY", MASTER_KEY)
    }

    #[must_use]
    pub(crate) fn with(mut self, setting: &'static str, value: impl Into<String>) -> Self {
        self.settings.insert(setting, value.into());
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.settings["LEDGER_DATABASE_URL"]
    }

    /// The program, with the settings of this place.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_notification-ledger"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["LEDGER_", "OTEL_", "PG"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(name.as_ref());
            }
        }
        command.envs(&self.settings).stdin(Stdio::null());
        command
    }

    /// Runs a command beside the service, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and answers with what it said.
    pub(crate) fn answer_of(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The record is what was recorded.
    pub(crate) fn verify(&self) {
        self.answer_of(&["verify"]);
    }

    /// Makes a tenant and a key for it.
    pub(crate) fn tenant(&self, id: &str, partition: u16) -> Tenant {
        let number = partition.to_string();
        self.answer_of(&["tenants", "create", id, "--partition", &number]);
        let key = self.answer_of(&["keys", "create", "--tenant", id, "--scope", "read,write"]);
        Tenant {
            id: id.to_owned(),
            key,
        }
    }

    /// A key of a tenant's that may do everything.
    pub(crate) fn administrator(&self, id: &str) -> Tenant {
        let all = "read,write,admin";
        let key = self.answer_of(&["keys", "create", "--tenant", id, "--scope", all]);
        Tenant {
            id: id.to_owned(),
            key,
        }
    }

    /// Starts a service and waits until it listens.
    pub(crate) async fn start(&self) -> Service {
        let mut service = self.begin();
        let address = until("the service listens", START, async || {
            if let Some(status) = service.child.try_wait().unwrap() {
                panic!("the service ended at its start: {status}");
            }
            fs::read_to_string(&service.listen_file).ok()
        });
        service.address = address.await.parse().unwrap();
        service
    }

    /// Starts a service and waits for nothing: it has no address yet.
    pub(crate) fn begin(&self) -> Service {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let listen_file = self.folder().join(format!("listen-{number}"));
        let log = self.folder().join(format!("log-{number}"));
        let child = self
            .command()
            .env("LEDGER_LISTEN_FILE", &listen_file)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Service {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            child,
            listen_file,
            log,
        }
    }
}

impl Service {
    /// Ends it without a warning, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Makes it hang, wherever it is.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        assert!(signal(name, self.child.id()), "the service ended by itself");
    }

    /// Waits for the end of a service that was asked to stop.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the service ends", STOP, async || {
            self.child.try_wait().unwrap()
        })
        .await
    }

    /// Memory that is really in use.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib * 1024
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!(
                "--- the service on {} said last:\n{}",
                self.address,
                last.join("\n")
            );
        }
    }
}

/// Sends a signal, and says whether there was still somebody to get it. By the shell's own `kill`,
/// because the standard library only knows SIGKILL, and only for children.
pub(crate) fn signal(name: &str, process: u32) -> bool {
    let line = format!("kill -{name} {process}");
    let status = Command::new("sh")
        .args(["-c", &line])
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

/// How long something took, beside what it came to.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let result = future.await;
    (result, started.elapsed())
}
