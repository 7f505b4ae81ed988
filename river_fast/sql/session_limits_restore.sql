SELECT
    pg_catalog.set_config('statement_timeout', %(statement_timeout)s, false),
    CASE WHEN %(check_interval)s::text IS NOT NULL
        THEN pg_catalog.set_config('client_connection_check_interval', %(check_interval)s::text, false)
    END
