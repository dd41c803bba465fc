-- Which ledger a rebuild reads: if it is restored from a backup meanwhile, what was read before must
-- not take the place of what people read. NULL for rebuilds that an older release began.
ALTER TABLE projection_rebuild_parts ADD COLUMN epoch uuid;
