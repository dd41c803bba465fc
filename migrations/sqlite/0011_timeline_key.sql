-- Half as many indexes of the timeline, which has a row for every event. The order in which it is read
-- tells its rows apart, so it is their key; and where a notification's events are, the record knows.

-- Shadow tables would have the old key: a running rebuild has to be asked for again.
UPDATE projection_rebuilds
SET state = 'failed', error = 'the tables were changed by an upgrade; begin the rebuild again', owner = NULL
WHERE state = 'running' AND projection = 'timeline';
DROP TABLE IF EXISTS timeline_shadow;

-- Not WITHOUT ROWID: rows within the key look so near to SQLite that it would walk through a tenant's whole
-- timeline for one subscriber's, instead of using the index for those.
CREATE TABLE timeline_new (
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    tenant_id TEXT NOT NULL,
    occurred_at INTEGER NOT NULL,
    stream_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    -- As the event says, else as the first event of its stream that says so.
    subscriber_id TEXT,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, occurred_at, position, partition)
);
INSERT INTO timeline_new
    (partition, position, tenant_id, occurred_at, stream_id, sequence, event_type, subscriber_id, recorded_at)
SELECT partition, position, tenant_id, occurred_at, stream_id, sequence, event_type, subscriber_id, recorded_at
FROM timeline
ORDER BY partition, position;
DROP TABLE timeline;
ALTER TABLE timeline_new RENAME TO timeline;
CREATE INDEX timeline_by_subscriber ON timeline (subscriber_id, tenant_id, occurred_at, position)
    WHERE subscriber_id IS NOT NULL;
