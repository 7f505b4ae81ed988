-- Whether the transaction has the lock from now on: nobody else has it.
SELECT pg_catalog.pg_try_advisory_xact_lock(%(key)s)
