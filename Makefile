# All the set-up that a fresh machine with Python >= 3.11 needs: each target makes .venv by itself.

PYTHON ?= python3
WORKDIR ?= runs/quickstart
PY := .venv/bin/python
INSTALL := $(PY) -m pip install --quiet --constraint constraints.txt --editable
HEADER := \# The versions that jaxgen was last tested with (Python 3.11, Linux); make constraints

.PHONY: quickstart smoke test test-slow test-slurm plan-tpu plan-gpu constraints

quickstart: .venv/installed
	bash launch/quickstart.sh $(WORKDIR)

# Every recipe of IOMM in a few steps: train, save, resume, sample.
smoke: .venv/installed
	bash launch/smoke.sh

test: .venv/installed-test
	$(PY) -m pytest -n 2 --dist loadfile -q

test-slow: .venv/installed-test
	$(PY) -m pytest -q -m slow

# Trains under a real Slurm of this one machine; installs it where that needs doing.
test-slurm: .venv/installed-test
	bash tools/test_slurm.sh

# Every full-size stage on TPU slices; fills docs/plans and the table of docs/scaling.md.
plan-tpu: .venv/installed-test
	$(PY) tools/plans.py tpu

# The same on GPU nodes, in an environment of its own: the CUDA plug-in takes 4.6 GB.
plan-gpu: .venv-plan-gpu/installed
	.venv-plan-gpu/bin/python tools/plans.py gpu

# Rewrites constraints.txt with what is installed now.
constraints: .venv/installed-test
	echo '$(HEADER)' > constraints.txt
	$(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//' | sort -f >> constraints.txt
	touch .venv/installed .venv/installed-test

$(PY):
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(INSTALL) .
	touch $@

# One resolution of everything at once, so that nothing moves the pinned torch.
.venv/installed-test: setup.cfg pyproject.toml constraints.txt | $(PY)
	$(INSTALL) '.[test]'
	touch $@ .venv/installed

.venv-plan-gpu/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-plan-gpu
	.venv-plan-gpu/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[plan-gpu]'
	touch $@
