-- On PostgreSQL, types for the rows of the record. SQLite takes rows value by value.
SELECT 1;
