SELECT pg_notify(%(channel)s, n.payload) FROM unnest(%(payloads)s) AS n (payload)
