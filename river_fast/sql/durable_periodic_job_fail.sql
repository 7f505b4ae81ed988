-- Why the leader could not run it.
UPDATE @schema@river_fast_periodic_job
SET last_error = %(error)s
WHERE id = %(id)s AND updated_at = %(seen_at)s
