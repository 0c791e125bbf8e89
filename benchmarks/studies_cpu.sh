#!/usr/bin/env bash
# All five studies at the scale of a CPU: CIFAR-10's first 1,000 training and 200 test images of each class,
# a ResNet-10 of half the width, 5 epochs, about 80 seconds a run on one thread. Runs that studies have in
# common are trained once. The same command goes on where it was stopped.
#
#   benchmarks/studies_cpu.sh CIFAR10 RUN [OPTION ...]
#
# CIFAR10 holds train/CLASS and test/CLASS (examples/cifar10_folders.py makes them); options such as
# --seeds 5 are passed on.
set -euo pipefail
data=${1:?usage: benchmarks/studies_cpu.sh CIFAR10 RUN [OPTION ...]}
run=${2:?usage: benchmarks/studies_cpu.sh CIFAR10 RUN [OPTION ...]}
shift 2
export OMP_NUM_THREADS=1
for folder in train:1000 test:200; do
    for class in "$data/${folder%:*}"/*/; do
        into=$run/images/${folder%:*}/$(basename "$class")
        mkdir -p "$into"
        find "$class" -type f | sort | awk -v most="${folder#*:}" 'NR <= most' |
            while IFS= read -r image; do cp -n "$image" "$into/"; done
    done
done
# the first has runs whose epochs are scored too; the others take what they share with it
for study in shuffle-bn mechanisms key-momentum queue-size v1-to-v2; do
    moco study "$study" --images "$run/images/train" --test "$run/images/test" --run "$run" \
        --recipe "$(dirname "$0")/../examples/cifar10_study.yaml" --device cpu --workers 0 "$@"
done
