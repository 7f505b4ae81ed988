# What takes too long for the suite: an idle minute, and the seconds after a client's death.

.PHONY: idle dead-clients

idle: $(VENV)/.built $(VENV)/.test ## statements and CPU of idle clients, over a minute
	$(PY) -m pytest tests/long/idle.py --timeout=300 -rP $(ARGS)

dead-clients: $(VENV)/.built $(VENV)/.test ## how long the jobs of a client that was killed wait
	$(PY) -m pytest tests/long/dead_clients.py --timeout=600 -rP $(ARGS)
