#!/usr/bin/env bash
# The 200-epoch CIFAR-10 run on one GPU: trains, then prints kNN 200 of the head (what the official notebook
# monitors, 82.6 % asymmetric) and of the backbone, and the wall time.
#
#   benchmarks/cifar10_gpu.sh CIFAR10 [RECIPE]
#
# CIFAR10 holds train/CLASS and test/CLASS (examples/cifar10_folders.py makes them); RECIPE is
# cifar10-resnet18 (the default) or cifar10-resnet18-symmetric.
set -euo pipefail
data=${1:?usage: benchmarks/cifar10_gpu.sh CIFAR10 [RECIPE]}
recipe=${2:-cifar10-resnet18}
run=runs/$recipe
began=$(date +%s)
moco pretrain "$data/train" --recipe "$recipe" --run "$run" --device cuda
echo "pre-training: $(($(date +%s) - began)) s"
for layer in head backbone; do
    moco evaluate knn "$run" --train "$data/train" --test "$data/test" --device cuda \
        --neighbours 200 --temperature 0.1 --layer "$layer" --json "$run/knn_$layer.json"
done
