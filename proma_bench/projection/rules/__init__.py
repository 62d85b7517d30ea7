"""Update rules in Gram space: one file each, and each is found automatically.

A file in this folder registers its rules with `register_update_rule`; nothing else has to name it. A rule of your own
needs no registration: `Proma` takes it as it is. The rule of PROMA itself is `ProjectionConfig`.

With the notation of `proma_bench.projection`, a rule is any function from ``K``, ``c`` and ``a`` to coefficients ``u``
of the step ``A <- A + sum_i u_i S_i``, in each parameter tensor. It costs what plain accumulation costs, on every model
that the backward pass covers, because nothing of the size of a parameter is touched for it.
"""

from __future__ import annotations

import importlib
import pkgutil

from proma_bench.projection.updates import UPDATE_RULES as UPDATE_RULES
from proma_bench.projection.updates import register_update_rule as register_update_rule

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")
