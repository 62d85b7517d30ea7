"""Every causal language model class of transformers as a policy: its log-probs are the model's, or it is refused."""

from __future__ import annotations

import policy_zoo
import pytest
import zoo
from tiny_configs import NOT_BUILT

pytestmark = pytest.mark.zoo

NAMES = [name for name in zoo.names() if name not in NOT_BUILT]
SERVED = """BloomForCausalLM Cohere2ForCausalLM CohereForCausalLM FalconForCausalLM GPT2LMHeadModel GPTNeoXForCausalLM
    Gemma2ForCausalLM Gemma3ForCausalLM GemmaForCausalLM GraniteForCausalLM GraniteMoeForCausalLM LlamaForCausalLM
    MiniCPM3ForCausalLM MistralForCausalLM NemotronForCausalLM OPTForCausalLM Olmo2ForCausalLM Phi3ForCausalLM
    Qwen2ForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM SmolLM3ForCausalLM""".split()
"""Classes that must not be refused."""


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", NAMES)
def test_log_probs_are_the_models_own_or_it_is_refused_by_name(name: str, packed: bool) -> None:
    found = policy_zoo.verdict(name, packed)
    if found.refused:
        assert found.refused.startswith(f"{name} cannot be trained here: ") and "\n" not in found.refused
        assert packed or name not in SERVED, found.refused
        pytest.skip(found.refused)
    assert found.error < 1e-6
