-- As client_watch, and who is registered (id and key). %(locks)s: this server has advisory locks that mean something.
SELECT DISTINCT
    attempted_by[pg_catalog.array_upper(attempted_by, 1)] AS id,
    NULL::pg_catalog.int8 AS key,
    NULL::pg_catalog.bool AS locks,
    NULL::pg_catalog.timestamptz AS created_at,
    NULL::pg_catalog.timestamptz AS heartbeat_at
FROM @schema@river_job
WHERE state = 'running' AND %(locks)s
UNION ALL
SELECT NULL, (classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8, NULL, NULL, NULL
FROM pg_catalog.pg_locks
WHERE locktype = 'advisory'
    AND %(locks)s
    AND objsubid = 1
    AND granted
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
UNION ALL
SELECT id, key, locks, created_at, heartbeat_at
FROM @schema@river_fast_client
