#!/usr/bin/env bash
# All five studies with the CIFAR-10 recipe as it is, ResNet-18 for 200 epochs on 50,000 images, on one GPU.
# Runs that studies have in common are trained once. The same command goes on where it was stopped.
#
#   benchmarks/studies_gpu.sh CIFAR10 RUN [OPTION ...]
#
# CIFAR10 holds train/CLASS and test/CLASS (examples/cifar10_folders.py makes them); options such as
# --seeds 5 or --epochs 50 are passed on.
set -euo pipefail
data=${1:?usage: benchmarks/studies_gpu.sh CIFAR10 RUN [OPTION ...]}
run=${2:?usage: benchmarks/studies_gpu.sh CIFAR10 RUN [OPTION ...]}
shift 2
# the first has runs whose epochs are scored too; the others take what they share with it
for study in shuffle-bn mechanisms key-momentum queue-size v1-to-v2; do
    moco study "$study" --images "$data/train" --test "$data/test" --run "$run" \
        --recipe cifar10-resnet18 --device cuda "$@"
done
