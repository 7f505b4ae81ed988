-- For commands that take minutes and must not be cut off in the middle, not even by their client's death.
SELECT
    pg_catalog.set_config('statement_timeout', '0', false),
    CASE WHEN pg_catalog.current_setting('client_connection_check_interval', true) IS NOT NULL
        THEN pg_catalog.set_config('client_connection_check_interval', '0', false)
    END
