"""The loss's kernels compile for GPUs that are not here, and a program fits their memory.

Triton's interpreter takes more than its compiler does; the compiler needs no GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
GENERATIONS = [80, 86, 90]
"""A100; most cards for one desk; H100."""
KINDS = [(torch.float32, 128), (torch.float32, 512), (torch.bfloat16, 128), (torch.bfloat16, 512)]
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
MOST_SHARED = 99 * 1024
"""Bytes that a program may have on the smallest of these."""


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_kernels_compile_and_fit(generation: int, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    ran = subprocess.run(
        [sys.executable, __file__, str(generation)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    shared = json.loads(ran.stdout)
    assert len(shared) == 3 * len(KINDS)
    assert max(shared.values()) <= MOST_SHARED, shared


def compile_all(generation: int) -> dict[str, int]:
    """Return the shared memory of each kernel for each kind of negatives, in bytes."""
    from moco import info_nce_gpu as gpu
    from moco import info_nce_kernels as kernels

    shared = {}
    for dtype, columns in KINDS:
        shape = gpu._cut(256, torch.empty(1, columns, dtype=dtype).expand(65_536, columns))
        constants = {
            "NO_KEY": -2,
            "PRECISION": gpu._precision(columns),
            "WIDEN": False,
            "TILE": shape.tile,
            "COLUMNS": shape.columns,
        }
        for name, has_ids in (
            ("score_positives", False),
            ("score_negatives", False),
            ("score_negatives", True),
        ):
            given = constants | {"HAS_IDS": has_ids}
            kind = f"{name}, ids {has_ids}, {columns} of {dtype}"
            shared[kind] = compile_one(getattr(kernels, name), TYPES[dtype], given, generation)
    return shared


def compile_one(kernel: object, keys: str, constants: dict[str, object], generation: int) -> int:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moco import info_nce_gpu as gpu

    types = {
        "queries": "*fp32",
        "positives": f"*{keys}",
        "negatives": f"*{keys}",
        "to_positive": "*fp32",
        "pulls": "*fp32",
        "figures": "*fp32",
        "query_ids": "*i64",
        "negative_ids": "*i64",
        "sharpness": "fp32",
    }
    names = kernel.arg_names
    values = {(names.index(name),): value for name, value in constants.items() if name in names}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    pointers = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name not in constants and name != "sharpness"
    }
    source = ASTSource(kernel, signature, values, pointers)
    options = {"num_warps": gpu.WARPS, "num_stages": gpu.STAGES}
    made = triton.compile(source, target=GPUTarget("cuda", generation, 32), options=options)
    assert made.asm["cubin"]
    return int(made.metadata.shared)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compile_all(int(sys.argv[1]))))
