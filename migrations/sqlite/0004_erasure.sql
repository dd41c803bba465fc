-- Erasing subscribers: who sealed something must notice that its key was destroyed meanwhile, and
-- whoever erases must find everything that goes.

-- How often somebody of the partition was erased. Whoever appends reads it with the lock anyway,
-- and asks for the data keys again only if it has moved since they were read.
ALTER TABLE partition_heads ADD COLUMN erasures INTEGER NOT NULL DEFAULT 0;

-- How many notifications name a subscriber. Only of first events, which name almost all of them:
-- an entry for every event would cost every fact something.
CREATE INDEX event_begins_for_subscriber
    ON events (partition, tenant_id, subscriber_id, stream_id)
    WHERE subscriber_id IS NOT NULL AND sequence = 1
        AND event_type IN ('notification.requested', 'notification.adopted');

-- The others: notifications that had begun before they named a subscriber. What was sealed until
-- then may be under a key of their own. Derived from events; written with them.
CREATE TABLE late_subscribers (
    partition INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    subscriber_id TEXT NOT NULL,
    stream_id BLOB NOT NULL,
    PRIMARY KEY (partition, tenant_id, subscriber_id, stream_id)
) WITHOUT ROWID;

INSERT INTO late_subscribers (partition, tenant_id, subscriber_id, stream_id)
SELECT partition, tenant_id, subscriber_id, stream_id
FROM events
WHERE subscriber_id IS NOT NULL AND event_type LIKE 'notification.%'
GROUP BY partition, tenant_id, subscriber_id, stream_id
HAVING MIN(sequence) > 1;
