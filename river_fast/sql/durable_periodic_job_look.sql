-- The server's clock, and when the first durable periodic job is due.
SELECT
    pg_catalog.clock_timestamp(),
    (
        SELECT min(next_run_at)
        FROM @schema@river_fast_periodic_job
        WHERE paused_at IS NULL AND id <> ALL (%(except_ids)s::text[])
    )
