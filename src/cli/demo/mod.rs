//! `demo`: a service to play with, and somebody who keeps it busy.
//!
//! The demo is a service like any other, on a ledger of its own. [`story`] makes up lives of
//! notifications and tells them to the service in [`steps`], through its public routes
//! ([`caller`]), some as Novu would ([`novu`]); [`board`] shows what was answered. Nothing that is
//! shown is made up.

mod board;
mod caller;
mod cast;
mod dice;
mod novu;
mod steps;
mod story;

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use self::board::Board;
use self::caller::Caller;
use self::dice::Dice;
use self::novu::Novu;
use self::steps::Stage;
use self::story::{EVENTS_PER_STORY, tell, tell_of_a_late_retraction};
use super::serve::{StopSignals, serve_during};
use super::{Done, Given, output};
use crate::app::{Service, router};
use crate::clock::Surroundings;
use crate::config::{Config, DatabaseUrl, MasterKeySource};
use crate::domain::ids::TenantId;
use crate::ledger::registry::{NewKey, Registry, RegistryError, Scopes};

/// The demo's tenant, and the name of its keys.
const TENANT: &str = "demo";
/// The smallest body that requests a notification.
const BODY: &str = r#"{"workflow_id": "hello", "subscriber": {"id": "you"}}"#;
/// Of the demo's own files, in its folder.
const DATABASE_FILE: &str = "ledger.db";
const LOCK_FILE: &str = "demo.lock";
/// The port to serve on when the usual one is taken: one of this many after it, else any.
const PORTS_TRIED: u16 = 100;
const USUAL_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Most lives at the same time, however fast they should begin.
const STORIES_MAX: usize = 20_000;
/// Lives whose steps are shown at the same time: more, and nobody can follow any of them.
const STORIES_SHOWN_MAX: usize = 24;
const REFRESH_INTERVAL: Duration = Duration::from_millis(150);
const RATE_MAX: f64 = 2000.0;
const KEYS_MAX: i64 = 1000;

/// Serve, with a demo tenant and a stream of synthetic lifecycles
///
/// Starts the service on a ledger of its own, makes a tenant `demo` with a key, prints a few calls
/// to try, and then keeps notifications coming: most arrive, some bounce, fail and are retried, or
/// are retracted, one now and then too late; reports come late, twice and out of order, and Novu
/// sends signed webhooks. Everything goes through the public routes, and what is shown is what was
/// answered. Ctrl-C stops it.
///
/// The ledger is kept in `data/demo`, and the next demo goes on with it. With a PostgreSQL
/// database the demo runs there, unless somebody else's tenants are in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  notification-ledger demo
  notification-ledger demo --fresh --rate 50
  notification-ledger demo --duration 60      for a minute, such as in a script")]
pub(super) struct Arguments {
    /// Begin with an empty ledger: deletes the one earlier demos left in the folder
    #[arg(long)]
    fresh: bool,
    /// About how many events come a second, up to 2000
    #[arg(long, value_name = "N", default_value = "5", value_parser = rate)]
    rate: f64,
    /// Stop after this many seconds instead of when told to
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u32>,
    /// Where the ledger is kept [default: the folder `demo` beside the usual database file]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if rate > 0.0 && rate <= RATE_MAX {
        Ok(rate)
    } else {
        Err(format!("must be more than 0, and at most {RATE_MAX}"))
    }
}

pub(super) async fn run(given: &Given, arguments: &Arguments) -> anyhow::Result<Done> {
    let mut config = given.config.clone();
    let place = Place::prepare(&mut config, arguments)?;
    if config.listen == USUAL_ADDRESS {
        config.listen = free_address();
    }
    let stop = StopSignals::new()?;
    let service = Service::start(&config, &given.metrics).await?;
    if let Some(key) = &service.operator_key {
        output::line(format_args!(
            "The new ledger's operator key, shown this once: {}\n",
            key.expose_secret()
        ))?;
    }
    let registry = service.state.registry.clone();
    let tenant_id = TenantId::new(TENANT)?;
    only_ours(&registry, &tenant_id).await?;
    let key = prepare_tenant(&registry, &tenant_id).await?;
    let stage = Stage {
        caller: Caller::new(
            router(service.state.clone()),
            HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))?,
        ),
        novu: Novu::connect(&registry, &tenant_id).await?,
        surroundings: Surroundings::system(),
        board: Board::new(),
    };
    drop(registry);
    let address = service.address;
    let showing = async {
        let seed = stage.surroundings.ids.random().as_u128();
        let mut dice = Dice::new(u64::try_from(seed >> 64).unwrap_or_default());
        let example = tell_of_a_late_retraction(&stage, dice.fork()).await;
        introduce(&stage.board, address, &key, &place, example.as_deref());
        let patience = arguments
            .duration
            .map(|seconds| Duration::from_secs(seconds.into()));
        // Without a duration: until a signal drops all of this.
        let telling = keep_telling(&stage, dice, arguments.rate);
        let _ = tokio::time::timeout(patience.unwrap_or(Duration::MAX), telling).await;
    };
    let ended = serve_during(given, service, stop, showing).await;
    let summary = stage.board.finish();
    drop(stage);
    output::line(format_args!("{summary}. {}", place.farewell()))?;
    ended
}

/// Begins lives at random moments, as many as make up the rate, and never returns.
async fn keep_telling(stage: &Stage, mut dice: Dice, rate: f64) {
    let gap = Duration::from_secs_f64(EVENTS_PER_STORY / rate);
    let mut next = Instant::now();
    let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
    let mut stories = FuturesUnordered::new();
    let mut shown = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next), if stories.len() < STORIES_MAX => {
                let show = shown < STORIES_SHOWN_MAX;
                shown += usize::from(show);
                let story = tell(stage, dice.fork(), show);
                stories.push(async move {
                    story.await;
                    show
                });
                // Once behind, it does not catch up: that would only be a burst.
                let spread = u32::try_from(50 + dice.below(101)).unwrap_or(100);
                next = next.max(Instant::now() - gap) + gap * spread / 100;
            }
            Some(show) = stories.next(), if !stories.is_empty() => shown -= usize::from(show),
            _ = refresh.tick() => stage.board.refresh(),
        }
    }
}

/// Where the demo's ledger is.
struct Place {
    /// `None` when it is on a server.
    database: Option<PathBuf>,
    /// Held as long as the demo runs.
    _lock: Option<File>,
}

impl Place {
    /// Points the settings at the demo's own ledger.
    fn prepare(config: &mut Config, arguments: &Arguments) -> anyhow::Result<Self> {
        let usual = match (&config.database_url, &arguments.folder) {
            (_, Some(folder)) => folder.clone(),
            (DatabaseUrl::Sqlite { path }, None) => path.with_file_name("demo"),
            (DatabaseUrl::Postgres { .. }, None) if arguments.fresh => {
                bail!("--fresh deletes files; on PostgreSQL, give the demo an empty database");
            }
            (DatabaseUrl::Postgres { .. }, None) => {
                return Ok(Self {
                    database: None,
                    _lock: None,
                });
            }
        };
        let lock = lock(&usual)?;
        let database = usual.join(DATABASE_FILE);
        if arguments.fresh {
            remove(&database)?;
        }
        if !matches!(config.master_key, MasterKeySource::Given(_)) {
            config.master_key = MasterKeySource::File(beside(&database, ".key"));
        }
        config.database_url = DatabaseUrl::Sqlite {
            path: database.clone(),
        };
        Ok(Self {
            database: Some(database),
            _lock: Some(lock),
        })
    }

    fn name(&self) -> String {
        match &self.database {
            Some(path) => path.display().to_string(),
            None => "the PostgreSQL database".to_owned(),
        }
    }

    fn farewell(&self) -> String {
        match &self.database {
            Some(path) => format!(
                "The data is in {0}; check it with `notification-ledger verify --database-url \
                 sqlite://{0}`",
                path.display()
            ),
            None => "The data is in the PostgreSQL database".to_owned(),
        }
    }
}

/// Keeps a second demo out of the folder.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(LOCK_FILE);
    let failed = || format!("`{}` can't be created", path.display());
    fs::create_dir_all(folder).with_context(failed)?;
    let file = File::create(&path).with_context(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another demo is running on `{0}`. Stop it, or give this one a place of its own: \
             --folder {0}-2",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

/// Removes an earlier demo's ledger: what SQLite and the service put there, and nothing else.
fn remove(database: &Path) -> anyhow::Result<()> {
    for ending in ["", "-wal", "-shm", ".key"] {
        let path = beside(database, ending);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("`{}` can't be removed", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// The usual address, or one with another port when that is taken.
fn free_address() -> SocketAddr {
    let address = |port| SocketAddr::new(USUAL_ADDRESS.ip(), port);
    let first = USUAL_ADDRESS.port();
    (first..first + PORTS_TRIED)
        .map(address)
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap_or(address(0))
}

/// Events are permanent, so synthetic ones must not get among real ones.
async fn only_ours(registry: &Registry, ours: &TenantId) -> anyhow::Result<()> {
    let tenants = registry.tenants(None, 2).await?;
    match tenants.into_iter().find(|tenant| tenant.tenant_id != *ours) {
        None => Ok(()),
        Some(tenant) => bail!(
            "this ledger has a tenant `{}`, so it is no demo's. Events can't be deleted: give the \
             demo a database of its own",
            tenant.tenant_id
        ),
    }
}

/// Makes the tenant if there is none, and a key. Those of earlier demos are revoked.
async fn prepare_tenant(registry: &Registry, tenant_id: &TenantId) -> anyhow::Result<SecretString> {
    match registry.create_tenant(tenant_id, Some("Demo"), None).await {
        Ok(_) | Err(RegistryError::TenantExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    for key in registry.keys(Some(tenant_id), None, KEYS_MAX).await? {
        if key.revoked_at.is_none() && key.name.as_deref() == Some(TENANT) {
            registry.revoke(key.key_id, None).await?;
        }
    }
    let new = NewKey {
        tenant_id: Some(tenant_id.clone()),
        name: Some(TENANT.to_owned()),
        scopes: Scopes::default(),
    };
    let (_, secret) = registry.create_key(new, None).await?;
    Ok(secret)
}

fn introduce(
    board: &Board,
    address: SocketAddr,
    key: &SecretString,
    place: &Place,
    example: Option<&str>,
) {
    let key = key.expose_secret();
    let base = format!("http://{address}");
    let authorization = format!("-H 'Authorization: Bearer {key}'");
    let example = example.map_or_else(String::new, |id| {
        let one = format!("{base}/v1/notifications/{id}");
        format!(
            "\n  {}\n  curl -s {one} {authorization}\n  curl -s {one}/events {authorization}\n",
            board.bold("# delivered although it was retracted: what is known now, and how it came")
        )
    });
    let text = format!(
        "\
{title}

  API   {base}   (described at {base}/docs)
  key   {key}   (tenant {TENANT}, to read and write)
  data  {data}

Try, in another terminal:

  {log}
  curl -s '{base}/v1/events?limit=5' {authorization}
{example}
  {request}
  curl -s {base}/v1/notifications {authorization} -H 'Content-Type: application/json' -d '{BODY}'
",
        title = board.bold("notification-ledger demo"),
        data = place.name(),
        log = board.bold("# the log"),
        request = board.bold("# request one yourself"),
    );
    // Whoever closed stdout does not want to know.
    let _ = output::line(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_positive_number_within_reason() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for bad in ["0", "-1", "NaN", "inf", "2001", "many"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_is_one_demos_at_a_time() {
        let folder = tempfile::tempdir().unwrap();

        let first = lock(folder.path()).unwrap();
        assert!(lock(folder.path()).is_err());
        drop(first);
        assert!(lock(folder.path()).is_ok());
    }

    #[test]
    fn only_the_ledger_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join(DATABASE_FILE);
        for name in ["ledger.db", "ledger.db-wal", "ledger.db.key", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }

        remove(&database).unwrap();
        remove(&database).unwrap();

        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["notes.txt"]);
    }
}
