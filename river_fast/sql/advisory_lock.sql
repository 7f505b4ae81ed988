-- Whether the session has the lock from now on.
SELECT pg_catalog.pg_try_advisory_lock(%(key)s)
