# Faults and rivals at full size: what `make test` does with a few thousand jobs.

.PHONY: chaos

chaos: $(VENV)/.built $(VENV)/.test ## 80,000 inserts of 100 unique keys while everybody schedules, leads in turn and maintains
	RIVER_FAST_STORM_INSERTS=80000 $(PY) -m pytest tests/acceptance/test_unique_storm.py -rP $(ARGS)
