-- The times of an outcome just recorded, by a test's clock: %(delay)s seconds until it is due again, NULL: scheduled_at stays.
UPDATE @schema@river_job
SET finalized_at = CASE WHEN finalized_at IS NOT NULL THEN %(now)s::timestamptz END,
    scheduled_at = CASE
        WHEN state IN ('available', 'retryable', 'scheduled') AND %(delay)s::float8 IS NOT NULL
            THEN %(now)s::timestamptz + pg_catalog.make_interval(secs => %(delay)s::float8)
        ELSE scheduled_at
    END
WHERE id = %(id)s
    AND attempted_at = %(attempted_at)s::timestamptz
