-- One migrator at a time in a schema; let go at the transaction's end.
SELECT pg_advisory_xact_lock(hashtextextended('river_fast migration of ' || %(schema)s::text, 0))
