-- Of this very term only: a newer one under the same client id stays. The message has River's very bytes.
WITH resigned AS (
    DELETE FROM @schema@river_leader
    WHERE leader_id = %(leader_id)s
        AND elected_at = %(elected_at)s
    RETURNING leader_id
)
SELECT CASE WHEN %(notify)s THEN pg_notify(
    %(channel)s,
    '{"leader_id" : ' || to_json(leader_id)::text || ', "action" : "resigned"}'
) END
FROM resigned
