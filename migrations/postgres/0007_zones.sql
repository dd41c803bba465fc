-- Lists are in the order of `first_position`, ranges are of `occurred_at`. By zones of 16,384 positions
-- and then by time, a range finds the zones that have rows of it and skips the others.

-- Shadow tables would lack the new indexes: a running rebuild has to be asked for again.
UPDATE projection_rebuilds
SET state = 'failed', error = 'the tables were changed by an upgrade; begin the rebuild again', owner = NULL
WHERE state = 'running' AND projection IN ('notifications', 'notification_logs');
DROP TABLE IF EXISTS notifications_shadow;
DROP TABLE IF EXISTS notification_metadata_shadow;
DROP TABLE IF EXISTS notification_logs_shadow;

-- Of all ranges these could only find short ones.
DROP INDEX IF EXISTS notifications_by_time;
DROP INDEX IF EXISTS notification_logs_by_time;
CREATE INDEX notifications_by_zone ON notifications (tenant_id, (first_position / 16384), occurred_at);
CREATE INDEX notification_logs_by_zone ON notification_logs (tenant_id, (first_position / 16384), occurred_at);

-- How many zones there are, the planner knows only once it has looked at the new indexes.
ANALYZE notifications;
ANALYZE notification_logs;
