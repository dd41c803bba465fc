-- What people read: tables that follow from the events and can be thrown away and rebuilt. Only
-- `src/projections/` writes them. A rebuild derives its shadow tables from what is declared here,
-- so this is the only place that says what they look like.

-- How far a projection has come in a partition. Whoever locks the row does the next step.
CREATE TABLE projection_checkpoints (
    partition INTEGER NOT NULL,
    projection TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- Of the last event that is in the tables; 0 before the first.
    position INTEGER NOT NULL CONSTRAINT checkpoint_position_counts_up CHECK (position >= 0),
    -- The chain hash there: a ledger that was restored or altered is noticed by it.
    hash BLOB NOT NULL CONSTRAINT checkpoint_hash_is_sha256 CHECK (length(hash) = 32),
    epoch BLOB NOT NULL,
    -- Why it stopped; NULL while it goes on.
    error TEXT,
    failed_at INTEGER,
    PRIMARY KEY (partition, projection),
    CONSTRAINT checkpoint_failed_at_some_time CHECK ((error IS NULL) = (failed_at IS NULL))
) WITHOUT ROWID;

-- One row per notification: its current state.
CREATE TABLE notifications (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    notification_id BLOB NOT NULL,
    -- Of its first event: never changes, so it is what lists are ordered by.
    first_position INTEGER NOT NULL,
    -- Sequence of the last event in this row.
    version INTEGER NOT NULL,
    external_id TEXT,
    workflow_id TEXT,
    workflow_version TEXT,
    subscriber_id TEXT,
    status TEXT NOT NULL,
    category TEXT,
    priority TEXT,
    -- A JSON array.
    channels TEXT NOT NULL,
    error_code TEXT,
    audience TEXT,
    severity TEXT,
    -- A JSON object.
    metadata TEXT NOT NULL,
    -- When it was requested; of an adopted one, the earliest report.
    occurred_at INTEGER NOT NULL,
    scheduled_at INTEGER,
    expires_at INTEGER,
    requested_at INTEGER,
    queued_at INTEGER,
    sent_at INTEGER,
    delivered_at INTEGER,
    bounced_at INTEGER,
    failed_at INTEGER,
    suppressed_at INTEGER,
    retracted_at INTEGER,
    seen_at INTEGER,
    read_at INTEGER,
    messages INTEGER NOT NULL,
    -- A JSON array of codes.
    anomalies TEXT NOT NULL,
    adopted INTEGER NOT NULL,
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
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    notification_id BLOB NOT NULL,
    -- The first half of a SHA-256 over key and value, which may be too long for an index.
    entry BLOB NOT NULL,
    first_position INTEGER NOT NULL,
    PRIMARY KEY (partition, tenant_id, notification_id, entry)
) WITHOUT ROWID;

CREATE INDEX notification_metadata_by_entry
    ON notification_metadata (partition, tenant_id, entry, first_position);

-- One row per message.
CREATE TABLE notification_logs (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    notification_id BLOB NOT NULL,
    message_key TEXT NOT NULL,
    -- Of the first event about the message.
    first_position INTEGER NOT NULL,
    external_id TEXT,
    transaction_id TEXT NOT NULL,
    workflow_id TEXT,
    step_id TEXT,
    channel TEXT,
    status TEXT NOT NULL,
    subscriber_id TEXT,
    provider_id TEXT,
    provider_message_id TEXT,
    category TEXT,
    priority TEXT,
    -- Of the last failure or bounce, else of the notification's classification.
    error_code TEXT,
    target_audience TEXT,
    -- When the status shown was reached.
    occurred_at INTEGER NOT NULL,
    requested_at INTEGER,
    queued_at INTEGER,
    sent_at INTEGER,
    delivered_at INTEGER,
    bounced_at INTEGER,
    failed_at INTEGER,
    suppressed_at INTEGER,
    retracted_at INTEGER,
    seen_at INTEGER,
    read_at INTEGER,
    attempts INTEGER NOT NULL,
    bounce_type TEXT,
    last_error_code TEXT,
    last_error_at INTEGER,
    -- Sequences of the events whose sealed parts hold the provider's words and the raw report.
    last_error_sequence INTEGER,
    raw_sequence INTEGER,
    -- A JSON object.
    metadata TEXT NOT NULL,
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
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    stream_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    -- As the event says, else as the first event of its stream that says so.
    subscriber_id TEXT,
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (partition, position)
) WITHOUT ROWID;

-- A tenant's, a subscriber's and a notification's timeline.
CREATE INDEX timeline_by_time ON timeline (partition, tenant_id, occurred_at, position);
CREATE INDEX timeline_by_subscriber ON timeline (partition, tenant_id, subscriber_id, occurred_at, position)
    WHERE subscriber_id IS NOT NULL;
CREATE INDEX timeline_by_stream ON timeline (partition, tenant_id, stream_id, occurred_at, position);

-- How many messages reached which stage. `resolution` is the length of the interval in seconds: 60,
-- 3600 or 86400; `at` its beginning. An empty name means that none was given.
CREATE TABLE metrics (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    resolution INTEGER NOT NULL,
    at INTEGER NOT NULL,
    workflow_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    requested INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    bounced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    -- Of the failed, those that had not been sent.
    failed_unsent INTEGER NOT NULL,
    suppressed INTEGER NOT NULL,
    retracted INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    read INTEGER NOT NULL,
    PRIMARY KEY (partition, tenant_id, resolution, at, workflow_id, channel, provider_id)
) WITHOUT ROWID;

-- How long it took from request to `stage`, `sent` or `delivered`: how many messages in which
-- bucket. `src/projections/latency.rs` says which durations a bucket holds.
CREATE TABLE metric_latencies (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    resolution INTEGER NOT NULL,
    at INTEGER NOT NULL,
    workflow_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    stage TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    PRIMARY KEY (partition, tenant_id, resolution, at, workflow_id, channel, provider_id, stage, bucket)
) WITHOUT ROWID;

-- The last rebuild of each projection. Times are our own clock's.
CREATE TABLE projection_rebuilds (
    projection TEXT PRIMARY KEY,
    rebuild_id BLOB NOT NULL,
    version INTEGER NOT NULL,
    -- NULL for all of them.
    partition INTEGER,
    state TEXT NOT NULL CONSTRAINT rebuild_state_is_known
        CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    -- What it is at: filling, indexing, catching_up, comparing or swapping.
    phase TEXT NOT NULL,
    error TEXT,
    checksum_equal INTEGER,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- Who works on it, and until when others keep away.
    owner BLOB,
    lease_until INTEGER NOT NULL
);

-- How far it has come in each partition.
CREATE TABLE projection_rebuild_parts (
    partition INTEGER NOT NULL,
    projection TEXT NOT NULL,
    -- Up to here the shadow tables are filled stream by stream; from there on, event by event.
    target INTEGER NOT NULL,
    -- The last stream that is in the shadow tables.
    after_tenant_id TEXT,
    after_stream_id BLOB,
    is_filled INTEGER NOT NULL,
    -- Once filled: the last event in the shadow tables.
    position INTEGER NOT NULL,
    -- Events that are in the shadow tables.
    done INTEGER NOT NULL,
    PRIMARY KEY (partition, projection)
) WITHOUT ROWID;
