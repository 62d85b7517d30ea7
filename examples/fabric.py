"""PROMA in a training loop with Lightning Fabric: ``python examples/fabric.py``. Needs ``lightning-fabric``.

On several processes, each projects the running gradient of its own microbatches, and the last one of a step averages
them:

    fabric run --accelerator=cpu --devices=2 examples/fabric.py
"""

from __future__ import annotations

import torch
from guessing import answered, make_policy
from lightning_fabric import Fabric
from torch import nn

from proma_bench.integrations.adapter import TrainerAdapter

STEPS, MICROBATCHES, SEQUENCES = 60, 8, 8  # optimizer steps, microbatches in each, sequences in each of those


def main(steps: int = STEPS, rule: str = "iterative") -> nn.Module:
    fabric = Fabric()  # what `fabric run` says; one process without it
    policy = make_policy()
    policy, optimizer = fabric.setup(policy, torch.optim.AdamW(policy.parameters(), lr=3e-3))
    torch.manual_seed(1 + fabric.global_rank)  # other samples in each process

    adapter = TrainerAdapter(policy, rule)  # after setup, which may wrap or shard the module
    for step in range(steps):
        reward = 0.0
        for number in range(1, MICROBATCHES + 1):
            # Gradients are averaged with the last microbatch alone.
            with fabric.no_backward_sync(policy, enabled=number < MICROBATCHES), adapter.backward_pass():
                log_probs, rewards = answered(policy, SEQUENCES, fabric.device)
                reward += rewards.mean().item() / MICROBATCHES
                loss = -log_probs.sum() / (SEQUENCES * MICROBATCHES)
                # Advantages stay out of the loss: they go to PROMA, one for each sequence.
                adapter.hand_over(loss, log_probs, rewards - rewards.mean())
                fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        removed = adapter.summary()["removed_ratio"]
        if step % 20 == 19:
            fabric.print(f"step {step + 1}: reward {reward:.2f}, {removed:.0%} of the running gradient removed")
    adapter.remove()
    return policy.module


if __name__ == "__main__":
    main()
