# River's own Go code beside ours, on one database. Needs Go on PATH and the Go module proxy; fails without.
#   make interop RIVER=latest                      another release of River than the one pinned

.PHONY: interop

interop: $(VENV)/.built ## our migrations and leader against River's own (RIVER=latest for another release)
	$(PY) -m tests.interop.migrations $(if $(RIVER),--river $(RIVER)) $(ARGS)
