"""The third tier: it runs, resumes, and counts what goes wrong with answers."""

import copy

import pytest
import torch
from small_runs import tiny_transformer, without_timings

from proma_bench.experiments.run import run_in
from proma_bench.experiments.training import Training, train
from proma_bench.language.sampling import Rollout
from proma_bench.learning.experience import PADDING
from proma_bench.learning.methods import METHODS
from proma_bench.runs.directory import read_json
from proma_bench.tasks.questions import Question


@pytest.mark.parametrize("method", METHODS)
def test_a_run_records_its_steps_and_the_scores_it_began_with(method, tmp_path):
    run = run_in(tmp_path / "run", tiny_transformer(method=method, learning_rate=1e-3))
    assert run.finished
    assert [step["score"] is None for step in run.metrics] == [True, False, True, False]
    assert all(step["kl_local"] > -1e-6 for step in run.metrics)
    assert set(read_json(tmp_path / "run" / "summary.json")["initial"]) == {"score", "score_sampled"}


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    config = tiny_transformer()
    whole = run_in(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "stopped", config, on_step=stop_after(3))
    resumed = run_in(tmp_path / "stopped", config, resume=True)
    assert without_timings(resumed.metrics) == without_timings(whole.metrics)


def stop_after(step):
    def on_step(metrics):
        if metrics["step"] == step:
            raise KeyboardInterrupt

    return on_step


def test_packed_training_is_the_same_training():
    padded, packed = (train(tiny_transformer(packed=packed)) for packed in (False, True))
    for one, other in zip(padded, packed, strict=True):
        assert one["reward"] == other["reward"]
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_all_methods_and_seeds_begin_with_the_same_weights():
    first = Training(tiny_transformer(method="grpo", seed=0)).policy
    second = Training(tiny_transformer(method="proma", seed=7)).policy
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_old_log_probs_are_the_policys_own():
    training = Training(tiny_transformer())
    experience = training.sample()
    again = training.policy.on(experience).log_prob(experience.actions)
    real = experience.mask  # where an answer is padded, log-probs mean nothing
    torch.testing.assert_close(
        experience.old_log_probs[real], again.detach()[real], rtol=1e-5, atol=1e-5
    )  # another order of sums
    assert experience.per_sequence(experience.old_log_probs).max() < 0


class Scripted:
    """A sampler that answers from a list, whatever it is asked."""

    def __init__(self, tokenizer, answers):
        self.rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        self.end = tokenizer.eos_token_id
        self.prompts = None

    def sample(self, prompts, samples, generator):
        self.prompts = prompts
        width = max(map(len, self.rows))
        answers = torch.tensor([row + [PADDING] * (width - len(row)) for row in self.rows])
        lines = torch.tensor([[PADDING] * (9 - len(prompt)) + list(prompt) for prompt in prompts])
        finished = torch.tensor([row[-1] == self.end for row in self.rows])
        return Rollout(lines.repeat_interleave(samples, 0), answers, torch.zeros(answers.shape), finished)


@pytest.fixture
def training():
    return Training(tiny_transformer(prompts=2, group_size=3, context_length=12))


def answered(training, answers, questions):
    """What becomes of these answers to these questions, three to each."""
    asked = training.tier.answers
    asked.task = copy.copy(asked.task)
    asked.task.training = questions
    sampler = Scripted(asked.prompting.tokenizer, answers)
    generators = {**training.generators, "initial_states": torch.Generator().manual_seed(0)}
    picks = torch.randint(len(questions), (2,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        experience = asked.experience(training.policy, sampler, 3, 2, generators)
    return experience, sampler, picks


def test_empty_and_cut_answers_are_counted_and_get_nothing(training):
    question = next(question for question in training.tier.task.training if question.text == "1 + 2")
    experience, _, _ = answered(training, ["3<end>", "<end>", "3", " <end>", "4<end>", "3<end>"], [question])
    assert experience.rewards.tolist() == [1, 0, 1, 0, 0, 1]
    assert experience.flags["empty"].tolist() == [False, True, False, True, False, False]
    assert experience.flags["cut"].tolist() == [False, False, True, False, False, False]
    assert not experience.flags["overlong"].any() and not experience.flags["unanswerable"].any()


def test_an_overlong_prompt_is_not_read_and_its_answers_have_no_rows(training):
    question = training.tier.task.training[0]
    questions = [Question("1 + 2 + 3", question.entry)]
    experience, sampler, _ = answered(training, ["1<end>"] * 6, questions)
    assert sampler.prompts == [[training.tier._end]] * 2
    assert experience.flags["overlong"].all() and not experience.flags["empty"].any()
    assert experience.rows == 0 and not experience.rewards.any()


@pytest.mark.parametrize("method", METHODS)
def test_a_step_with_overlong_prompts_goes_on(training, method):
    """One of the two questions is too long; and then both."""
    entry = training.tier.task.training[0].entry
    for texts in (["1 + 2", "1 + 2 + 3"], ["1 + 2 + 3", "1 + 2 + 3"]):
        run = Training(tiny_transformer(prompts=2, group_size=3, context_length=12, method=method, max_removed=None))
        run.tier.answers.task = task = copy.copy(run.tier.answers.task)
        task.training = [Question(text, entry) for text in texts]
        history = [step for _ in range(4) for step in run.batch()]
        assert sum(step["overlong"] for step in history) > 0
        assert all(step["grad_norm"] >= 0 and step["kl_local"] < 1 for step in history)


def test_a_question_without_a_valid_answer_is_counted(training):
    entry = {**training.tier.task.training[0].entry, "answer": None}
    experience, _, _ = answered(training, ["1<end>"] * 6, [Question("1 + 2", entry)])
    assert experience.flags["unanswerable"].all()
    assert not experience.rewards.any()
