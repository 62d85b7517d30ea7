"""Small networks with recurrence, attention, convolution and embeddings, as people write them. See `architectures`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def as_tokens(rows: Tensor) -> Tensor:
    """Whole numbers from 0 to 8."""
    return (rows[..., 0].abs() * 4).long().clamp(max=8)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], batch_first: bool, **options: bool) -> None:
        super().__init__()
        self.core, self.batch_first = kind(6, 5, batch_first=batch_first, **options), batch_first
        self.out = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        if not self.batch_first:
            return self.out(self.core(rows.transpose(0, 1))[0]).transpose(0, 1)
        return self.out(self.core(rows)[0])


class PackedRecurrent(nn.Module):
    """Sequences of unequal length, packed: rows of all of them alternate."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.core, self.out = nn.Linear(6, 5), nn.GRU(5, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        lengths = 1 + torch.arange(len(rows)) % rows.shape[1]
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(rows), lengths, batch_first=True, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.core(packed)[0], batch_first=True)
        return self.out(padded)


class CellLoop(nn.Module):
    """A cell called at every step, with its state carried along."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.out = kind(6, 5), nn.Linear(5, 3)

    def forward(self, rows: Tensor) -> Tensor:
        state, outputs = None, []
        for row in rows.unbind(1):
            state = self.cell(row, state)
            outputs.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(outputs, dim=1)


class OwnCell(nn.Module):
    """A recurrence of Linear layers, with a learned first state."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.state, self.start = nn.Linear(6, 5), nn.Linear(5, 5), nn.Parameter(torch.zeros(5))

    def forward(self, rows: Tensor) -> Tensor:
        state = self.start.expand(len(rows), -1)
        for row in rows.unbind(1):
            state = torch.tanh(self.input(row) + self.state(state))
        return state


class Attention(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        self.norm, self.batch_first = nn.LayerNorm(6), batch_first

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows if self.batch_first else rows.transpose(0, 1)
        attended = self.norm(rows + self.attention(rows, rows, rows, need_weights=False)[0])
        return attended if self.batch_first else attended.transpose(0, 1)


class OwnAttention(nn.Module):
    """Queries, keys and values of Linear layers; causal, with learned positions of the whole batch."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.positions, self.norm, self.time_first = nn.Embedding(5, 6), nn.LayerNorm(6), time_first
        self.joint, self.out = nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = rows + self.positions(torch.arange(rows.shape[1]))
        hidden = self.norm(hidden.transpose(0, 1) if self.time_first else hidden)
        query, key, value = (
            part.transpose(0, 1) if self.time_first else part for part in self.joint(hidden).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = self.out(mixed.transpose(0, 1) if self.time_first else mixed)
        return rows + (mixed.transpose(0, 1) if self.time_first else mixed)


class Latents(nn.Module):
    """Learned queries that attend to the sequence, expanded over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.key, self.out = nn.Parameter(torch.ones(2, 6)), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        key = self.key(rows)
        return self.out(torch.softmax(self.queries @ key.transpose(1, 2), dim=-1) @ rows)


class Tokens(nn.Module):
    """Layers above an embedding of tokens; ``inner`` is called with the embedded ones."""

    def __init__(self, inner: nn.Module, padding: int | None = None, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(9, 6, padding_idx=padding), inner
        self.head = nn.Linear(6, 9, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.inner(self.embedding(as_tokens(rows))))


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(9, 6, mode=mode), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(self.bag(as_tokens(rows)).tanh())


class OffsetBag(nn.Module):
    """Tokens of all sequences in one row, and where each begins."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(9, 6, mode="sum"), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        tokens = as_tokens(rows)
        return self.out(self.bag(tokens.flatten(), torch.arange(0, tokens.numel(), tokens.shape[1])))


class Images(nn.Module):
    """The rows as an image of one channel, [B, 1, T, 6]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows.unsqueeze(1))


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.out = nn.Bilinear(6, 6, 4), nn.Linear(4, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.out(self.pair(rows, rows.flip(1)).tanh())


class SeveralInputs(nn.Module):
    """A layer of its own kind that takes tensors by position, by keyword, in a list and in a dictionary."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.inner = nn.Parameter(torch.ones(6)), nn.Linear(6, 6)

        def forward(self, rows: Tensor, mask: Tensor, others: list[Tensor], *, options: dict[str, Tensor]) -> Tensor:
            return self.inner(rows * self.weight + others[0]) * mask + options["shift"] * self.weight

    class Gate(nn.Module):
        """Two inputs, and no module inside."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, rows: Tensor, *, gate: Tensor, power: int = 1) -> Tensor:
            return rows * torch.sigmoid(gate * self.weight) ** power

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate, self.out = self.Layer(), self.Gate(), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        mask = (rows[..., :1] > 0).to(rows.dtype)
        hidden = self.layer(rows, mask=mask, others=[rows.cos()], options={"shift": rows.sin()})
        return self.out(self.gate(hidden, gate=rows, power=2))


class Translated(nn.Module):
    """Encoder and decoder of torch, the decoder with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Transformer(6, 2, 1, 1, 8, dropout=0.0, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        mask = torch.triu(torch.full((rows.shape[1],) * 2, -torch.inf, dtype=rows.dtype), 1)
        return self.model(rows, rows.flip(1), tgt_mask=mask)


def _encoder(batch_first: bool, dropout: float = 0.0) -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=dropout, batch_first=batch_first)


class TimeFirst(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: Tensor) -> Tensor:
        return self.inner(rows.transpose(0, 1)).transpose(0, 1)


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: Recurrent(nn.GRU, True),
    "lstm": lambda: Recurrent(nn.LSTM, True),
    "lstm, time first": lambda: Recurrent(nn.LSTM, False),
    "gru, two directions": lambda: Recurrent(nn.GRU, True, bidirectional=True),
    "packed gru": PackedRecurrent,
    "gru cell": lambda: CellLoop(nn.GRUCell),
    "lstm cell": lambda: CellLoop(nn.LSTMCell),
    "own cell": OwnCell,
    "attention": lambda: Attention(True),
    "attention, time first": lambda: Attention(False),
    "own attention": OwnAttention,
    "own attention, time first": lambda: OwnAttention(time_first=True),
    "latents": Latents,
    "encoder": lambda: _encoder(True),
    "encoder, dropout": lambda: _encoder(True, 0.3),
    "encoder, time first": lambda: TimeFirst(_encoder(False)),
    "encoder and decoder": Translated,
    "tokens": lambda: Tokens(nn.Tanh()),
    "tokens, padding": lambda: Tokens(nn.Tanh(), padding=0),
    "tokens, tied": lambda: Tokens(nn.Linear(6, 6), tied=True),
    "tokens, positions": lambda: Tokens(OwnAttention()),
    "bag, mean": lambda: Bag("mean"),
    "bag, max": lambda: Bag("max"),
    "bag, offsets": OffsetBag,
    "conv1d": lambda: nn.Sequential(nn.Conv1d(3, 4, 2), nn.GELU(), nn.Conv1d(4, 3, 2, groups=1)),
    "conv2d": lambda: Images(nn.Conv2d(1, 4, 2), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(40, 3)),
    "conv, instance norm": lambda: Images(nn.Conv2d(1, 4, 2), nn.InstanceNorm2d(4, affine=True), nn.Flatten()),
    "conv, running instance norm": lambda: Images(
        nn.Conv2d(1, 4, 2), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "conv, batch norm": lambda: Images(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
    "conv transposed": lambda: Images(nn.ConvTranspose2d(1, 3, 2), nn.Tanh(), nn.Conv2d(3, 1, 3)),
    "conv by groups": lambda: Images(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 2, groups=4, bias=False), nn.Flatten()),
    "bilinear": Pairs,
    "several inputs": SeveralInputs,
}
