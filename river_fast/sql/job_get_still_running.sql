-- The second look at few of them, by primary key.
SELECT id, attempt, attempted_at
FROM @schema@river_job
WHERE id = ANY (%(ids)s::pg_catalog.int8[])
    AND (state = 'running') IS TRUE
    AND attempted_by[pg_catalog.array_upper(attempted_by, 1)] = %(client_id)s
    AND attempted_at BETWEEN '2000-01-01' AND '9999-01-01'  -- what a fetch may have written, and Python can hold
