-- PostgreSQL reads the text of a table's checks anew for every statement that writes to the table: three
-- tenths of the instructions of one that stores an event. What they said is said by the types of what the
-- ledger writes, and nobody else writes here; of heads and events, `verify` looks for it too. The order is
-- the one in which lanes lock these tables.
ALTER TABLE partition_heads
    DROP CONSTRAINT head_position_counts_up,
    DROP CONSTRAINT head_hash_is_sha256;
ALTER TABLE events
    DROP CONSTRAINT event_position_from_1,
    DROP CONSTRAINT event_sequence_from_1,
    DROP CONSTRAINT event_schema_version_from_1,
    DROP CONSTRAINT event_hash_is_sha256;
ALTER TABLE data_keys
    DROP CONSTRAINT data_key_is_wrapped_or_erased;
ALTER TABLE idempotency_keys
    DROP CONSTRAINT fingerprint_is_sha256;
