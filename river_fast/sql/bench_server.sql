-- Which process serves this connection, and our own port as it sees it (-1: a Unix socket). Text, for a plain read.
SELECT pg_backend_pid()::text, coalesce(inet_client_port(), -1)::text
