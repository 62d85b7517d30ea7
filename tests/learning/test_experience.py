"""The three layouts of rows say the same thing."""

import pytest
import torch

from proma_bench.learning.experience import Experience

LENGTHS = [3, 1, 2]


def layouts():
    """The same three sequences of unequal length, flattened and padded; rows are numbered 0..5 as flattened."""
    rows = torch.arange(6.0)
    common = {"rewards": torch.tensor([1.0, 0.0, 2.0]), "advantages": torch.tensor([0.5, -1.0, 0.25])}
    ids = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    mask = torch.arange(3) < torch.tensor(LENGTHS).unsqueeze(1)
    padded = torch.full((3, 3), torch.nan)
    padded[mask] = rows
    flat = Experience(rows.unsqueeze(1), rows.long(), rows, sequence_ids=ids, **common)
    return {"flat": flat, "padded": Experience(padded, padded.nan_to_num().long(), padded, mask=mask, **common)}


@pytest.fixture(params=["flat", "padded"])
def experience(request):
    return layouts()[request.param]


def test_sums_and_means_count_real_rows_only(experience):
    assert experience.rows == 6
    assert experience.per_sequence(experience.old_log_probs).tolist() == [0 + 1 + 2, 3, 4 + 5]
    assert experience.mean(experience.old_log_probs) == pytest.approx(15 / 6)


def test_padding_gets_no_gradient_even_where_it_is_not_finite():
    experience = layouts()["padded"]
    values = experience.old_log_probs.clone().requires_grad_()
    experience.per_sequence(values).sum().backward()
    assert torch.equal(values.grad, experience.mask.float())


def test_every_row_gets_its_sequences_value(experience):
    per_row = experience.per_row(experience.advantages)
    assert per_row.shape == experience.old_log_probs.shape
    counts = experience.per_sequence(torch.ones_like(per_row))
    assert torch.equal(experience.per_sequence(per_row), experience.advantages * counts)


def test_selected_sequences_keep_their_rows_in_the_asked_order(experience):
    chosen = experience.select(torch.tensor([2, 0]))
    assert chosen.per_sequence(chosen.old_log_probs).tolist() == [9, 3]
    assert chosen.rewards.tolist() == [2, 1]
    assert chosen.advantages.tolist() == [0.25, 0.5]
    assert chosen.rows == 5


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)], ids=["in order", "shuffled"])
def test_microbatches_hold_every_sequence_once(experience, generator):
    parts = experience.microbatches(2, generator)
    assert [len(part) for part in parts] == [2, 1]
    sums = torch.cat([part.per_sequence(part.old_log_probs) for part in parts])
    assert sorted(sums.tolist()) == [3, 3, 9]
    assert sum(part.rows for part in parts) == experience.rows


def test_sorted_microbatches_have_sequences_of_similar_length(experience):
    for generator in (None, torch.Generator().manual_seed(0)):
        parts = experience.microbatches(1, generator, sort_by_length=True)
        assert [part.rows for part in parts] == sorted(part.rows for part in parts)
        assert sorted(part.rewards.item() for part in parts) == sorted(experience.rewards.tolist())


def test_sequences_of_one_length_keep_their_order():
    rows = torch.arange(8.0)
    experience = Experience(rows, rows, rows, rows, rows)
    shuffled = [part.rewards.tolist() for part in experience.microbatches(2, torch.Generator().manual_seed(1))]
    ordered = experience.microbatches(2, torch.Generator().manual_seed(1), sort_by_length=True)
    assert [part.rewards.tolist() for part in ordered] == shuffled


def test_split_keeps_neighbours_together():
    rows = torch.arange(8.0)
    experience = Experience(rows, rows, rows, rows, rows)
    assert [part.rewards.tolist() for part in experience.split(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_joined_microbatches_are_the_whole_again(experience, size):
    whole = Experience.join(experience.microbatches(size, None))
    assert whole.rows == experience.rows
    assert torch.equal(whole.rewards, experience.rewards) and torch.equal(whole.advantages, experience.advantages)
    assert torch.equal(whole.per_sequence(whole.old_log_probs), experience.per_sequence(experience.old_log_probs))
    for number in range(len(experience)):
        one = torch.tensor([number])
        assert torch.equal(whole.select(one).actions, experience.select(one).actions)
