-- The record. Times are microseconds since 1970-01-01T00:00:00Z in both databases, so that the
-- bytes that are hashed do not depend on the database. Every primary key but those of the small
-- global tables begins with `partition`, so the schema can be sharded by it as it stands.

-- One row: what this ledger is. `key_check` is a known text under the master key, so that a
-- wrong key is noticed at the start and not at the first read.
CREATE TABLE ledger (
    singleton smallint PRIMARY KEY CONSTRAINT ledger_has_one_row CHECK (singleton = 1),
    ledger_id uuid NOT NULL,
    partitions smallint NOT NULL CONSTRAINT ledger_has_partitions CHECK (partitions > 0),
    key_check text NOT NULL,
    created_at bigint NOT NULL
);

-- One row per partition. Whoever holds it decides which position comes next.
CREATE TABLE partition_heads (
    partition smallint PRIMARY KEY,
    position bigint NOT NULL CONSTRAINT head_position_counts_up CHECK (position >= 0),
    hash bytea NOT NULL CONSTRAINT head_hash_is_sha256 CHECK (octet_length(hash) = 32),
    epoch uuid NOT NULL,
    recorded_at bigint NOT NULL
);

CREATE TABLE events (
    partition smallint NOT NULL,
    position bigint NOT NULL CONSTRAINT event_position_from_1 CHECK (position > 0),
    tenant_id text NOT NULL,
    stream_id uuid NOT NULL,
    sequence bigint NOT NULL CONSTRAINT event_sequence_from_1 CHECK (sequence > 0),
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    schema_version integer NOT NULL CONSTRAINT event_schema_version_from_1 CHECK (schema_version > 0),
    occurred_at bigint NOT NULL,
    recorded_at bigint NOT NULL,
    actor_kind text NOT NULL,
    actor_id text NOT NULL,
    source text NOT NULL,
    correlation_id text,
    causation_id text,
    traceparent text,
    subscriber_id text,
    -- `json`, not `jsonb`: the text is kept byte for byte, because exactly it is hashed.
    data json NOT NULL,
    hash bytea NOT NULL CONSTRAINT event_hash_is_sha256 CHECK (octet_length(hash) = 32),
    -- The order of the log: readers follow it, positions have no gaps.
    PRIMARY KEY (partition, position),
    -- The order of one stream: loads it, and makes a second writer of a sequence impossible.
    CONSTRAINT event_is_alone_at_its_sequence UNIQUE (partition, tenant_id, stream_id, sequence)
);

CREATE FUNCTION refuse_to_rewrite_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are permanent: % is refused', TG_OP;
END $$;

CREATE TRIGGER events_are_permanent
    BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history();

-- The key each subscriber's personal data is sealed under, itself wrapped by the master key.
-- Erasing a subscriber empties `wrapped_key` for good.
CREATE TABLE data_keys (
    partition smallint NOT NULL,
    tenant_id text NOT NULL,
    key_id uuid NOT NULL,
    wrapped_key text,
    created_at bigint NOT NULL,
    erased_at bigint,
    PRIMARY KEY (partition, tenant_id, key_id),
    CONSTRAINT data_key_is_wrapped_or_erased CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL))
);

-- What a caller's Idempotency-Key led to, for ever. Commands point at the stream's version then;
-- other calls keep their answer, sealed under the master key.
CREATE TABLE idempotency_keys (
    partition smallint NOT NULL,
    tenant_id text NOT NULL,
    idempotency_key text NOT NULL,
    fingerprint bytea NOT NULL CONSTRAINT fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32),
    stream_id uuid,
    version bigint,
    appended integer,
    answer text,
    recorded_at bigint NOT NULL,
    PRIMARY KEY (partition, tenant_id, idempotency_key)
);

-- Which stream a provider's id belongs to: how a webhook finds its notification when it does not
-- carry our id. Derived from events; written with them.
CREATE TABLE message_references (
    partition smallint NOT NULL,
    tenant_id text NOT NULL,
    reference text NOT NULL,
    stream_id uuid NOT NULL,
    PRIMARY KEY (partition, tenant_id, reference)
);
