-- Locks the row of a client that has not said since then that it lives; no row: it has, or another watcher is at it.
SELECT TRUE
FROM @schema@river_fast_client
WHERE id = %(id)s AND key = %(key)s AND NOT locks AND heartbeat_at = %(heartbeat_at)s
FOR UPDATE SKIP LOCKED
