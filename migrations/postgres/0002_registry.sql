-- Who may use the ledger: small global tables, read often and written seldom.

CREATE TABLE tenants (
    tenant_id text PRIMARY KEY,
    name text,
    partition smallint NOT NULL,
    created_at bigint NOT NULL
);

-- Secrets are kept as SHA-256 only. An operator key has no tenant.
CREATE TABLE api_keys (
    key_id uuid PRIMARY KEY,
    tenant_id text REFERENCES tenants,
    name text,
    scopes text NOT NULL,
    secret_hash bytea NOT NULL CONSTRAINT api_key_secret_is_unique UNIQUE,
    created_at bigint NOT NULL,
    last_used_at bigint,
    revoked_at bigint
);

-- For listing a tenant's keys.
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at);

-- Where webhooks come from. Signing secrets must be known to verify, so they are encrypted under
-- the master key rather than hashed.
CREATE TABLE webhook_sources (
    source_id uuid PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants,
    provider text NOT NULL,
    name text NOT NULL,
    unmatched text NOT NULL CONSTRAINT unmatched_is_known CHECK (unmatched IN ('adopt', 'quarantine')),
    paused boolean NOT NULL,
    wrapped_secrets text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

-- For listing a tenant's sources.
CREATE INDEX webhook_sources_by_tenant ON webhook_sources (tenant_id, created_at);

-- Authentic webhooks that could not be understood. `entry_id` follows from source and delivery,
-- so a provider's retry finds its own entry. The body is sealed under a data key.
CREATE TABLE webhook_quarantine (
    partition smallint NOT NULL,
    tenant_id text NOT NULL,
    entry_id uuid NOT NULL,
    source_id uuid NOT NULL,
    delivery_id text NOT NULL,
    reason text NOT NULL,
    sealed_body text NOT NULL,
    received_at bigint NOT NULL,
    PRIMARY KEY (partition, tenant_id, entry_id)
);

-- For listing in the order of arrival.
CREATE INDEX webhook_quarantine_by_arrival
    ON webhook_quarantine (partition, tenant_id, received_at, entry_id);
