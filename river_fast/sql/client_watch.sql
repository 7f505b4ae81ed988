-- By what the living are told from the dead: under whom jobs run (id alone), and which advisory locks are held (key
-- alone), read after the first: whoever has claimed a row had its lock before.
SELECT DISTINCT
    attempted_by[pg_catalog.array_upper(attempted_by, 1)] AS id,
    NULL::pg_catalog.int8 AS key
FROM @schema@river_job
WHERE state = 'running'
UNION ALL
SELECT NULL, (classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8
FROM pg_catalog.pg_locks
WHERE locktype = 'advisory'
    AND objsubid = 1  -- of one bigint, not of two integers
    AND granted
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
