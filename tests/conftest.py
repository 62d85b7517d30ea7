"""One torch thread, checked shapes, and one fixed way of drawing examples."""

import jaxtyping
import torch
from hypothesis import HealthCheck, settings

# Before anything imports the package. The numeric tower: an int is welcome wherever a float is, as PEP 484 has it.
jaxtyping.install_import_hook("proma_bench", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

torch.set_num_threads(1)

settings.register_profile(
    "proma", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("proma")
