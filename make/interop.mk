# River's own Go client, and River UI, beside ours on one database. Needs Go on PATH and the Go module proxy; fails without.
#   make interop RIVER=latest                      another release of River than the one pinned
#   make interop ARGS='-k "unique and not odd"'    a part of the cases; -n 0 for one after the other

.PHONY: interop interop-lint

interop: $(VENV)/.built $(VENV)/.test ## River's Go client and ours working one schema together (RIVER=latest for another release)
	@command -v go > /dev/null || { echo "make interop: Go is not on PATH; River's own client is built with it" >&2; exit 2; }
	$(PY) -m pytest tests/interop -o python_files='*.py' -n 3 --dist worksteal $(if $(RIVER),--river $(RIVER)) $(ARGS)

interop-lint: ## gofmt and go vet over the Go program of those cases
	cd tests/interop/go && test -z "$$(gofmt -l .)" && go vet ./...
