-- The server's clock, and whether there is a table of durable periodic jobs that this role may use.
SELECT
    pg_catalog.clock_timestamp(),
    EXISTS (
        SELECT
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s
            AND c.relname = 'river_fast_periodic_job'
            AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
            AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
            AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
    )
