"""PROMA in a training loop with Hugging Face accelerate: ``python examples/plain_accelerate.py``.

On several processes, each projects the running gradient of its own microbatches, and the last one of a step averages
them:

    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 examples/plain_accelerate.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from guessing import answered, make_policy
from torch import nn

from proma_bench.integrations.adapter import TrainerAdapter

STEPS, MICROBATCHES, SEQUENCES = 60, 8, 8  # optimizer steps, microbatches in each, sequences in each of those


def main(steps: int = STEPS, rule: str = "iterative") -> nn.Module:
    accelerator = Accelerator(gradient_accumulation_steps=MICROBATCHES)
    policy = make_policy()
    policy, optimizer = accelerator.prepare(policy, torch.optim.AdamW(policy.parameters(), lr=3e-3))
    torch.manual_seed(1 + accelerator.process_index)  # other samples in each process

    adapter = TrainerAdapter(policy, rule)  # after prepare, which may wrap or shard the module
    for step in range(steps):
        reward = 0.0
        for _ in range(MICROBATCHES):
            # Gradients are averaged with the last microbatch alone.
            with accelerator.accumulate(policy), adapter.backward_pass():
                log_probs, rewards = answered(policy, SEQUENCES, accelerator.device)
                reward += rewards.mean().item() / MICROBATCHES
                loss = -log_probs.sum() / SEQUENCES  # and accelerate divides by MICROBATCHES
                # Advantages stay out of the loss: they go to PROMA, one for each sequence.
                adapter.hand_over(loss, log_probs, rewards - rewards.mean())
                accelerator.backward(loss)
            optimizer.step()  # does nothing before the last microbatch
            optimizer.zero_grad()
        removed = adapter.summary()["removed_ratio"]
        if step % 20 == 19:
            accelerator.print(f"step {step + 1}: reward {reward:.2f}, {removed:.0%} of the running gradient removed")
    adapter.remove()
    return accelerator.unwrap_model(policy)


if __name__ == "__main__":
    main()
