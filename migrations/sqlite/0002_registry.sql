-- Who may use the ledger: small global tables, read often and written seldom.

CREATE TABLE tenants (
    tenant_id TEXT PRIMARY KEY,
    name TEXT,
    partition INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);

-- Secrets are kept as SHA-256 only. An operator key has no tenant.
CREATE TABLE api_keys (
    key_id BLOB PRIMARY KEY,
    tenant_id TEXT REFERENCES tenants,
    name TEXT,
    scopes TEXT NOT NULL,
    secret_hash BLOB NOT NULL CONSTRAINT api_key_secret_is_unique UNIQUE,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER
);

-- For listing a tenant's keys.
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at);

-- Where webhooks come from. Signing secrets must be known to verify, so they are encrypted under
-- the master key rather than hashed.
CREATE TABLE webhook_sources (
    source_id BLOB PRIMARY KEY,
    tenant_id TEXT NOT NULL REFERENCES tenants,
    provider TEXT NOT NULL,
    name TEXT NOT NULL,
    unmatched TEXT NOT NULL CONSTRAINT unmatched_is_known CHECK (unmatched IN ('adopt', 'quarantine')),
    paused INTEGER NOT NULL,
    wrapped_secrets TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);

-- For listing a tenant's sources.
CREATE INDEX webhook_sources_by_tenant ON webhook_sources (tenant_id, created_at);

-- Authentic webhooks that could not be understood. `entry_id` follows from source and delivery,
-- so a provider's retry finds its own entry. The body is sealed under a data key.
CREATE TABLE webhook_quarantine (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    entry_id BLOB NOT NULL,
    source_id BLOB NOT NULL,
    delivery_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    sealed_body TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (partition, tenant_id, entry_id)
);

-- For listing in the order of arrival.
CREATE INDEX webhook_quarantine_by_arrival
    ON webhook_quarantine (partition, tenant_id, received_at, entry_id);
