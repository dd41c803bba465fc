# The ledger in one small image. Without further settings it keeps everything in an
# SQLite file in /data; with LEDGER_DATABASE_URL and LEDGER_MASTER_KEY it runs on
# PostgreSQL (see docker-compose.yml).
#
#     docker build --tag notification-ledger .
#     docker run --publish 127.0.0.1:8080:8080 --volume ledger-data:/data notification-ledger

# The same Debian as below, so that the program finds the C library it was linked with.
FROM rust:1.95-bookworm AS builder

WORKDIR /build
COPY . .

# The cache mounts keep downloaded and compiled dependencies between builds. They are not
# part of the image, so the program is copied out of them in the same step.
#
# Cargo tells by its time whether a file has changed. A checkout of another version may be
# older than what the cache holds, and would then be taken for compiled already; the fresh
# times make sure that the program is always built from the files at hand.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin notification-ledger \
    && install -D --mode=0755 target/release/notification-ledger /out/notification-ledger


FROM debian:bookworm-slim

# The certificates are for a telemetry collector or a database behind TLS.
#
# The user is an ordinary one with a number of its own, above those that systems give
# out. Its folder is closed to everybody else: next to the database lies the master key.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 ledger \
    && useradd --uid 10001 --gid ledger --home-dir /data --no-create-home --shell /usr/sbin/nologin ledger \
    && install -d --owner=ledger --group=ledger --mode=0700 /data

COPY --from=builder /out/notification-ledger /usr/local/bin/notification-ledger

# A container that listens on its own loopback address could not be reached at all. Who
# may reach it is decided where its port is published.
ENV LEDGER_LISTEN=0.0.0.0:8080 \
    LEDGER_DATABASE_URL=sqlite:///data/ledger.db

# By number, so that a platform which forbids root can tell that this is not root.
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080

# Alive, not ready: a ledger that has lost its database for a moment needs patience, not
# a restart. Bash opens the connection itself, which spares the image an HTTP client.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>\"/dev/tcp/127.0.0.1/${LEDGER_LISTEN##*:}\" && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [[ $status == 200 ]]"]

# SIGTERM, Docker's default, is what the ledger shuts down on; give it the 10 seconds
# that it may take (`docker stop -t 15`).
ENTRYPOINT ["notification-ledger"]
CMD ["serve"]
