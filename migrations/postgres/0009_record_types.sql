-- A row of each table of the record, as a value: what a batch adds to a table comes as one array of
-- these. The same as in 0008, and for the same reason types of their own: whoever changes a table adds
-- a type under a new name, because services of the release before go on with the old one.

CREATE TYPE event_row AS (
    partition smallint,
    position bigint,
    tenant_id text,
    stream_id uuid,
    sequence bigint,
    event_id uuid,
    event_type text,
    schema_version integer,
    occurred_at bigint,
    recorded_at bigint,
    actor_kind text,
    actor_id text,
    source text,
    correlation_id text,
    causation_id text,
    traceparent text,
    subscriber_id text,
    data json,
    hash bytea
);

CREATE TYPE data_key_row AS (
    partition smallint,
    tenant_id text,
    key_id uuid,
    wrapped_key text,
    created_at bigint
);

CREATE TYPE idempotency_key_row AS (
    partition smallint,
    tenant_id text,
    idempotency_key text,
    fingerprint bytea,
    stream_id uuid,
    version bigint,
    appended integer,
    answer text,
    recorded_at bigint
);

CREATE TYPE message_reference_row AS (
    partition smallint,
    tenant_id text,
    reference text,
    stream_id uuid
);

CREATE TYPE late_subscriber_row AS (
    partition smallint,
    tenant_id text,
    subscriber_id text,
    stream_id uuid
);
