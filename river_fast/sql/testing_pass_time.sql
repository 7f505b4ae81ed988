-- As if %(seconds)s had passed: every job's times are that much longer ago. What runs is left alone: its times are its fence.
UPDATE @schema@river_job
SET created_at = created_at - pg_catalog.make_interval(secs => %(seconds)s::float8),
    scheduled_at = scheduled_at - pg_catalog.make_interval(secs => %(seconds)s::float8),
    attempted_at = attempted_at - pg_catalog.make_interval(secs => %(seconds)s::float8),
    finalized_at = finalized_at - pg_catalog.make_interval(secs => %(seconds)s::float8)
WHERE state <> 'running'
