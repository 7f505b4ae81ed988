-- One demonstration at a time in a database; the lock goes with the transaction that asks.
SELECT pg_try_advisory_xact_lock(%(key)s::bigint)
