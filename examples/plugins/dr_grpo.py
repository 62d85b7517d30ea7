"""A method: Dr. GRPO (arXiv 2503.20783), GRPO with advantages that are not divided by the standard deviation.

PROMA_BENCH_PLUGINS=examples/plugins/dr_grpo.py proma-bench run bandit --method dr-grpo
"""

from torch import Tensor

from proma_bench.learning.methods import Method, Style, register_method


def centred_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """``r - mean`` within each group [B]."""
    groups = rewards.reshape(-1, group_size)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


register_method(
    Method(
        "dr-grpo",
        Style("Dr. GRPO", "#CC79A7", "dashdot", "D"),
        objective="proma_bench.learning.objectives:grpo",
        advantages=centred_advantages,
        settings=frozenset({"clip"}),
    )
)
