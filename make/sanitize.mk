# The C under sanitizers and in a model checker, and what the ring costs.
#   make sanitize ARGS='-k thread'                 a part of it
#   make sanitize ARGS='-k "not model"'            without the model check, which needs relacy (Debian: relacy-dev) and g++
# Needs the compiler's sanitizer libraries (gcc has them).

.PHONY: sanitize ring-bench

sanitize: $(VENV)/.built $(VENV)/.test ## the compiled part under ASan, UBSan and TSan; the ring in a model checker (long)
	$(PY) -m pytest tests/sanitize/long_stress.py tests/sanitize/model.py tests/sanitize/whole_client.py --timeout=2400 -rP $(ARGS)

ring-bench: build/bench/ring ## nanoseconds an item through the ring
	build/bench/ring

build/bench/ring: bench/ring.c _ext/ring.h _ext/wakeup.h
	@mkdir -p $(@D)
	$(CC) -O2 -g1 -std=gnu11 -pthread -Wall -Wextra -Werror -I_ext $< -o $@
