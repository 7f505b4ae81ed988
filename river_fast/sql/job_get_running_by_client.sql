-- What this client claimed last, so many seconds ago or earlier, and nobody has ended: of its own rows alone.
SELECT id, attempt, attempted_at
FROM @schema@river_job
WHERE state = 'running'
    AND attempted_by[pg_catalog.array_upper(attempted_by, 1)] = %(client_id)s
    AND attempted_at BETWEEN '2000-01-01' AND '9999-01-01'  -- what a fetch may have written, and Python can hold
    AND attempted_at <= pg_catalog.now() - pg_catalog.make_interval(secs => %(age)s)
