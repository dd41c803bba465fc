//! `serve`: everything in one process, until a signal says to stop.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Done, Given, output};
use crate::app::{Service, StartError};

/// Start everything in one process (what happens without a subcommand)
///
/// Creates the ledger if there is none, and then prints an operator key: once, and never again.
/// SIGTERM or Ctrl-C finishes what is in flight and ends within 10 seconds; a second one ends at
/// once. Nothing that was answered is lost either way.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  notification-ledger serve
  notification-ledger serve --database-url sqlite:///var/lib/ledger/ledger.db --listen :9000
  LEDGER_DATABASE_URL=postgres://ledger@db/ledger LEDGER_MASTER_KEY=\"$KEY\" notification-ledger")]
pub(super) struct Arguments {}

/// How long a start may go on once it is told to stop: it may just have made the operator key, and
/// that must be shown.
const START_GRACE: Duration = Duration::from_secs(2);

pub(super) async fn run(given: &Given) -> anyhow::Result<Done> {
    let mut stop = StopSignals::new()?;
    let (service, stopped) = start(given, &mut stop).await?;
    let Some(service) = service else {
        return Ok(Done::All);
    };
    if let Some(key) = &service.operator_key {
        show_operator_key(key, service.address);
    }
    let work = async {
        if !stopped {
            std::future::pending::<()>().await;
        }
    };
    serve_during(given, service, stop, work).await
}

/// Starts a service, and says whether it was told to stop meanwhile: then there may be none.
async fn start(
    given: &Given,
    stop: &mut StopSignals,
) -> Result<(Option<Service>, bool), StartError> {
    let mut starting = pin!(Service::start(&given.config, &given.metrics));
    tokio::select! {
        started = &mut starting => return Ok((Some(started?), false)),
        () = stop.next() => {}
    }
    match tokio::time::timeout(START_GRACE, starting).await {
        Ok(started) => Ok((Some(started?), true)),
        Err(_) => Ok((None, true)),
    }
}

/// Serves while `work` goes on, until it ends or a signal comes; then finishes what is in flight,
/// unless a second signal says to end at once.
pub(super) async fn serve_during(
    given: &Given,
    service: Service,
    mut stop: StopSignals,
    work: impl Future<Output = ()>,
) -> anyhow::Result<Done> {
    let (tell, told) = oneshot::channel();
    let mut running = pin!(service.run(async move {
        let _ = told.await;
    }));
    tokio::select! {
        ended = &mut running => return ended.map(|_| Done::All).map_err(Into::into),
        () = work => {}
        () = stop.next() => {}
    }
    given.stopping_since.get_or_init(Instant::now);
    let _ = tell.send(());
    tokio::select! {
        // Callers who don't finish in time are no failure of ours; it was logged.
        ended = &mut running => ended.map(|_| Done::All).map_err(Into::into),
        () = stop.next() => bail!("stopped at once by a second signal; what was answered is safe"),
    }
}

/// SIGTERM and SIGINT. From its making on, neither ends the process by itself.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals can't be listened for");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The next one. Nothing is lost when this is dropped half-way.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn show_operator_key(key: &SecretString, address: SocketAddr) {
    let text = format!(
        "\
This ledger has no operator key yet. Here is its first, shown this once and never again:

    {}

It works for every tenant: name one in the header X-Tenant-Id. Next, in another terminal and with
the same settings:

    notification-ledger tenants create acme
    notification-ledger keys create --tenant acme
    curl http://{address}/v1/events -H 'Authorization: Bearer <that key>'

What else can be asked is at http://{address}/docs.
",
        key.expose_secret()
    );
    if output::line(text).is_err() {
        eprintln!(
            "An operator key was made, but could not be written to stdout. Make another with \
             `notification-ledger keys create --operator`."
        );
    }
}
