"""A metric and a claim about it: the local KL divergence in the other direction, KL(after || before).

PROMA_BENCH_PLUGINS=examples/plugins/reverse_kl.py proma-bench ladder --tiers bandit
"""

from proma_bench.learning.divergences import kl
from proma_bench.learning.metrics import Column, Metric, Step, register_metric
from proma_bench.report.claims import Claim, at_equal_score, mean_of_steps, register_claim


def measure(step: Step) -> float:
    """The mean over the rows of the step, in nats."""
    return kl(step.after, step.before, step.experience)


register_metric(
    Metric(
        "kl_reverse",
        "local KL, after ‖ before a step (nats)",
        measure,
        Column("reverse local KL\nsteps' mean", "mean", digits=4),
    )
)
register_claim(
    Claim(
        "kl_reverse",
        baselines=("grpo", "reinforce"),
        statement="lower",
        text="reverse local KL is lower",
        same_settings=(mean_of_steps("kl_reverse"),),
        frontier=(at_equal_score("kl_reverse"),),
    )
)
