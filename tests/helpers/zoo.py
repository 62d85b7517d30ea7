"""Every causal language model of transformers, tiny and random, against autograd sequence by sequence."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from oracle import literal_step
from tiny_configs import NOT_BUILT, VOCABULARY, tiny_config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import proma_bench
from proma_bench import ProjectionConfig, Proma

Verdict = Literal["right", "with autograd", "refused", "wrong", "not built"]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
CONFIG = ProjectionConfig("exact")
LENGTHS = (4, 6, 5)
SEQUENCES = 3
LIBRARY = str(Path(proma_bench.__file__).parent)


class Outcome(NamedTuple):
    """What came out for one model class.

    Attributes:
        error: the largest relative error of a parameter's gradient; None where none was compared.
        reason: why it was refused, is wrong or was not built; with autograd, why not without it.
    """

    model: str
    verdict: Verdict
    error: float | None = None
    reason: str = ""


class Sample(NamedTuple):
    """A microbatch of sequences of equal length."""

    tokens: Tensor
    advantages: Tensor


class WideFloats(TorchFunctionMode):
    """Whatever asks for float32 gets float64: many models round inside, which would hide what float64 shows.

    It is off in a backward pass, as torch has it, so a layer that a rule runs again there is right to 1e-7 only.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.float:
            function = Tensor.double
        wide = {key: _widened(value) for key, value in (kwargs or {}).items()}
        return function(*map(_widened, args), **wide)


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def names() -> list[str]:
    """Every causal language model class of the installed transformers; none is imported for that."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


def outcome(name: str) -> Outcome:
    """Build the model, compute what its gradients must be, and compare with those of Proma."""
    if name in NOT_BUILT:
        return Outcome(name, "not built", reason=NOT_BUILT[name])
    with quiet():
        failures = []
        for dtype in TOLERANCE:
            try:
                with precision(dtype):
                    model = build(getattr(transformers, name), dtype)
                    wanted = wanted_gradients(copy.deepcopy(model), samples(dtype))
            except Exception as error:  # whatever a class of transformers may raise
                failures.append(_text(error))
                continue
            with precision(dtype):
                return _judged(name, model, wanted, dtype)
        return Outcome(name, "not built", reason=failures[0])


def build(model_class: type[Any], dtype: torch.dtype) -> nn.Module:
    """The tiny model, random so that every weight matters, smaller where the outputs would not be finite."""
    config = tiny_config(model_class.config_class)
    for part in (
        config,
        *(value for value in vars(config).values() if isinstance(value, transformers.PreTrainedConfig)),
    ):
        part._attn_implementation = "eager"
        part._experts_implementation = "eager"
    model: nn.Module = model_class(config).to(dtype).train()
    for scale in (0.2, 0.05, 0.01):
        _fill(model, scale)
        sums = [log_probs(copy.deepcopy(model), sample) for sample in samples(dtype)]
        if all(bool(values.isfinite().all()) for values in sums):
            return model
    raise ArithmeticError("its log-probs are not finite")


def _fill(model: nn.Module, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * scale + (0.5 if parameter.ndim == 1 else 0.0))


def samples(dtype: torch.dtype) -> list[Sample]:
    """Three microbatches."""
    generator = torch.Generator().manual_seed(2)
    return [
        Sample(
            torch.randint(3, VOCABULARY - 4, (SEQUENCES, length), generator=generator),
            torch.randn(SEQUENCES, generator=generator, dtype=torch.float64).to(dtype),
        )
        for length in LENGTHS
    ]


def log_probs(model: nn.Module, sample: Sample) -> Tensor:
    """The log-prob of each sequence after its first token. What is random in the forward pass is so from one seed."""
    torch.manual_seed(3)
    output = model(input_ids=sample.tokens)
    logits = output.logits if hasattr(output, "logits") else output[0]
    tokens = sample.tokens[:, 1:].unsqueeze(-1)
    return logits[:, :-1].log_softmax(-1).gather(-1, tokens).squeeze(-1).sum(-1)


def wanted_gradients(model: nn.Module, micros: Sequence[Sample]) -> dict[str, Tensor]:
    """Each sequence's gradient by autograd, in the batch, then the literal projection."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    running: dict[str, Tensor | None] = dict.fromkeys(parameters)
    for sample in micros:
        rows = [_alone(model, sample, i) for i in range(len(sample.advantages))]
        for name in parameters:
            seq_grads = torch.stack([row[name] for row in rows])
            running[name] = literal_step(running[name], seq_grads, sample.advantages, CONFIG)
    wanted = {name: gradient for name, gradient in running.items() if gradient is not None}
    if not all(bool(gradient.isfinite().all()) for gradient in wanted.values()):
        raise ArithmeticError("its gradients are not finite")
    return wanted


def _alone(model: nn.Module, sample: Sample, i: int) -> dict[str, Tensor]:
    """The gradient of one sequence. By ``backward``, as reversible layers add to ``grad`` in a pass of their own."""
    model.zero_grad()
    (-log_probs(model, sample)[i]).backward()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def _judged(name: str, model: nn.Module, wanted: dict[str, Tensor], dtype: torch.dtype) -> Outcome:
    tried: tuple[tuple[Verdict, dict[str, Any]], ...] = (
        ("right", {}),
        ("with autograd", {"uncovered": "autograd"}),
    )
    refused = ""
    for verdict, options in tried:
        attempt = copy.deepcopy(model)
        if problem := _gradients_or_refusal(attempt, samples(dtype), options):
            if not problem.startswith("refused: "):
                return Outcome(name, "wrong", reason=problem)
            refused = refused or problem.removeprefix("refused: ")
            continue
        error, where = worst_error(attempt, wanted)
        if not error <= TOLERANCE[dtype]:
            return Outcome(name, "wrong", error, f"the gradient of {where}")
        return Outcome(name, verdict, error, refused)
    return Outcome(name, "refused", reason=refused)


def _gradients_or_refusal(model: nn.Module, micros: Sequence[Sample], options: dict[str, Any]) -> str:
    """Fill the gradients. Returns nothing, or ``refused: ...`` for an exception of ours before a gradient changed."""
    try:
        proma = Proma(model, CONFIG, **options)
    except ValueError as error:  # TypeError: in versions that do not have the option
        return f"refused: {_text(error)}"
    with proma:
        for number, sample in enumerate(micros):
            before = _gradients(model)
            try:
                proma.backward(log_probs(model, sample), sample.advantages)
            except Exception as error:  # a crash is an outcome like others
                if not _is_ours(error):
                    return f"in Proma's forward or backward pass: {_text(error)}"
                if changed := _changed(before, _gradients(model)):
                    return f"{changed} gradients had changed when microbatch {number} was refused: {_text(error)}"
                return f"refused: {_text(error)}"
    return ""


def _gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def _changed(before: dict[str, Tensor | None], after: dict[str, Tensor | None]) -> int:
    """How many gradients are not what they were."""
    pairs = [(before[name], after[name]) for name in before]
    return sum(old is not new and (old is None or new is None or not torch.equal(old, new)) for old, new in pairs)


def _is_ours(error: Exception) -> bool:
    """Whether the library raised it to refuse, and not torch or the model by way of it."""
    meant = isinstance(error, ValueError | RuntimeError | TypeError)
    return meant and traceback.extract_tb(error.__traceback__)[-1].filename.startswith(LIBRARY)


def worst_error(model: nn.Module, wanted: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative error of a gradient, and whose it is.

    A gradient that is a billionth of the model's largest one is rounding, as that of a key's bias under a softmax.
    """
    floor = 1e-9 * max(float(gradient.double().norm()) for gradient in wanted.values())
    errors = {}
    for name, parameter in model.named_parameters():
        if name in wanted:
            expected = wanted[name].double()
            found = torch.zeros_like(expected) if parameter.grad is None else parameter.grad.double()
            errors[name] = float((found - expected).norm()) / max(float(expected.norm()), floor)
    where = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return errors[where], where


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Everything within is in this type, also what models would compute in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if dtype == torch.float64:
            with WideFloats():
                yield
        else:
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what models say of old names and missing kernels is not our business
        try:
            yield
        finally:
            transformers.logging.set_verbosity(verbosity)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
