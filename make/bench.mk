# Measuring. Nothing else should run on the machine meanwhile. bench/README.md says what each program does.
#   make bench                                   everything, about 15 minutes; rewrites the tables of bench/README.md
#   make bench-throughput ARGS='--rounds 5'      one program with options of its own

.PHONY: bench bench-throughput bench-latency bench-insert bench-micro bench-limit bench-plans

BENCH := $(VENV)/.built $(VENV)/.test

bench: bench-throughput bench-latency bench-insert bench-micro ## measure everything, rewrite bench/README.md's tables

bench-throughput: $(BENCH) ## the deciding run: river_fast against the database's own ceiling
	$(PY) bench/throughput.py --readme $(or $(ARGS),--memory --async)

bench-latency: $(BENCH) ## from the insert call's return to the work function
	$(PY) bench/latency.py --readme $(ARGS)

bench-insert: $(BENCH) ## how fast jobs go in
	$(PY) bench/insert.py --readme $(ARGS)

bench-micro: $(BENCH) ## nanoseconds: ring, codecs, COPY writer, unique key, dispatch
	@mkdir -p build/bench
	$(PY) -m pytest bench --benchmark-only --benchmark-json=build/bench/micro.json $(ARGS)
	$(PY) bench/micro.py --readme

bench-plans: $(BENCH) ## the plan tests on a table of a million rows
	RIVER_FAST_PLAN_ROWS=1000000 $(PY) -m pytest tests/test_plans.py --timeout=1200 $(ARGS)

bench-limit: build/bench/limit ## the ceiling program alone

build/bench/limit: bench/limit.c $(wildcard _ext/*.h)
	@mkdir -p $(@D)
	$(CC) -O2 -g1 -std=gnu11 -pthread -Wall -Wextra -Wno-unused-function $< -o $@ -ldl
