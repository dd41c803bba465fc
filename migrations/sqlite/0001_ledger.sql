-- The record. Times are microseconds since 1970-01-01T00:00:00Z in both databases, so that the
-- bytes that are hashed do not depend on the database. Every primary key but those of the small
-- global tables begins with `partition`, so the schema can be sharded by it as it stands.

-- One row: what this ledger is. `key_check` is a known text under the master key, so that a
-- wrong key is noticed at the start and not at the first read.
CREATE TABLE ledger (
    singleton INTEGER PRIMARY KEY CONSTRAINT ledger_has_one_row CHECK (singleton = 1),
    ledger_id BLOB NOT NULL,
    partitions INTEGER NOT NULL CONSTRAINT ledger_has_partitions CHECK (partitions > 0),
    key_check TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

-- One row per partition. Whoever holds it decides which position comes next.
CREATE TABLE partition_heads (
    partition INTEGER PRIMARY KEY,
    position INTEGER NOT NULL CONSTRAINT head_position_counts_up CHECK (position >= 0),
    hash BLOB NOT NULL CONSTRAINT head_hash_is_sha256 CHECK (length(hash) = 32),
    epoch BLOB NOT NULL,
    recorded_at INTEGER NOT NULL
);

CREATE TABLE events (
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL CONSTRAINT event_position_from_1 CHECK (position > 0),
    tenant_id TEXT NOT NULL,
    stream_id BLOB NOT NULL,
    sequence INTEGER NOT NULL CONSTRAINT event_sequence_from_1 CHECK (sequence > 0),
    event_id BLOB NOT NULL,
    event_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL CONSTRAINT event_schema_version_from_1 CHECK (schema_version > 0),
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    source TEXT NOT NULL,
    correlation_id TEXT,
    causation_id TEXT,
    traceparent TEXT,
    subscriber_id TEXT,
    -- Kept byte for byte, because exactly this text is hashed.
    data TEXT NOT NULL,
    hash BLOB NOT NULL CONSTRAINT event_hash_is_sha256 CHECK (length(hash) = 32),
    -- The order of the log: readers follow it, positions have no gaps.
    PRIMARY KEY (partition, position)
) WITHOUT ROWID;

-- The order of one stream: loads it, and makes a second writer of a sequence impossible. An index
-- with a name, because look-ups must ask for it: the planner would rather scan the partition.
CREATE UNIQUE INDEX event_is_alone_at_its_sequence
    ON events (partition, tenant_id, stream_id, sequence);

CREATE TRIGGER events_are_not_updated BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are permanent: UPDATE is refused');
END;

CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'events are permanent: DELETE is refused');
END;

-- The key each subscriber's personal data is sealed under, itself wrapped by the master key.
-- Erasing a subscriber empties `wrapped_key` for good.
CREATE TABLE data_keys (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    key_id BLOB NOT NULL,
    wrapped_key TEXT,
    created_at INTEGER NOT NULL,
    erased_at INTEGER,
    PRIMARY KEY (partition, tenant_id, key_id),
    CONSTRAINT data_key_is_wrapped_or_erased CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL))
) WITHOUT ROWID;

-- What a caller's Idempotency-Key led to, for ever. Commands point at the stream's version then;
-- other calls keep their answer, sealed under the master key.
CREATE TABLE idempotency_keys (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint BLOB NOT NULL CONSTRAINT fingerprint_is_sha256 CHECK (length(fingerprint) = 32),
    stream_id BLOB,
    version INTEGER,
    appended INTEGER,
    answer TEXT,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (partition, tenant_id, idempotency_key)
) WITHOUT ROWID;

-- Which stream a provider's id belongs to: how a webhook finds its notification when it does not
-- carry our id. Derived from events; written with them.
CREATE TABLE message_references (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    reference TEXT NOT NULL,
    stream_id BLOB NOT NULL,
    PRIMARY KEY (partition, tenant_id, reference)
) WITHOUT ROWID;
