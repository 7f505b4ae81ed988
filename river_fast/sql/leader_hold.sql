-- Whether the term still stands, and it cannot end before this transaction does: whoever takes over waits for it.
SELECT 1
FROM @schema@river_leader
WHERE leader_id = %(leader_id)s AND elected_at = %(elected_at)s
FOR SHARE
