-- Waits for whoever has them locked, in the order in which everybody else locks many.
SELECT id
FROM @schema@river_job
WHERE id = ANY (%(ids)s::pg_catalog.int8[])
ORDER BY id
FOR UPDATE
