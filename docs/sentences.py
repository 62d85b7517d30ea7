"""The five sentences of README and docs/leaderboard.md, with numbers from the stored runs.

Each sentence requires of the tables what it says. If they change, it is an error, and the sentence has to be written
anew: no sentence is stronger than its table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from benchmarks.stand_in import stored
from docs import acrobot
from docs.studies import from_baseline, from_ours, grid
from docs.tables import PUBLISHED
from proma_bench.report.against import Compared
from proma_bench.report.leaderboard import Leaderboard
from proma_bench.report.matrix import level, spread

Confirmed = Mapping[str, Mapping[str, Compared]]


def sentences(boards: Mapping[str, Leaderboard], against: Confirmed) -> str:
    """The sentences as a numbered list.

    Args:
        boards: of the bandit and of CartPole, by the names of their files.
        against: PROMA minus other methods on the bandit, by score and method (`benchmarks.confirmation`).

    Raises:
        ValueError: a table says something else.
    """
    bandit, cartpole = (boards[name] for name in ("bandit", "gym-CartPole-v1"))
    return "\n".join(
        f"{number}. {sentence}"
        for number, sentence in enumerate(
            (
                _same_kl(against),
                _others(against, bandit),
                _direction(against),
                _claims(),
                _elsewhere(cartpole),
            ),
            start=1,
        )
    )


def _same_kl(against: Confirmed) -> str:
    reinforce, grpo = (against["score"][name] for name in ("reinforce", "grpo"))
    sampled = against["score_sampled"]["grpo"]
    require(is_there(reinforce) and is_there(sampled), "PROMA is above REINFORCE, and by sampled score above GRPO")
    require(grpo.verdict == "holds" and not is_there(grpo), "by greedy score it is not above GRPO beyond doubt")
    return (
        "**On the bandit PROMA learns more from the same change of the policy than REINFORCE, and, by sampled "
        f"actions, than GRPO.** At about equal mean local KL its final score is {told(reinforce)} above REINFORCE's "
        f"and {told(grpo)} above GRPO's, or {told(sampled)} by sampled actions: thirty paired seeds, 95 % intervals, "
        "Holm for the number of comparisons."
    )


def _others(against: Confirmed, board: Leaderboard) -> str:
    gspo, penalty = (against["score"][name] for name in ("gspo", "ppo-kl"))
    for name, score in (("gspo", "score"), ("ppo-kl", "score_sampled")):
        require(is_there(board.matched[name].scores[score]), f"{name} is above REINFORCE in {score}")
        require(not any(is_there(of_score[name]) for of_score in against.values()), f"{name} is as good as PROMA")
    trpo = board.along["score_per_kl"]["trpo"]
    require(is_there(trpo) and trpo.verdict == "holds", "TRPO is above REINFORCE at equal cumulative local KL")
    largest = max(one.found.estimate for one in board.along["score_per_kl"].values())
    require(trpo.found.estimate == largest, "TRPO has the largest estimate")
    return (
        "**It is not alone.** GSPO is above REINFORCE, too, and by sampled actions so is PPO with a KL penalty; their "
        f"difference from PROMA is not beyond doubt: PROMA minus GSPO is {told(gspo)}, minus PPO-KL {told(penalty)}. "
        "TRPO, which limits the KL divergence of the whole step, has the largest estimate for the same sum of local "
        f"KL: {number(trpo)} against REINFORCE, with ten seeds."
    )


def _direction(against: Confirmed) -> str:
    shrink, elsewhere = (against["score"][name] for name in ("shrink", "elsewhere"))
    require(is_there(shrink), "PROMA is above shrinking beyond doubt")
    require(not any(is_there(one["elsewhere"]) for one in against.values()), "PROMA is not above `elsewhere`")
    cut = from_ours("bandit-one-batch")["score_sampled"]
    few, many = (cut[count, "elsewhere"] for count in (4, 64))  # with 16 they are runs that had been seen before
    require(is_there(few) and is_there(many), "with one batch it is, with fewest and with most microbatches")
    return (
        "**Which direction is removed matters; whether it must be the microbatch's own is less clear.** PROMA "
        f"is {told(shrink)} above a control that takes the same norm out of the running gradient along itself, but "
        f"{told(elsewhere)} above one that projects on mixtures of all sequences of the step: little, and not beyond "
        f"doubt. Where one smaller batch was cut into 4 or 64 microbatches it is {told(few)} and {told(many)} above "
        "it, by sampled actions."
    )


def _claims() -> str:
    rows = [row for row in json.loads((PUBLISHED / "quick.json").read_text()) if row["tier"] == "bandit"]
    found = {(row["protocol"], row["claim"], row["baseline"]): row for row in rows}
    frontier = {claim: [row for (of, name, _), row in found.items() if (of, name) == ("frontier", claim)]
                for claim in ("kl_local", "kl_global", "entropy")}  # fmt: skip
    for claim in ("kl_global", "entropy"):
        require(all(row["verdict"] == "holds" for row in frontier[claim]), f"{claim} holds on the frontier")
    require(all(row["verdict"] == "inconclusive" for row in frontier["kl_local"]), "local KL is not decided")
    lowest = min(row["p_holm"] for claim in ("kl_global", "entropy") for row in frontier[claim])
    require(lowest > 0.05, "none survives the number of verdicts")
    same = [row for (of, name, _), row in found.items() if of == "same_settings" and name in frontier]
    failed = [row for row in same if row["verdict"] == "fails"]
    beyond = sum(row["p_holm"] < 0.05 for row in failed)
    require(all(row["verdict"] != "holds" for row in same), "none holds at the same settings")
    return (
        "**Of the paper's claims about KL and entropy, none is confirmed beyond doubt on the bandit.** At equal score, "
        "on the frontier of learning rates, two hold before the number of verdicts is taken into account: PROMA's "
        "entropy is higher than that of both and its global KL lower than REINFORCE's, by more than lower rates alone "
        f"give the baseline (Holm {level(lowest)} at best); its local KL is lower, but not by more than that. At the "
        f"same learning rate {len(failed)} of {len(same)} rows fail, {beyond} of them beyond doubt; PROMA may be "
        "further on there."
    )


def _elsewhere(board: Leaderboard) -> str:
    verdicts = [one.scores["score"].verdict for name, one in board.matched.items() if name != "reinforce"]
    best = max(one.score.mean for one in board.standings)
    above = sum(one.score.mean > 0.95 * best for one in board.standings)
    require("holds" not in verdicts, "no method is above REINFORCE on CartPole")
    reinforce, grpo = from_baseline(grid("transformer-starts")[64]), from_ours("transformer-starts")
    below, above_reinforce = grpo["score_sampled"][64, "grpo"], reinforce["score_sampled"]["proma"]
    require(is_there(below) and below.found.high < 0, "PROMA is below GRPO on the transformer")
    require(not is_there(above_reinforce), "PROMA is not above REINFORCE there")
    require(not any(map(is_there, from_baseline(acrobot.runs())["reward"].values())), "Acrobot decides nothing")
    failed = {arm: len(seeds) for arm, seeds in acrobot.failed().items()}
    require(failed["proma"] == failed["grpo"], "PROMA and GRPO fail equally often")
    return (
        "**On a small transformer GRPO learns more than PROMA from about the same change; on CartPole and Acrobot "
        "nothing is beyond doubt.** With 64 microbatches PROMA's final sampled score minus GRPO's is "
        f"{told(below)}, and minus REINFORCE's {told(above_reinforce)}: ten seeds, three warm starts; GRPO moved the "
        "policy somewhat more. On CartPole no method is above REINFORCE; at their best rates "
        f"{above} of {len(board.standings)} come within 5 % of the best return, which has a limit. On Acrobot "
        f"{failed['proma']} of {len(acrobot.runs()['proma'])} runs of PROMA and of GRPO fail, and "
        f"{failed['reinforce']} of REINFORCE. A pretrained model of 135 million parameters on sums has "
        f"{len(stored('proma'))} seeds and no verdict, and there is no result of Qwen3-0.6B."
    )


def is_there(compared: Compared) -> bool:
    """Whether a difference is beyond doubt, with the number of comparisons taken into account."""
    return compared.p_holm < 0.05


def told(compared: Compared) -> str:
    """The difference with its interval and its adjusted p-value."""
    return f"{number(compared)} (Holm {level(compared.p_holm)})"


def number(compared: Compared) -> str:
    """The difference with its interval."""
    return spread(compared.found.estimate, compared.found.low, compared.found.high)


def require(is_so: bool, what: str) -> None:
    """Raise ValueError unless the tables say so."""
    if not is_so:
        raise ValueError(f"the tables no longer say that {what}; write the sentence anew")
