"""PROMA in a training loop of your own, with Hugging Face accelerate: ``python examples/plain_accelerate.py``.

The policy answers one of a few questions, and is rewarded for the right answer. On several processes, each projects the
running gradient of its own microbatches, and the last one of a step averages them:

    accelerate launch --cpu --num_processes 2 examples/plain_accelerate.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn

from proma_bench import Proma

QUESTIONS, ANSWERS = 16, 4
STEPS, MICROBATCHES, SEQUENCES = 60, 8, 8  # optimizer steps, microbatches in each, sequences in each of those


def main() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=MICROBATCHES)
    torch.manual_seed(0)  # the same weights in each process
    policy = nn.Sequential(nn.Embedding(QUESTIONS, 32), nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, ANSWERS))
    policy, optimizer = accelerator.prepare(policy, torch.optim.AdamW(policy.parameters(), lr=3e-3))
    torch.manual_seed(1 + accelerator.process_index)  # other samples in each

    with Proma(policy, record=True) as proma:  # after prepare, which may wrap or shard the module
        for step in range(STEPS):
            reward = torch.zeros(())
            for _ in range(MICROBATCHES):
                with accelerator.accumulate(policy):  # gradients are averaged with the last microbatch alone
                    questions = torch.randint(QUESTIONS, (SEQUENCES,), device=accelerator.device)
                    distribution = torch.distributions.Categorical(logits=policy(questions))
                    answers = distribution.sample()
                    rewards = (answers == questions % ANSWERS).float()
                    reward += rewards.mean().cpu() / MICROBATCHES

                    log_probs = distribution.log_prob(answers)
                    # Advantages stay out of the loss: they go to PROMA, one for each sequence.
                    with proma.microbatch(rewards - rewards.mean()):
                        accelerator.backward(-log_probs.sum() / SEQUENCES)  # and accelerate divides by MICROBATCHES
                    optimizer.step()  # does nothing before the last microbatch
                    optimizer.zero_grad()
            if step % 20 == 19:
                removed = [record.removed_ratio for record in proma.stats()]
                proma.clear_stats()
                accelerator.print(
                    f"step {step + 1}: reward {reward:.2f}, of the running gradient "
                    f"{sum(removed) / len(removed):.0%} removed in each microbatch"
                )


if __name__ == "__main__":
    main()
