"""Compiles a Triton kernel for an H100 (compute capability 9.0) without one: ``python ahead_of_time.py NAME``."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from proma_bench.backward.products_kernel import products_kernel
from proma_bench.projection.fused_kernel import removal_kernel

REMOVAL = {
    **dict.fromkeys(("gram_pointer", "overlap_pointer", "advantages_pointer"), "*fp32"),
    **{"coefficients_pointer": "*fp64", "norm_pointer": "*fp64", "clamped_pointer": "*i1"},
    **{"sequences": "i32", "advantages_stride": "i32"},
}
SETTINGS = {"SHIFT": 1e-5, "NEGLIGIBLE": 1e-31, "MAX_REMOVED": 0.5, "SHRINKAGE": 1.0, "SIZE": 8}
PRODUCTS = {
    **{"rows_pointer": "*fp32", "running_pointer": "*bf16", "products_pointer": "*fp32"},
    **{"sequences": "i32", "elements": "i32", "stride": "i32"},
}

CASES: dict[str, tuple[Any, dict[str, str], dict[str, object]]] = {
    "iterative": (removal_kernel, REMOVAL, {"SWEEPS": 2, "SOLVES": 0, **SETTINGS}),
    "exact": (removal_kernel, REMOVAL, {"SWEEPS": 0, "SOLVES": 3, **SETTINGS}),
    "products": (products_kernel, PRODUCTS, {"HAS_RUNNING": True, "SIZE": 16, "TILE": 256, "TILES": 32}),
    "many products": (products_kernel, PRODUCTS, {"HAS_RUNNING": False, "SIZE": 64, "TILE": 64, "TILES": 32}),
}


def main(name: str) -> None:
    kernel, types, settings = CASES[name]
    names = [*types, *settings]
    source = ASTSource(
        fn=kernel,
        signature=types | dict.fromkeys(settings, "constexpr"),
        constexprs={(names.index(key),): value for key, value in settings.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 0
    assert "ld.local" not in compiled.asm["ptx"], "it spills"
    print("tensor cores" if "mma" in compiled.asm["ptx"] else "float64" if ".f64" in compiled.asm["ptx"] else "float32")


if __name__ == "__main__":
    main(sys.argv[1])
