-- Queues are looked at before the limit: what is kept never uses up a batch.
DELETE FROM @schema@river_job
WHERE id = ANY (ARRAY(
    SELECT id
    FROM @schema@river_job
    WHERE state IN ('cancelled', 'completed', 'discarded')
        AND finalized_at < %(before)s
        AND queue <> ALL (%(queues_excluded)s::text[])
        AND (%(queues_included)s::text[] IS NULL OR queue = ANY (%(queues_included)s::text[]))
    ORDER BY id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
