-- On PostgreSQL, checks that cost as much as the rows they are for. SQLite compiles them into a statement
-- once, and keeps them.
SELECT 1;
