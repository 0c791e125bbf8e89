#!/usr/bin/env bash
# A training step of this library, of the papers, of lightly and of solo-learn, in one process and in turn: makes an
# environment with all of them, runs `moco bench step` in it, writes FIGURES.json and a table.
#
#   benchmarks/step_peers.sh ENVIRONMENT FIGURES.json [OPTION ...]
#
# ENVIRONMENT is a folder for the virtual environment, some 6 GB; one that is there already is used as it is. Options
# are those of `moco bench step`, such as --recipe moco-v2 --batch 16 or --device cuda.
#
# lightly is its release on PyPI: LIGHTLY=1.6.0 unless set. solo-learn's newest release there, 1.0.2, asks for torch
# 1.9.1; what people use is its public repository, so that is installed: SOLO_LEARN is what pip gets, a folder of it or
# git+https://github.com/vturrisi/solo-learn@9187ea39c2c3f43c455ab06664d2b019a9802954 unless set. It asks for older
# versions of Lightning and torchmetrics than go with this torch, so it comes without its requirements, and those that
# its MoCo needs are named here, in newer versions. Its loss is always symmetric: it takes part with a recipe
# that is, such as --recipe cifar10-resnet18-symmetric or --set symmetric=true; lightly's example is not, and takes part
# with the others.
set -euo pipefail
environment=${1:?usage: benchmarks/step_peers.sh ENVIRONMENT FIGURES.json [OPTION ...]}
figures=${2:?usage: benchmarks/step_peers.sh ENVIRONMENT FIGURES.json [OPTION ...]}
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
python=$environment/bin/python
solo=${SOLO_LEARN:-git+https://github.com/vturrisi/solo-learn@9187ea39c2c3f43c455ab06664d2b019a9802954}
if [ ! -x "$python" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    "$python" -m pip install "$root[bench]" "lightly==${LIGHTLY:-1.6.0}" \
        lightning torchmetrics omegaconf einops scipy scikit-learn tqdm wandb wheel "setuptools<81"
    "$python" -m pip install --no-deps --no-build-isolation "$solo"
fi
export PYTHONPATH=$root/src  # this checkout, whatever the environment has
export OMP_NUM_THREADS=1
"$python" -W ignore::FutureWarning -m moco bench step --json "$figures" "$@"
"$python" "$root/benchmarks/step_peers.py" "$figures"
