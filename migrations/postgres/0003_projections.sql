-- What people read: tables that follow from the events and can be thrown away and rebuilt. Only
-- `src/projections/` writes them. A rebuild derives its shadow tables from what is declared here,
-- so this is the only place that says what they look like. Text that is compared is kept in the
-- order of its bytes: faster, and the same in both databases.

-- How far a projection has come in a partition. Whoever locks the row does the next step.
CREATE TABLE projection_checkpoints (
    partition smallint NOT NULL,
    projection text NOT NULL,
    version integer NOT NULL,
    -- Of the last event that is in the tables; 0 before the first.
    position bigint NOT NULL CONSTRAINT checkpoint_position_counts_up CHECK (position >= 0),
    -- The chain hash there: a ledger that was restored or altered is noticed by it.
    hash bytea NOT NULL CONSTRAINT checkpoint_hash_is_sha256 CHECK (octet_length(hash) = 32),
    epoch uuid NOT NULL,
    -- Why it stopped; NULL while it goes on.
    error text,
    failed_at bigint,
    PRIMARY KEY (partition, projection),
    CONSTRAINT checkpoint_failed_at_some_time CHECK ((error IS NULL) = (failed_at IS NULL))
);

-- One row per notification: its current state.
CREATE TABLE notifications (
    partition smallint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    notification_id uuid NOT NULL,
    -- Of its first event: never changes, so it is what lists are ordered by.
    first_position bigint NOT NULL,
    -- Sequence of the last event in this row.
    version bigint NOT NULL,
    external_id text COLLATE "C",
    workflow_id text COLLATE "C",
    workflow_version text COLLATE "C",
    subscriber_id text COLLATE "C",
    status text COLLATE "C" NOT NULL,
    category text COLLATE "C",
    priority text COLLATE "C",
    -- A JSON array.
    channels text COLLATE "C" NOT NULL,
    error_code text COLLATE "C",
    audience text COLLATE "C",
    severity text COLLATE "C",
    -- A JSON object.
    metadata text COLLATE "C" NOT NULL,
    -- When it was requested; of an adopted one, the earliest report.
    occurred_at bigint NOT NULL,
    scheduled_at bigint,
    expires_at bigint,
    requested_at bigint,
    queued_at bigint,
    sent_at bigint,
    delivered_at bigint,
    bounced_at bigint,
    failed_at bigint,
    suppressed_at bigint,
    retracted_at bigint,
    seen_at bigint,
    read_at bigint,
    messages bigint NOT NULL,
    -- A JSON array of codes.
    anomalies text COLLATE "C" NOT NULL,
    adopted boolean NOT NULL,
    PRIMARY KEY (partition, tenant_id, notification_id)
);

-- The order of lists, newest first; then one index per filter, in that order.
CREATE INDEX notifications_in_order ON notifications (partition, tenant_id, first_position);
CREATE INDEX notifications_by_status ON notifications (partition, tenant_id, status, first_position);
CREATE INDEX notifications_by_workflow ON notifications (partition, tenant_id, workflow_id, first_position);
CREATE INDEX notifications_by_subscriber ON notifications (partition, tenant_id, subscriber_id, first_position);
CREATE INDEX notifications_by_category ON notifications (partition, tenant_id, category, first_position);
CREATE INDEX notifications_by_external_id ON notifications (partition, tenant_id, external_id, first_position)
    WHERE external_id IS NOT NULL;
CREATE INDEX notifications_by_time ON notifications (partition, tenant_id, occurred_at);

-- One row per metadata entry, to find notifications by it.
CREATE TABLE notification_metadata (
    partition smallint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    notification_id uuid NOT NULL,
    -- The first half of a SHA-256 over key and value, which may be too long for an index.
    entry uuid NOT NULL,
    first_position bigint NOT NULL,
    PRIMARY KEY (partition, tenant_id, notification_id, entry)
);

CREATE INDEX notification_metadata_by_entry
    ON notification_metadata (partition, tenant_id, entry, first_position);

-- One row per message.
CREATE TABLE notification_logs (
    partition smallint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    notification_id uuid NOT NULL,
    message_key text COLLATE "C" NOT NULL,
    -- Of the first event about the message.
    first_position bigint NOT NULL,
    external_id text COLLATE "C",
    transaction_id text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C",
    step_id text COLLATE "C",
    channel text COLLATE "C",
    status text COLLATE "C" NOT NULL,
    subscriber_id text COLLATE "C",
    provider_id text COLLATE "C",
    provider_message_id text COLLATE "C",
    category text COLLATE "C",
    priority text COLLATE "C",
    -- Of the last failure or bounce, else of the notification's classification.
    error_code text COLLATE "C",
    target_audience text COLLATE "C",
    -- When the status shown was reached.
    occurred_at bigint NOT NULL,
    requested_at bigint,
    queued_at bigint,
    sent_at bigint,
    delivered_at bigint,
    bounced_at bigint,
    failed_at bigint,
    suppressed_at bigint,
    retracted_at bigint,
    seen_at bigint,
    read_at bigint,
    attempts bigint NOT NULL,
    bounce_type text COLLATE "C",
    last_error_code text COLLATE "C",
    last_error_at bigint,
    -- Sequences of the events whose sealed parts hold the provider's words and the raw report.
    last_error_sequence bigint,
    raw_sequence bigint,
    -- A JSON object.
    metadata text COLLATE "C" NOT NULL,
    PRIMARY KEY (partition, tenant_id, notification_id, message_key)
);

-- The order of lists, newest first; then one index per filter, in that order.
CREATE INDEX notification_logs_in_order ON notification_logs (partition, tenant_id, first_position);
CREATE INDEX notification_logs_by_status ON notification_logs (partition, tenant_id, status, first_position);
CREATE INDEX notification_logs_by_channel ON notification_logs (partition, tenant_id, channel, first_position);
CREATE INDEX notification_logs_by_workflow ON notification_logs (partition, tenant_id, workflow_id, first_position);
CREATE INDEX notification_logs_by_step ON notification_logs (partition, tenant_id, step_id, first_position)
    WHERE step_id IS NOT NULL;
CREATE INDEX notification_logs_by_subscriber ON notification_logs (partition, tenant_id, subscriber_id, first_position);
CREATE INDEX notification_logs_by_provider ON notification_logs (partition, tenant_id, provider_id, first_position)
    WHERE provider_id IS NOT NULL;
CREATE INDEX notification_logs_by_external_id ON notification_logs (partition, tenant_id, external_id, first_position)
    WHERE external_id IS NOT NULL;
CREATE INDEX notification_logs_by_transaction ON notification_logs (partition, tenant_id, transaction_id, first_position);
CREATE INDEX notification_logs_by_error_code ON notification_logs (partition, tenant_id, error_code, first_position)
    WHERE error_code IS NOT NULL;
CREATE INDEX notification_logs_by_audience ON notification_logs (partition, tenant_id, target_audience, first_position)
    WHERE target_audience IS NOT NULL;
CREATE INDEX notification_logs_by_time ON notification_logs (partition, tenant_id, occurred_at);

-- One row per event: only what order and filters need.
CREATE TABLE timeline (
    partition smallint NOT NULL,
    position bigint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    stream_id uuid NOT NULL,
    sequence bigint NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    -- As the event says, else as the first event of its stream that says so.
    subscriber_id text COLLATE "C",
    occurred_at bigint NOT NULL,
    recorded_at bigint NOT NULL,
    PRIMARY KEY (partition, position)
);

-- A tenant's, a subscriber's and a notification's timeline.
CREATE INDEX timeline_by_time ON timeline (partition, tenant_id, occurred_at, position);
CREATE INDEX timeline_by_subscriber ON timeline (partition, tenant_id, subscriber_id, occurred_at, position)
    WHERE subscriber_id IS NOT NULL;
CREATE INDEX timeline_by_stream ON timeline (partition, tenant_id, stream_id, occurred_at, position);

-- How many messages reached which stage. `resolution` is the length of the interval in seconds: 60,
-- 3600 or 86400; `at` its beginning. An empty name means that none was given.
CREATE TABLE metrics (
    partition smallint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    resolution bigint NOT NULL,
    at bigint NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    requested bigint NOT NULL,
    queued bigint NOT NULL,
    sent bigint NOT NULL,
    delivered bigint NOT NULL,
    bounced bigint NOT NULL,
    failed bigint NOT NULL,
    -- Of the failed, those that had not been sent.
    failed_unsent bigint NOT NULL,
    suppressed bigint NOT NULL,
    retracted bigint NOT NULL,
    seen bigint NOT NULL,
    read bigint NOT NULL,
    PRIMARY KEY (partition, tenant_id, resolution, at, workflow_id, channel, provider_id)
);

-- How long it took from request to `stage`, `sent` or `delivered`: how many messages in which
-- bucket. `src/projections/latency.rs` says which durations a bucket holds.
CREATE TABLE metric_latencies (
    partition smallint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    resolution bigint NOT NULL,
    at bigint NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    provider_id text COLLATE "C" NOT NULL,
    stage text COLLATE "C" NOT NULL,
    bucket bigint NOT NULL,
    messages bigint NOT NULL,
    PRIMARY KEY (partition, tenant_id, resolution, at, workflow_id, channel, provider_id, stage, bucket)
);

-- The last rebuild of each projection. Times are our own clock's.
CREATE TABLE projection_rebuilds (
    projection text PRIMARY KEY,
    rebuild_id uuid NOT NULL,
    version integer NOT NULL,
    -- NULL for all of them.
    partition smallint,
    state text NOT NULL CONSTRAINT rebuild_state_is_known
        CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    -- What it is at: filling, indexing, catching_up, comparing or swapping.
    phase text NOT NULL,
    error text,
    checksum_equal boolean,
    started_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    -- Who works on it, and until when others keep away.
    owner uuid,
    lease_until bigint NOT NULL
);

-- How far it has come in each partition.
CREATE TABLE projection_rebuild_parts (
    partition smallint NOT NULL,
    projection text NOT NULL,
    -- Up to here the shadow tables are filled stream by stream; from there on, event by event.
    target bigint NOT NULL,
    -- The last stream that is in the shadow tables.
    after_tenant_id text,
    after_stream_id uuid,
    is_filled boolean NOT NULL,
    -- Once filled: the last event in the shadow tables.
    position bigint NOT NULL,
    -- Events that are in the shadow tables.
    done bigint NOT NULL,
    PRIMARY KEY (partition, projection)
);
