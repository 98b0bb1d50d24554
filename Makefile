# Everything is done by setup_env.py, so that Windows without make runs the same.
# make lab ARGS="--no-browser --port 8899" passes options on; make lab PYTHON=python3.12 chooses the Python.
PYTHON ?= python3

lab test notebooks slides student runsheets site install lock:
	@$(PYTHON) setup_env.py $@ $(ARGS)

.PHONY: lab test notebooks slides student runsheets site install lock
