-- A watcher that is frozen would keep the others from watching: the server ends its session, and with it its lock.
SELECT pg_catalog.set_config('idle_session_timeout', %(milliseconds)s, false)
