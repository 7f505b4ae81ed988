-- Of this very term only: a lease that is over, or was taken by another, cannot be drawn out.
UPDATE @schema@river_leader
SET expires_at = now() + make_interval(secs => %(lease)s)
WHERE leader_id = %(leader_id)s
    AND elected_at = %(elected_at)s
    AND expires_at >= now()
