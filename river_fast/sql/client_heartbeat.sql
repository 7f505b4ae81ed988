-- $1 this client's id, $2 its key, $3 whether it holds the advisory lock of that key.
INSERT INTO @schema@river_fast_client (id, key, locks)
VALUES ($1::pg_catalog.text, $2::pg_catalog.int8, $3::pg_catalog.bool)
ON CONFLICT (id, key) DO UPDATE
SET locks = excluded.locks, heartbeat_at = pg_catalog.now()
