"""The rule for embeddings."""

from __future__ import annotations

import pytest
from backward_policies import EXACT, MICROS, VOCABULARY, expected, initialise, run
from oracle import assert_gradients
from torch import Tensor, nn

from proma_bench import Proma


@pytest.mark.parametrize("workspace_bytes", [2**8, 2**20])
def test_a_large_embedding_is_projected_on_the_rows_that_occur(workspace_bytes: int) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(400, 12, padding_idx=3), nn.Linear(12, VOCABULARY)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head((self.embedding(tokens * 5 + 2) + self.embedding(tokens * 7 + 3)).tanh())

    module = initialise(Large())
    wanted = expected(module, EXACT)
    run(module, "padded", EXACT, workspace_bytes=workspace_bytes)
    assert_gradients(module, wanted, 1e-9)
    with Proma(module, EXACT, record=True) as proma:
        log_probs, _ = MICROS[0].padded(module)
        proma.backward(log_probs, MICROS[0].advantages)
        (way,) = {record.gram_method for record in proma.stats() if record.parameter == "embedding.weight"}
    assert way.endswith("of tokens that occur")
