//! Wiring: from a configuration to a running service, and down again without losing anything.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::api::{self, ApiState, Limits, Live, Pace, Parts, Readiness, Refusals};
use crate::clock::Surroundings;
use crate::config::{Config, DatabaseUrl, MasterKeyBytes, MasterKeySource};
use crate::connections::Connections;
use crate::ledger::database::{Database, LedgerRow, OpenError};
use crate::ledger::lane::QueueLimits;
use crate::ledger::registry::{NewKey, Registry, RegistryError, Scopes};
use crate::ledger::sealing::MasterKey;
use crate::ledger::{Ledger, Options};
use crate::projections::Projections;
use crate::tasks::Tasks;
use crate::telemetry::{ErrorChain, Metrics};
use crate::webhooks;

/// What the key check in the ledger's row says under the right master key.
const KEY_CHECK: &[u8] = b"notification-ledger";
/// How often it is noted when keys were last used.
const LAST_USE_INTERVAL: Duration = Duration::from_secs(30);
/// Of the time for shutting down, what is kept for all that follows the last answer.
const SHUTDOWN_RESERVE: Duration = Duration::from_secs(2);
/// Of that, what the last notes, the lanes and the database may each take. What remains is for
/// whoever called, to hand over the last traces.
const SHUTDOWN_STEP: Duration = Duration::from_millis(500);
const _: () = assert!(SHUTDOWN_STEP.as_millis() * 3 < SHUTDOWN_RESERVE.as_millis());

/// Why a service can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "the master key file `{path}` is missing, but the ledger exists. Bring the file back (or \
         set LEDGER_MASTER_KEY): without it, what is sealed can't be read"
    )]
    MasterKeyMissing { path: PathBuf },
    #[error("the master key file `{path}` does not hold the base64 of 32 bytes")]
    MasterKeyFile { path: PathBuf },
    #[error("the master key file `{path}` can't be read or written")]
    MasterKeyIo { path: PathBuf, source: io::Error },
    #[error("LEDGER_MASTER_KEY is needed. Make one with `openssl rand -base64 32`")]
    MasterKeyNeeded,
    #[error("there is no ledger here yet. `notification-ledger serve` or `migrate` creates it")]
    NoLedger,
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the operating system gives the ledger no threads to write with")]
    Threads(#[source] io::Error),
    #[error("can't listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("can't write the bound address to `{path}`")]
    ListenFile { path: PathBuf, source: io::Error },
    #[error("serving failed")]
    Serve(#[source] io::Error),
}

/// An open ledger: connected, up to date, and under the right master key.
#[derive(Debug)]
pub struct Opened {
    pub database: Database,
    pub row: LedgerRow,
    pub master: Arc<MasterKey>,
    pub surroundings: Surroundings,
    /// This start created it.
    pub created: bool,
}

/// Connects without looking at what is there.
///
/// # Errors
///
/// [`StartError::Open`] when the database can't be reached.
pub async fn connect(config: &Config, create: bool) -> Result<Database, StartError> {
    let connections = config.database_connections_max;
    let patience = config.db_acquire_timeout;
    Ok(match &config.database_url {
        DatabaseUrl::Sqlite { path } => {
            if !create && !path.exists() {
                return Err(StartError::NoLedger);
            }
            Database::sqlite(path, create, connections, patience).await?
        }
        DatabaseUrl::Postgres { url } => {
            Database::postgres(url.expose_secret(), connections, patience).await?
        }
    })
}

/// Opens the ledger for writing; brings the schema up to date and creates what is missing.
///
/// # Errors
///
/// [`StartError`] saying what to do.
pub async fn open_or_create(
    config: &Config,
    surroundings: &Surroundings,
) -> Result<Opened, StartError> {
    let database = connect(config, true).await?;
    database.migrate().await?;
    if let Some(row) = database.ledger_row().await? {
        return opened(config, database, row, surroundings, false);
    }
    let master = new_master_key(config)?;
    let ledger_id = surroundings.ids.random();
    let row = LedgerRow {
        ledger_id,
        partitions: i16::try_from(config.partitions).unwrap_or(i16::MAX),
        key_check: master
            .wrap(&key_check_context(ledger_id), KEY_CHECK)
            .map_err(|_| StartError::NoRandomness)?,
        created_at: surroundings.now(),
    };
    let (row, created) = database
        .create_ledger(&row, surroundings.ids.random())
        .await?;
    opened(config, database, row, surroundings, created)
}

/// Opens a ledger that exists, for a command beside a server.
///
/// # Errors
///
/// [`StartError::NoLedger`] if there is none.
pub async fn open_existing(
    config: &Config,
    surroundings: &Surroundings,
) -> Result<Opened, StartError> {
    let database = connect(config, false).await?;
    database.require_current_schema().await?;
    let row = database.ledger_row().await?.ok_or(StartError::NoLedger)?;
    opened(config, database, row, surroundings, false)
}

fn opened(
    config: &Config,
    database: Database,
    row: LedgerRow,
    surroundings: &Surroundings,
    created: bool,
) -> Result<Opened, StartError> {
    let master = existing_master_key(config)?;
    let check = master.unwrap(&key_check_context(row.ledger_id), &row.key_check);
    if !check.is_ok_and(|text| text.as_slice() == KEY_CHECK) {
        return Err(OpenError::WrongMasterKey.into());
    }
    Ok(Opened {
        database,
        row,
        master: Arc::new(master),
        surroundings: surroundings.clone(),
        created,
    })
}

fn key_check_context(ledger_id: uuid::Uuid) -> String {
    format!("key-check/{ledger_id}")
}

fn master_key(bytes: &MasterKeyBytes) -> Result<MasterKey, StartError> {
    MasterKey::new(bytes.expose()).map_err(|_| StartError::NoRandomness)
}

fn existing_master_key(config: &Config) -> Result<MasterKey, StartError> {
    match &config.master_key {
        MasterKeySource::Given(bytes) => master_key(bytes),
        MasterKeySource::File(path) => match read_key_file(path)? {
            Some(bytes) => master_key(&bytes),
            None => Err(StartError::MasterKeyMissing { path: path.clone() }),
        },
        MasterKeySource::Absent => Err(StartError::MasterKeyNeeded),
    }
}

/// The key for a ledger that is being created: the file is made if there is none.
fn new_master_key(config: &Config) -> Result<MasterKey, StartError> {
    if let MasterKeySource::File(path) = &config.master_key
        && read_key_file(path)?.is_none()
    {
        write_key_file(path)?;
    }
    existing_master_key(config)
}

fn read_key_file(path: &Path) -> Result<Option<MasterKeyBytes>, StartError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            let bytes = MasterKeyBytes::from_base64(text.trim());
            bytes.map(Some).ok_or_else(|| StartError::MasterKeyFile {
                path: path.to_owned(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StartError::MasterKeyIo {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes a new key, readable by its owner only, and on disk before anything is sealed under it.
/// If another process makes it at the same moment, theirs stands.
fn write_key_file(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::OpenOptionsExt;

    let failed = |source| StartError::MasterKeyIo {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut())
        .map_err(|_| StartError::NoRandomness)?;
    let text = Zeroizing::new(format!("{}\n", STANDARD.encode(bytes.as_ref())));
    // Written aside and linked into place, so that nobody ever reads half a key.
    let aside = path.with_extension(format!("key.{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .map_err(failed)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // Left behind it would be a second copy of the key.
    let removed = fs::remove_file(&aside);
    linked.and(removed).map_err(failed)?;
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

/// A running ledger without HTTP: what commands beside a server use too.
#[derive(Clone, Debug)]
pub struct Rooms {
    pub ledger: Ledger,
    pub projections: Projections,
    pub registry: Registry,
    pub metrics: Metrics,
    pub tasks: Tasks,
}

impl Opened {
    /// Starts lanes and readers.
    ///
    /// # Errors
    ///
    /// [`StartError::Threads`].
    pub fn start(&self, config: &Config, metrics: &Metrics) -> Result<Rooms, StartError> {
        let tasks = Tasks::new();
        let options = Options {
            lanes: config.lanes.min(self.row.partitions.unsigned_abs()),
            queue: QueueLimits {
                commands: config.queue_commands_max,
                bytes: config.queue_bytes_max,
            },
            aggregate_cache_bytes: config.aggregate_cache_bytes,
            key_cache_ttl: config.key_cache_ttl,
        };
        let ledger = Ledger::start(
            self.database.storage(),
            Arc::clone(&self.master),
            options,
            self.surroundings.clone(),
            metrics,
            &tasks,
        )
        .map_err(StartError::Threads)?;
        let projections = Projections::new(
            &self.database,
            self.row.partitions,
            &ledger,
            &self.surroundings,
            metrics,
        );
        Ok(Rooms {
            ledger,
            projections,
            registry: self.registry(config, metrics),
            metrics: metrics.clone(),
            tasks,
        })
    }

    /// What handlers need. `public_url` is the address from which providers reach this service.
    pub fn api_state(&self, config: &Config, rooms: &Rooms, public_url: String) -> ApiState {
        ApiState::new(Parts {
            ledger: rooms.ledger.clone(),
            projections: rooms.projections.clone(),
            registry: rooms.registry.clone(),
            database: self.database.clone(),
            ledger_row: self.row.clone(),
            master: Arc::clone(&self.master),
            surroundings: self.surroundings.clone(),
            metrics: rooms.metrics.clone(),
            limits: Limits {
                body_bytes_max: config.body_bytes_max,
                bulk_body_bytes_max: config.bulk_body_bytes_max,
                payload_bytes_max: config.payload_bytes_max,
                body_timeout: config.body_timeout,
                request_timeout: config.request_timeout,
            },
            webhook_tolerance: config.webhook_tolerance,
            public_url,
            readiness: Readiness::default(),
            refusals: Refusals::new(rooms.tasks.clone()),
            live: Live::new(
                config.live_streams_max,
                rooms.tasks.clone(),
                Pace::default(),
            ),
        })
    }

    /// The tables of tenants, keys and sources.
    pub fn registry(&self, config: &Config, metrics: &Metrics) -> Registry {
        Registry::new(
            self.database.clone(),
            Arc::clone(&self.master),
            self.surroundings.clone(),
            self.row.partitions,
            config.auth_cache_ttl,
            metrics,
        )
    }
}

/// A service that listens.
#[derive(Debug)]
pub struct Service {
    pub address: SocketAddr,
    pub state: ApiState,
    /// An operator key, if the ledger had none: shown once, never again.
    pub operator_key: Option<SecretString>,
    rooms: Rooms,
    listener: TcpListener,
    shutdown_timeout: Duration,
}

/// Every route of the service.
pub fn router(state: ApiState) -> Router {
    api::router()
        .merge(webhooks::router())
        .layer(api::observe::Observe {
            state: state.clone(),
        })
        .with_state(state)
}

impl Service {
    /// Opens the ledger, starts everything and begins to listen. Nothing is answered before
    /// [`Self::run`].
    ///
    /// # Errors
    ///
    /// [`StartError`] saying what to do.
    pub async fn start(config: &Config, metrics: &Metrics) -> Result<Self, StartError> {
        let surroundings = Surroundings::system();
        let opened = open_or_create(config, &surroundings).await?;
        let rooms = opened.start(config, metrics)?;
        let (listener, address) = listen(config).await?;
        // Last of what may fail: the key is in this answer and nowhere else.
        let operator_key = first_operator_key(&rooms.registry).await?;
        let public_url = config.public_url.as_ref().map_or_else(
            || format!("http://{address}"),
            |url| url.as_str().trim_end_matches('/').to_owned(),
        );
        let state = opened.api_state(config, &rooms, public_url);
        note_last_use(&rooms);
        rooms.ledger.follow(&rooms.tasks);
        let following = rooms.projections.start(&rooms.tasks).await;
        following.map_err(OpenError::from)?;
        tracing::info!(
            server.address = %address,
            database.backend = opened.database.backend(),
            ledger.id = %opened.row.ledger_id,
            ledger.created = opened.created,
            "listening"
        );
        Ok(Self {
            address,
            state,
            operator_key,
            rooms,
            listener,
            shutdown_timeout: config.shutdown_timeout,
        })
    }

    /// Serves until `stop` is done, then finishes what is in flight. Says whether all of it was.
    ///
    /// # Errors
    ///
    /// [`StartError::Serve`] when the listener fails.
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<bool, StartError> {
        let readiness = self.state.readiness.clone();
        let stopping = self.rooms.tasks.stopping().clone();
        let told = stopping.clone();
        let listener = Connections {
            listener: self.listener,
            stopping: stopping.clone(),
        };
        let serving = axum::serve(listener, router(self.state.clone()).into_make_service())
            .with_graceful_shutdown(async move {
                stop.await;
                readiness.begin_shutdown();
                tracing::info!("stopping: finishing what is in flight");
                told.cancel();
            });
        let patience = self.shutdown_timeout.saturating_sub(SHUTDOWN_RESERVE);
        let finished = tokio::select! {
            served = async { serving.await } => {
                served.map_err(StartError::Serve)?;
                true
            }
            () = async { stopping.cancelled().await; tokio::time::sleep(patience).await } => {
                tracing::warn!("some requests did not finish in time");
                false
            }
        };
        let database = self.state.database.clone();
        let tables = self.state.projections.store().clone();
        let noted = store_last_use(&self.rooms.registry);
        let _ = tokio::time::timeout(SHUTDOWN_STEP, noted).await;
        let tasks = self.rooms.tasks.clone();
        // The lanes end when the last handle to the ledger is gone and their queues are empty.
        drop(self.state);
        drop(self.rooms);
        let ended = tasks.stop(SHUTDOWN_STEP).await;
        let closed = async { tokio::join!(tables.close(), database.close()) };
        let _ = tokio::time::timeout(SHUTDOWN_STEP, closed).await;
        tracing::info!("stopped");
        Ok(finished && ended)
    }
}

async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if let Some(path) = &config.listen_file {
        // Renamed into place: whoever waits for the file reads all of it or none.
        let aside = path.with_extension("new");
        fs::write(&aside, address.to_string())
            .and_then(|()| fs::rename(&aside, path))
            .map_err(|source| StartError::ListenFile {
                path: path.clone(),
                source,
            })?;
    }
    Ok((listener, address))
}

async fn first_operator_key(registry: &Registry) -> Result<Option<SecretString>, StartError> {
    if registry.operator_key_exists().await? {
        return Ok(None);
    }
    let new = NewKey {
        tenant_id: None,
        name: Some("first operator".to_owned()),
        scopes: Scopes::ALL,
    };
    let (_, secret) = registry.create_key(new, None).await?;
    Ok(Some(secret))
}

/// Notes now and then when keys were last used.
fn note_last_use(rooms: &Rooms) {
    let registry = rooms.registry.clone();
    let stopping = rooms.tasks.stopping().clone();
    rooms.tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LAST_USE_INTERVAL) => store_last_use(&registry).await,
            }
        }
    });
}

async fn store_last_use(registry: &Registry) {
    let used = registry.take_used();
    if let Err(error) = registry.store_used(&used).await {
        // Only a convenience for people who clean up keys.
        tracing::warn!(error = %ErrorChain(&error), "when keys were last used was not noted");
    }
}
