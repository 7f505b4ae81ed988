-- The server process that answers: behind a pooler, the one of the session that was lent.
SELECT pg_backend_pid()
