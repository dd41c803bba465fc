//! `serve`: everything in one process, until a signal says to stop.

use std::net::SocketAddr;
use std::pin::pin;

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Done, Setting, output};
use crate::app::Service;

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

pub(super) async fn run(setting: &Setting) -> anyhow::Result<Done> {
    let mut stop = StopSignals::new()?;
    let service = tokio::select! {
        started = Service::start(&setting.config, &setting.metrics) => started?,
        () = stop.next() => return Ok(Done::All),
    };
    if let Some(key) = &service.operator_key {
        show_operator_key(key, service.address);
    }
    serve_during(service, stop, std::future::pending()).await
}

/// Serves while `work` goes on, until it ends or a signal comes; then finishes what is in flight,
/// unless a second signal says to end at once.
pub(super) async fn serve_during(
    service: Service,
    mut stop: StopSignals,
    work: impl Future<Output = ()>,
) -> anyhow::Result<Done> {
    let (begin, begun) = oneshot::channel();
    let mut running = pin!(service.run(async move {
        let _ = begun.await;
    }));
    tokio::select! {
        ended = &mut running => return ended.map(|_| Done::All).map_err(Into::into),
        () = work => {}
        () = stop.next() => {}
    }
    let _ = begin.send(());
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

It works for every tenant: name one in the header X-Tenant-Id. Next steps, in another terminal:

    notification-ledger tenants create acme
    notification-ledger keys create --tenant acme
    curl http://{address}/v1/events -H 'Authorization: Bearer <that key>'
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
