"""In vLLM's place where there is no GPU: answers by chance, each after a time that grows with its length.

``VERL_USE_EXTERNAL_MODULES=verl_cpu,verl_rollout`` puts it there. All else of a run is VeRL's, and is told nothing.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import ray
from verl.workers.rollout import base, replica
from verl_questions import CHARACTERS, END, TRUTH


class NoWeights(base.BaseRollout):  # type: ignore[misc]  # without its package, Any
    """The trainer's side of it: weights are taken, and dropped."""

    async def resume(self, tags: list[str]) -> None:
        pass

    async def update_weights(self, weights: Any, **options: Any) -> None:
        for _ in weights:
            pass

    async def release(self) -> None:
        pass


class Server:
    """Answers of 4 to 24 random letters, and a number that is right half of the time."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    async def generate(self, request_id: str, prompt_ids: list[int], **options: Any) -> replica.TokenOutput:
        letters = self.random.choices(CHARACTERS[:26], k=self.random.randrange(4, 25))
        answer = [*letters, *"#### ", self.random.choice([str(TRUTH), "4"])]
        await asyncio.sleep(len(answer) / 100)
        tokens = [CHARACTERS.index(character) for character in answer]
        tokens.append(END)
        log_probs = [-1.0] * len(tokens)
        return replica.TokenOutput(token_ids=tokens, log_probs=log_probs, extra_fields={"global_steps": 0})

    async def nothing(self) -> None:
        pass

    wake_up = sleep = nothing


class Replica(replica.RolloutReplica):  # type: ignore[misc]  # without its package, Any
    async def launch_servers(self) -> None:
        self._server_handle = ray.remote(Server).options(max_concurrency=64).remote()
        self._server_address = f"random:{self.replica_rank}"
        self.servers = [self._server_handle]


base._ROLLOUT_REGISTRY["vllm", "async"] = f"{__name__}.{NoWeights.__name__}"
replica.RolloutReplicaRegistry.register("vllm", lambda: Replica)
