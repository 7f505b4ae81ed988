# Measuring. Nothing else should run on the machine meanwhile. bench/README.md says what each program does.
#   make bench                                                        the limit, river_fast and every rival: an hour or two
#   make bench ARGS='--rounds 5 --only river_fast,go --questions throughput'      a part of it
#   make bench-compare                                                what has become slower since the stored baseline

.PHONY: bench bench-all bench-throughput bench-latency bench-insert bench-micro bench-compare bench-baseline bench-limit
.PHONY: bench-plans bench-peers

BENCH := $(VENV)/.built $(VENV)/.test
MICRO := $(PY) -m pytest bench --benchmark-only --benchmark-json=build/bench/micro.json

bench: $(BENCH) $(VENV)/.bench ## the bench that decides: the limit, river_fast and every rival (ARGS='--only ... --questions ...')
	$(PY) bench/decide.py --readme $(ARGS)

bench-all: bench-throughput bench-latency bench-insert bench-micro ## river_fast alone against the limit, in a quarter of an hour

bench-throughput: $(BENCH) ## no-op jobs: river_fast against the database's own ceiling
	$(PY) bench/throughput.py --readme $(or $(ARGS),--memory --async)

bench-latency: $(BENCH) ## from the insert call's return to the work function
	$(PY) bench/latency.py --readme $(ARGS)

bench-insert: $(BENCH) ## how fast jobs go in
	$(PY) bench/insert.py --readme $(ARGS)

bench-micro: $(BENCH) ## nanoseconds: ring, codecs, COPY writer, unique key, dispatch
	@mkdir -p build/bench
	$(MICRO) $(ARGS)
	$(PY) bench/micro.py --readme

bench-compare: $(BENCH) ## the same against the stored baseline; fails where a part has become slower
	@mkdir -p build/bench
	$(MICRO)
	$(PY) bench/baseline.py $(ARGS)

bench-baseline: $(BENCH) ## store a new baseline
	@mkdir -p build/bench
	$(MICRO)
	$(PY) bench/baseline.py --store $(ARGS)

bench-peers: ## gofmt and go vet over River Go's program
	cd bench/peers/go && test -z "$$(gofmt -l .)" && go vet ./...

bench-plans: $(BENCH) ## the plan tests on a table of a million rows
	RIVER_FAST_PLAN_ROWS=1000000 $(PY) -m pytest tests/test_plans.py --timeout=1200 $(ARGS)

bench-limit: build/bench/limit ## the ceiling program alone

build/bench/limit: bench/limit.c $(wildcard _ext/*.h)
	@mkdir -p $(@D)
	$(CC) -O2 -g1 -std=gnu11 -pthread -Wall -Wextra -Wno-unused-function $< -o $@ -ldl

$(VENV)/.bench: pyproject.toml | $(VENV)/.installed
	$(call install_extra,bench)
	@touch $@
