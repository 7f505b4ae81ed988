-- One row can exist; it is taken if it is missing or its lease is over. No row comes back while somebody else leads.
INSERT INTO @schema@river_leader AS l (leader_id, elected_at, expires_at)
VALUES (%(leader_id)s, now(), now() + make_interval(secs => %(lease)s))
ON CONFLICT (name) DO UPDATE
SET leader_id = excluded.leader_id, elected_at = excluded.elected_at, expires_at = excluded.expires_at
WHERE l.expires_at < now()
RETURNING elected_at
