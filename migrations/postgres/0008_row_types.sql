-- A row of each read table, as a value: the rows of a step come as one array of these, which takes a
-- third of the time to take apart of an array for each column. Types of their own, because a rebuild
-- puts another table, and with it another type, in a table's place. Services remember these types for
-- as long as they are connected, so whoever changes a table adds a type under a new name.

CREATE TYPE notifications_row AS (
    partition smallint,
    tenant_id text,
    notification_id uuid,
    first_position bigint,
    version bigint,
    external_id text,
    workflow_id text,
    workflow_version text,
    subscriber_id text,
    status text,
    category text,
    priority text,
    channels text,
    error_code text,
    audience text,
    severity text,
    metadata text,
    occurred_at bigint,
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
    messages bigint,
    anomalies text,
    adopted boolean
);

CREATE TYPE notification_metadata_row AS (
    partition smallint,
    tenant_id text,
    entry uuid,
    first_position bigint,
    notification_id uuid
);

CREATE TYPE metrics_row AS (
    partition smallint,
    tenant_id text,
    resolution bigint,
    at bigint,
    workflow_id text,
    channel text,
    provider_id text,
    requested bigint,
    queued bigint,
    sent bigint,
    delivered bigint,
    bounced bigint,
    failed bigint,
    failed_unsent bigint,
    suppressed bigint,
    retracted bigint,
    seen bigint,
    read bigint
);

CREATE TYPE metric_latencies_row AS (
    partition smallint,
    tenant_id text,
    resolution bigint,
    at bigint,
    workflow_id text,
    channel text,
    provider_id text,
    stage text,
    bucket bigint,
    messages bigint
);

CREATE TYPE notification_logs_row AS (
    partition smallint,
    tenant_id text,
    notification_id uuid,
    message_key text,
    first_position bigint,
    external_id text,
    transaction_id text,
    workflow_id text,
    step_id text,
    channel text,
    status text,
    subscriber_id text,
    provider_id text,
    provider_message_id text,
    category text,
    priority text,
    error_code text,
    target_audience text,
    occurred_at bigint,
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
    attempts bigint,
    bounce_type text,
    last_error_code text,
    last_error_at bigint,
    last_error_sequence bigint,
    raw_sequence bigint,
    metadata text
);

CREATE TYPE timeline_row AS (
    partition smallint,
    position bigint,
    tenant_id text,
    stream_id uuid,
    sequence bigint,
    event_type text,
    subscriber_id text,
    occurred_at bigint,
    recorded_at bigint
);
