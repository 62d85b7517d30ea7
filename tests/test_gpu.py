"""The backward engine and the language tier on a GPU; skipped where there is none."""

import copy
from unittest import mock

import pytest
import torch
from small_models import save_tiny, tiny_llm
from small_runs import tiny_transformer
from torch import nn

from proma_bench import ProjectionConfig, Proma
from proma_bench.backward.cost import GRAM_METHODS
from proma_bench.experiments.training import Training, train
from proma_bench.language import tokens
from proma_bench.language.models import checkpoint_layers
from proma_bench.language.policy import LanguagePolicy
from proma_bench.learning.experience import Experience
from proma_bench.projection.fused import fused_settings
from proma_bench.projection.gram import removal
from proma_bench.tiers.transformer.tier import tiny_qwen3

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")

METHODS = ["iterative", "exact", "ridge"]
DEVICE = "cuda"
USES = {
    "microbatches": {},
    "virtual microbatches": {"microbatch_size": 4},
    "recording": {"record": True},
    "recording virtual microbatches": {"microbatch_size": 4, "record": True},
}
TYPES = {"float32": None, "bfloat16": torch.bfloat16}


def log_probs_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1).sum(1)


def microbatches(device: str, count: int = 3, sequences: int = 8, length: int = 12):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        tokens = torch.randint(61, (sequences, length), generator=generator)
        advantages = torch.randn(sequences, generator=generator)
        yield tokens.to(device), advantages.to(device)


def gradients(device: str, dtype: torch.dtype, config: ProjectionConfig, **options) -> list[torch.Tensor]:
    model = copy.deepcopy(tiny_qwen3(61, 64)).to(device, dtype)
    with Proma(model, config, **options) as proma:
        for tokens, advantages in microbatches(device):
            proma.backward(log_probs_of(model, tokens), advantages)
    return [parameter.grad.double().cpu() for parameter in model.parameters()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", GRAM_METHODS)
def test_gradients_are_the_cpus(method, way):
    """In float32 on both; TF32 is off unless asked for."""
    config = ProjectionConfig(method)
    expected = gradients("cpu", torch.float32, config, gram_method=way)
    found = gradients("cuda", torch.float32, config, gram_method=way)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_under_autocast_are_the_cpus(method):
    """Factors in bfloat16 on both; a GPU multiplies them as they are, a CPU converts them. One tensor occurs twice."""
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        layer, seeds = nn.Linear(48, 32, bias=False).to(device), torch.randn(2, 2, 8, 5, 32).bfloat16()
        inputs = torch.randn(2, 2, 8, 5, 48).bfloat16()
        with Proma(layer, ProjectionConfig(method), workspace_bytes=40_000) as proma:
            for seed, rows in zip(seeds.to(device), inputs.to(device), strict=True):
                with torch.autocast(device, torch.bfloat16):
                    outputs = [layer(row) for row in rows]
                log_probs = sum(
                    (s.float() * output.float()).sum((1, 2)) for s, output in zip(seed, outputs, strict=True)
                )
                proma.backward(log_probs, torch.linspace(-1, 2, 8, device=device))
        found[device] = layer.weight.grad.double().cpu()
    assert (found["cuda"] - found["cpu"]).norm() <= 1e-3 * found["cpu"].norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sequences", [1, 3, 8, 64])
def test_the_fused_kernel_is_the_solve_in_torch(method, sequences):
    """Where Triton is installed, which comes with torch for a GPU."""
    pytest.importorskip("triton", reason="Triton is not installed")
    generator, config = torch.Generator().manual_seed(0), ProjectionConfig(method)
    rows = torch.randn(6, sequences, 200, generator=generator, dtype=torch.float64)
    rows[1, 0], rows[2] = 0, 1e-9 * rows[2]
    overlap = rows @ torch.randn(200, generator=generator, dtype=torch.float64)
    arguments = (rows @ rows.mT).float(), overlap.float(), torch.randn(sequences, generator=generator)
    expected = removal(*arguments, config)
    on_gpu = [argument.cuda() for argument in arguments]
    assert fused_settings(on_gpu[0], on_gpu[2], config) is not None
    found = removal(*on_gpu, config)
    assert (found.coefficients.cpu() - expected.coefficients).norm() <= 1e-6 * expected.coefficients.norm()
    assert torch.equal(found.clamped.cpu(), expected.clamped)


def as_the_llm_tier(device: str, weights: torch.dtype, dtype: torch.dtype | None) -> LanguagePolicy:
    """Layers with checkpoints; matrix products perhaps in bfloat16, by autocast."""
    model = tiny_qwen3(61, 64).to(device, weights)
    checkpoint_layers(model)
    return LanguagePolicy(model, dtype=dtype)


def answers(device: str, count: int = 3, sequences: int = 8, length: int = 24):
    """Microbatches of answers, and a head that takes three chunks for them."""
    with mock.patch.object(tokens, "logits_at_once", lambda hidden: sequences * 61 * length // 3):
        for texts, advantages in microbatches("cpu", count, sequences, 12 + length):
            rows = torch.zeros(sequences, length)
            experience = Experience(texts, texts[:, -length:], rows, advantages, advantages, mask=rows == 0)
            yield experience.to(torch.device(device))


def llm_gradients(device: str, weights: torch.dtype, dtype: torch.dtype | None, config: ProjectionConfig, **use):
    policy, record = as_the_llm_tier(device, weights, dtype), use.pop("record", False)
    with Proma(policy, config, record=record) as proma:
        for experience in answers(device):
            log_probs = policy.on(experience).log_prob(experience.actions).sum(1)
            proma.backward(log_probs, experience.advantages, **use)
    return torch.cat([parameter.grad.double().cpu().flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_gradients_as_in_the_llm_tier_are_those_of_float64(method, use, dtype, allowed):
    """Float32 weights, autocast, checkpoints and a head in chunks; the expected ones are a CPU's."""
    config = ProjectionConfig(method)
    expected = llm_gradients("cpu", torch.float64, None, config, **USES[use])
    found = llm_gradients(DEVICE, torch.float32, TYPES[dtype], config, **USES[use])
    assert (found - expected).norm() <= allowed * expected.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("dtype", TYPES)
def test_the_backward_pass_never_waits_for_the_gpu(method, use, dtype):
    """Later microbatches, with the running gradient to project; torch raises at any synchronisation."""
    policy, use = as_the_llm_tier(DEVICE, torch.float32, TYPES[dtype]), dict(USES[use])
    with Proma(policy, ProjectionConfig(method), record=use.pop("record", False)) as proma:
        for number, experience in enumerate(answers(DEVICE)):
            loss = -policy.on(experience).log_prob(experience.actions).sum()
            with proma.microbatch(experience.advantages, **use):
                if number:
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    loss.backward()
                finally:
                    torch.cuda.set_sync_debug_mode("default")


def test_the_workspace_stays_below_its_limit():
    """An embedding and a head of 40,000 tokens: gradients of eight sequences written out would be 160 MB each."""
    limit, slack = 8 * 2**20, 1.05
    peaks = {}
    for attached in (False, True):
        model = tiny_qwen3(40_000, 64).to("cuda")
        proma = Proma(model, ProjectionConfig(), workspace_bytes=limit) if attached else None
        for number, (texts, advantages) in enumerate(microbatches("cuda")):
            log_probs = log_probs_of(model, texts)
            if number == 1:
                torch.cuda.reset_peak_memory_stats()
            if proma is None:
                (-(advantages * log_probs).sum()).backward()
            else:
                proma.backward(log_probs, advantages)
        peaks[attached] = torch.cuda.max_memory_allocated()
        del model, proma, log_probs
        torch.cuda.empty_cache()
    assert peaks[True] <= peaks[False] * slack + limit


def test_a_policy_in_bfloat16_trains_on_the_gpu():
    """Experience of the third tier, on a GPU: gradients of float32, but for rounding."""
    training = Training(tiny_transformer(method="reinforce"))
    with torch.no_grad():
        experience = training.sample()
    found = {}
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)):
        policy = LanguagePolicy(copy.deepcopy(training.policy.model).to(device, dtype))
        advantages = torch.linspace(-1, 1, len(experience), device=device)
        with Proma(policy, ProjectionConfig()) as proma:
            log_probs = policy.on(moved(experience, device)).log_prob(experience.actions.to(device))
            proma.backward(torch.where(experience.mask.to(device), log_probs, 0.0).sum(1), advantages)
        parts = [parameter.grad.double().cpu().flatten() for parameter in policy.parameters()]
        found[device, dtype] = torch.cat(parts)
    expected = found["cpu", torch.float32]
    assert torch.cosine_similarity(found["cuda", torch.float32], expected, dim=0) > 0.9999
    assert torch.cosine_similarity(found["cuda", torch.bfloat16], expected, dim=0) > 0.98


@pytest.mark.parametrize("method", ["reinforce", "grpo", "proma"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_llm_tier_runs_on_the_gpu(method, dtype, tmp_path):
    """Of a model in a directory, sampled and trained there; in float32 the numbers are the CPU's."""
    history = train(tiny_llm(save_tiny(tmp_path), method=method, dtype=dtype, sampler="huggingface"))
    assert all(step["kl_local"] < 1 and step["grad_norm"] >= 0 for step in history)
    assert all(step["sampler_gap"] < {"float32": 1e-3, "bfloat16": 0.05}[dtype] for step in history)


def moved(experience, device):
    tensors = {name: value.to(device) for name, value in vars(experience).items() if isinstance(value, torch.Tensor)}
    return type(experience)(**{**vars(experience), **tensors})
