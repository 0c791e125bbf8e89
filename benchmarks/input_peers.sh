#!/usr/bin/env bash
# The input pipelines of this library, of the papers, of lightly and of stable-pretraining, in one process and in
# turn: makes an environment with all of them, runs `moco bench input` in it, writes FIGURES.json and a table.
#
#   benchmarks/input_peers.sh ENVIRONMENT FIGURES.json [OPTION ...]
#
# ENVIRONMENT is a folder for the virtual environment, some 6 GB; one that is there already is used as it is. Options
# are those of `moco bench input`, such as --rounds 15 or --images FOLDER. About a minute when the environment is made.
# Versions: LIGHTLY=1.6.0 STABLE_PRETRAINING=0.1.8 unless set.
set -euo pipefail
environment=${1:?usage: benchmarks/input_peers.sh ENVIRONMENT FIGURES.json [OPTION ...]}
figures=${2:?usage: benchmarks/input_peers.sh ENVIRONMENT FIGURES.json [OPTION ...]}
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
python=$environment/bin/python
if [ ! -x "$python" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    "$python" -m pip install "$root[bench]" \
        "lightly==${LIGHTLY:-1.6.0}" "stable-pretraining==${STABLE_PRETRAINING:-0.1.8}"
fi
export PYTHONPATH=$root/src  # this checkout, whatever the environment has
export OMP_NUM_THREADS=1
"$python" -m moco bench input --device cpu --json "$figures" "$@"
"$python" "$root/benchmarks/input_peers.py" "$figures"
