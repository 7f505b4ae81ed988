-- A watcher that is frozen would keep the others from watching: the server ends its session, and with it its lock, be it
-- between two looks or in the middle of a rescue.
SELECT pg_catalog.set_config(%(name)s, %(milliseconds)s, false)
