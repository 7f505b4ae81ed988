-- $1 the client's liveness key. Whether this session holds its lock from now on, and when that was, by the server's clock.
SELECT pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8) AS had, pg_catalog.clock_timestamp() AS at
