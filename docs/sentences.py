"""The five sentences of README and docs/leaderboard.md, with numbers from the stored runs.

Each sentence requires of the tables what it says. If they change, it is an error, and the sentence has to be written
anew: no sentence is stronger than its table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from docs.tables import PUBLISHED
from proma_bench.report.leaderboard import Compared, Leaderboard
from proma_bench.report.matrix import level, spread

OTHERS = ("gspo", "ppo-kl", "ppo-kl-exact", "elsewhere")
"""Methods that are above REINFORCE as well, and from which PROMA's difference is not decided."""


def sentences(boards: Mapping[str, Leaderboard]) -> str:
    """The sentences as a numbered list.

    Raises:
        ValueError: a table says something else.
    """
    bandit, cartpole = (boards[name] for name in ("bandit", "gym-CartPole-v1"))
    return "\n".join(
        f"{number}. {sentence}"
        for number, sentence in enumerate(
            (_same_kl(bandit), _others(bandit), _direction(bandit), _claims(), _elsewhere(cartpole)), start=1
        )
    )


def _same_kl(board: Leaderboard) -> str:
    against = {"REINFORCE": board.matched["proma"].scores["score"], "GRPO": _below(board, "grpo")}
    for name, compared in against.items():
        _require(compared.verdict == "holds", f"PROMA is above {name} at equal mean local KL")
    _require(min(one.p_holm for one in against.values()) > 0.05, "neither survives the number of methods")
    told = ", and ".join(f"{_number(one)} above {name}'s" for name, one in against.items())
    levels = " and ".join(level(one.p_holm) for one in against.values())
    return (
        "**On the bandit PROMA learns more from the same change of the policy.** At equal mean local KL its final "
        f"score is {told} (ten paired seeds, 95 % intervals); with the number of methods taken into account "
        f"(Holm {levels}) neither is beyond doubt."
    )


def _others(board: Leaderboard) -> str:
    gspo, penalty, exact = (board.matched[name].scores["score"] for name in OTHERS[:3])
    for name in OTHERS:
        _require(board.matched[name].scores["score"].verdict == "holds", f"{name} is above REINFORCE")
        _require(_below(board, name).verdict == "inconclusive", f"PROMA's difference from {name} is not decided")
    trpo = board.along["score_per_kl"]["trpo"]
    _require(trpo.verdict == "holds" and trpo.p_holm < 0.05, "TRPO is above REINFORCE at equal cumulative local KL")
    return (
        f"**It is not alone.** GSPO ({_number(gspo)} above REINFORCE) and PPO with a KL penalty ({_number(penalty)}, "
        f"exact {_number(exact)}) are above it, too, and PROMA's differences from them are not decided. "
        "TRPO, the limit that all approximate, gains most from the same sum of local KL "
        f"({_number(trpo)} against REINFORCE)."
    )


def _direction(board: Leaderboard) -> str:
    shrink, elsewhere = (board.matched[name].scores["score"] for name in ("shrink", "elsewhere"))
    _require(shrink.verdict == "fails" and shrink.p_holm < 0.05, "shrinking is below REINFORCE beyond doubt")
    return (
        "**Which direction is removed matters; that it is the microbatch's own does not show.** Taking the same norm "
        f"out of the running gradient along itself does harm ({_number(shrink)} against REINFORCE). Projecting on "
        f"mixtures of all sequences of the step gains as well ({_number(elsewhere)}), and PROMA's difference from that "
        f"is not decided ({_number(_below(board, 'elsewhere'))})."
    )


def _claims() -> str:
    rows = [row for row in json.loads((PUBLISHED / "quick.json").read_text()) if row["tier"] == "bandit"]
    paper = [row for row in rows if row["claim"] in ("kl_local", "kl_global", "entropy")]
    frontier = [row for row in paper if row["protocol"] == "frontier"]
    same = {(row["claim"], row["baseline"]): row["verdict"] for row in paper if row["protocol"] == "same_settings"}
    _require(all(row["verdict"] == "holds" and row["p_holm"] < 0.05 for row in frontier), "all hold on the frontier")
    _require("holds" not in same.values(), "none holds at the same settings")
    failed = sum(verdict == "fails" for verdict in same.values())
    return (
        "**The paper's claims hold on the bandit at equal score, not at an equal learning rate.** On the frontier of "
        "learning rates its local KL and global KL are lower and its entropy is higher, by more than the placebo and "
        f"with Holm below 0.05 in all {len(frontier)} rows; at the same rate {failed} of them fail and none holds, as "
        "PROMA is further on."
    )


def _elsewhere(board: Leaderboard) -> str:
    verdicts = [one.scores["score"].verdict for name, one in board.matched.items() if name != "reinforce"]
    best = max(one.score.mean for one in board.standings)
    above = sum(one.score.mean > 0.95 * best for one in board.standings)
    _require("holds" not in verdicts, "no method is above REINFORCE on CartPole")
    return (
        f"**Nothing else is decided.** On CartPole no method is above REINFORCE at equal local KL, as {above} of "
        f"{len(board.standings)} come within 5 % of the best return; a language model on sums has three seeds; there "
        "is no result of Qwen3-0.6B."
    )


def _below(board: Leaderboard, name: str) -> Compared:
    compared = board.matched[name].below_ours
    assert compared is not None
    return compared


def _number(compared: Compared) -> str:
    return spread(compared.found.estimate, compared.found.low, compared.found.high)


def _require(is_so: bool, what: str) -> None:
    if not is_so:
        raise ValueError(f"the tables no longer say that {what}; write the sentence anew")
