"""The first tier: scikit-learn's digits as a contextual bandit.

An initial state is one of 1,797 scanned digits with 8x8 pixels, and an action is one of ten labels. The reward is 1 for
the right label, otherwise 0. A sequence is a single action. With only ten actions, entropy and KL are exact.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.distributions import Categorical

from proma_bench.learning.experience import Experience
from proma_bench.learning.finite import require_finite_outputs
from proma_bench.learning.mlp import mlp
from proma_bench.learning.policy import Generators, Policy
from proma_bench.tiers.bandit.config import BanditConfig

PIXELS, LABELS = 64, 10


class BanditPolicy(Policy):
    """An MLP with two hidden layers, which maps pixels to the logits of the labels."""

    def __init__(self, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = mlp([PIXELS, hidden, hidden, LABELS], nn.ReLU, generator)

    def forward(self, observations: Float[Tensor, "rows 64"]) -> Float[Tensor, "rows 10"]:
        return self.layers(observations)

    def distribution(self, observations: Float[Tensor, "rows 64"]) -> Categorical:
        return Categorical(logits=self(observations), validate_args=False)


class Bandit:
    """Images, labels and rewards. The split into 1,437 training and 360 validation images is always the same."""

    def __init__(self, config: BanditConfig) -> None:
        self.config = config
        pixels, labels = load_digits(return_X_y=True)
        split = train_test_split(pixels / 16, labels, test_size=360, random_state=0, stratify=labels)
        images, held_out_images, labels, held_out_labels = (torch.from_numpy(array) for array in split)
        self.images, self.labels = images.float(), labels
        self.held_out_images, self.held_out_labels = held_out_images.float(), held_out_labels

    def policy(self, generator: torch.Generator) -> BanditPolicy:
        return BanditPolicy(self.config.hidden, generator)

    @torch.no_grad()
    def sample(self, policy: BanditPolicy, generators: Generators) -> Experience:
        images = torch.randperm(len(self.images), generator=generators["initial_states"])[: self.config.initial_states]
        images = images.repeat_interleave(self.config.group_size)
        observations = self.images[images]
        distribution = policy.distribution(observations)
        probs = require_finite_outputs(distribution.probs)
        actions = torch.multinomial(probs, 1, generator=generators["actions"]).squeeze(1)
        rewards = (actions == self.labels[images]).float()
        return Experience(
            observations=observations,
            actions=actions,
            old_log_probs=distribution.log_prob(actions),
            rewards=rewards,
        )

    @torch.no_grad()
    def evaluate(self, policy: BanditPolicy) -> dict[str, float | None]:
        """Score a policy on the validation images.

        Args:
            policy: the policy.

        Returns:
            ``score``, the accuracy of the most likely label, and ``score_sampled``, the mean probability of the right
            label, which is the expected accuracy of sampled labels.
        """
        probs = policy.distribution(self.held_out_images).probs
        right = probs.gather(1, self.held_out_labels.unsqueeze(1))
        greedy = probs.argmax(dim=1) == self.held_out_labels
        return {"score": float(greedy.float().mean()), "score_sampled": float(right.mean())}
