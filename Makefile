# Everything here works from a bare clone on a machine with Python 3.11 or later: the
# environment is made on first use, from the locked requirements.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
# Tests build network namespaces; who is not root does that in a user namespace, and is called root
# there: the name keeps pytest's temporary folders apart from root's own.
UNSHARE := $(if $(filter 0,$(shell id -u)),,unshare -Urnm env LOGNAME=user-$(shell id -u))
PYTEST := $(UNSHARE) $(BIN)/python -m pytest -n 4 --dist worksteal

.PHONY: help demo run test test-core test-pythons check coverage pictures fix reference bench lock clean
help:
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

# What builds the project comes by hash as well: without isolation pip fetches nothing for it.
$(VENV)/.run: requirements.lock requirements-build.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock -r requirements-build.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.run  ## the incident, shown end to end in under a minute
	@$(BIN)/probe demo

run: $(VENV)/.run  ## the sidecar beside your application: make run PORT=8080
	@$(BIN)/probe serve --port $(PORT)

test: $(VENV)/.dev  ## every test, each in a network namespace of its own
	$(PYTEST)

test-core: $(VENV)/.dev
	$(PYTEST) -q -m "not slow" tests/test_*.py tests/api tests/config tests/kernel tests/roundtrip tests/sidecar

test-pythons: $(VENV)/.dev  ## the rooms of every check and verdict, on each other Python that is here or in Debian
	@.ci/pythons | while read -r version python; do \
	    echo "== Python $$version"; \
	    $(MAKE) --no-print-directory VENV=.venv-$$version PYTHON=$$python test-core || exit 1; \
	done
	@.ci/newer-pythons

check: $(VENV)/.dev  ## ruff, mypy strict, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(UNSHARE) $(BIN)/python -m pytest -q tests/test_architecture.py

# Where a verdict is reached, set and told. Commands and sidecars that tests start are not measured:
# what these rooms promise is tested where it can be seen to be.
ROOMS := 'probe/judge/*' probe/sidecar/monitor.py 'probe/config/*' probe/api/status.py
coverage: $(VENV)/.dev  ## branches of judge, monitor, config and status that tests take, with a floor
	$(UNSHARE) $(BIN)/coverage run -m pytest -q -m "not slow" --hypothesis-profile=brief \
	    tests/test_judge.py tests/test_hosts.py tests/test_containment.py tests/config \
	    tests/sidecar/test_monitor.py tests/api/test_status.py tests/api/test_questions.py tests/api/test_view.py
	@for room in $(ROOMS); do $(BIN)/coverage report --include="$$room" || exit 1; done

fix: $(VENV)/.dev  ## what ruff can mend by itself, and the format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(VENV)/.dev  ## docs/reference.md, out of the tables of settings
	$(BIN)/python -m tests.reference > docs/reference.md

bench: $(VENV)/.dev  ## the figures of the README, measured side by side
	$(UNSHARE) $(BIN)/python -m bench

pictures: $(VENV)/.dev  ## the page as docs/figures show it, drawn anew from an incident in a real browser
	PICTURES=docs/figures $(UNSHARE) $(BIN)/python -m pytest -q tests/page/test_incident.py

.PHONY: compare false-alarms soak
false-alarms: $(VENV)/.dev  ## an hour of loads that must not alarm, side by side: MINUTES=60
	$(UNSHARE) $(BIN)/python -m bench false_alarms

soak: $(VENV)/.dev  ## half an hour of faults, and of SIGKILL to the sidecar: MINUTES=30 SEED=
	$(UNSHARE) $(BIN)/python -m bench soak

# Some 20 minutes; `python -m bench.compare --help` has longer and shorter forms.
compare: $(VENV)/.dev  ## every prober beside every server in every fault, as a page, figures and plots
	$(UNSHARE) $(BIN)/python -m bench.compare

UV_LOCK := uv pip compile --quiet --universal --no-emit-index-url --no-emit-find-links --no-header --generate-hashes --python-version 3.11
lock:  ## renew the lock files (needs uv)
	$(UV_LOCK) pyproject.toml -o requirements.lock
	$(UV_LOCK) --group build -o requirements-build.lock
	$(UV_LOCK) --group dev -c requirements.lock -c requirements-build.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf .venv .venv-3.* build dist

.PHONY: image e2e
image:  ## the container image, with docker, podman or buildah (IMAGE=, IMAGE_FLAGS=)
	@image/build

e2e: $(VENV)/.dev  ## the incident in the cluster of the current kubectl context, in a namespace of its own
	@$(BIN)/python -m tests.e2e
