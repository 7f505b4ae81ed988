-- At the end of a client's stop: its row, unless jobs still run under its id, which whoever watches will then free.
DELETE FROM @schema@river_fast_client
WHERE id = %(id)s
    AND key = %(key)s
    AND NOT EXISTS (
        SELECT
        FROM @schema@river_job
        WHERE state = 'running' AND attempted_by[pg_catalog.array_upper(attempted_by, 1)] = %(id)s
    )
