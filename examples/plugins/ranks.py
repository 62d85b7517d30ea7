"""A method: GRPO with advantages from ranks, which an outlier among the rewards does not change.

PROMA_BENCH_PLUGINS=examples/plugins/ranks.py proma-bench run bandit --method rank-grpo
"""

from torch import Tensor

from proma_bench.learning.methods import Method, Style, register_method


def rank_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """The share of the group that is worse, minus the share that is better [B]."""
    groups = rewards.reshape(-1, group_size)
    return (groups.unsqueeze(2) - groups.unsqueeze(1)).sign().mean(dim=2).flatten()


register_method(
    Method(
        "rank-grpo",
        Style("GRPO of ranks", "#999999", "dashdot", "D"),
        objective="proma_bench.learning.objectives:grpo",
        advantages=rank_advantages,
        settings=frozenset({"clip"}),
    )
)
