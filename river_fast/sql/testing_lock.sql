-- Held while a test run has schemas: `testing_schemas_left` leaves those alone.
SELECT pg_catalog.pg_advisory_lock(%(space)s::int4, ('x' || %(key)s)::bit(32)::int4)
