"""One torch thread, checked shapes, and one fixed way of drawing examples."""

import os
import tempfile
import warnings

import jaxtyping
import torch
from hypothesis import HealthCheck, settings

# Before anything imports the package. The numeric tower: an int is welcome wherever a float is, as PEP 484 has it.
jaxtyping.install_import_hook("proma_bench", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

with warnings.catch_warnings():  # one of its dependencies has a doubtful `is`
    warnings.simplefilter("ignore")
    import reasoning_gym  # noqa: F401

torch.set_num_threads(1)

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton

settings.register_profile(
    "proma",
    max_examples=int(os.environ.get("PROMA_BENCH_EXAMPLES", "200")),  # fewer in `tox -e lowest`, which tries versions
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("proma")

# Warm starts of test size are trained in passing, and not into the user's cache.
_cache = tempfile.TemporaryDirectory()
os.environ["PROMA_BENCH_CACHE"] = _cache.name
