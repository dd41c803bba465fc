-- On PostgreSQL, types for the rows of the read tables. SQLite takes rows value by value.
SELECT 1;
