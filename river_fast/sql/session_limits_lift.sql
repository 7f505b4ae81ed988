-- For a command that takes minutes and must not be cut off in the middle, its client's death included; and what was set.
SELECT
    pg_catalog.current_setting('statement_timeout'),
    pg_catalog.current_setting('client_connection_check_interval', true),
    pg_catalog.set_config('statement_timeout', '0', false),
    CASE WHEN pg_catalog.current_setting('client_connection_check_interval', true) IS NOT NULL
        THEN pg_catalog.set_config('client_connection_check_interval', '0', false)
    END
