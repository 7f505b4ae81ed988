-- Schemas of test runs (%(prefix)s, eight hex digits, a number) whose run has ended without dropping them: nobody holds
-- the run's lock.
SELECT nspname
FROM pg_catalog.pg_namespace
WHERE nspname ~ ('^' || %(prefix)s || '_[0-9a-f]{8}_[0-9]+$')
    AND pg_catalog.pg_try_advisory_xact_lock(
        %(space)s::int4, ('x' || pg_catalog.substr(nspname, pg_catalog.length(%(prefix)s) + 2, 8))::bit(32)::int4
    )
