# What takes too long for the suite: an idle minute, and the seconds after a client's death.

.PHONY: idle

idle: $(VENV)/.built $(VENV)/.test ## statements and CPU of idle clients, over a minute
	$(PY) -m pytest tests/long/idle.py --timeout=300 -rP $(ARGS)
