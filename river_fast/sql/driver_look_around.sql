SELECT
    current_schema(),
    version(),
    current_setting('server_version_num')::int,
    coalesce(current_setting('yb_enable_listen_notify', true), 'off'),
    has_database_privilege(current_database(), 'TEMP'),
    current_setting('server_encoding'),
    extract(epoch FROM clock_timestamp())::float8,
    pg_backend_pid()
