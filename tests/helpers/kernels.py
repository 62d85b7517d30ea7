"""Where tests of Triton's kernels run: on a GPU, or in Triton's interpreter on a CPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; `tox -e triton` installs it"
)
