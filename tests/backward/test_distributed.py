"""Two processes: each rank projects its own running gradient over its own microbatches, then gradients are averaged.

One pair of processes runs every case; the tests look at what it left.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from causal_lm import Answers, norm_forward, tiny_qwen3
from oracle import Micro, assert_near, intra_gradients, oracle_gradients
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from proma_bench import ProjectionConfig, Proma

RANKS, STEPS = 2, 2
PLAIN = ProjectionConfig(shrinkage=0)
INTRA = ProjectionConfig("intra", rank=12)  # with the spare directions as many as a microbatch has rows
LENGTHS = ((5, 9, 4, 4), (7, 3, 8, 8), (6, 6, 5, 9))
Results = dict[str, Any]


def answers_of(rank: int) -> list[Answers]:
    return [Answers(10 * rank + number, lengths) for number, lengths in enumerate(LENGTHS)]


def sharded(module: Qwen3ForCausalLM, **options: Any) -> nn.Module:
    """Blocks and root, as everyone does it; embedding and head stay in the root's group."""
    for block in module.model.layers:
        fully_shard(block, **options)
    return fully_shard(module, **options)


def each_layer_sharded(module: Qwen3ForCausalLM) -> nn.Module:
    """A group for every layer with weights of its own, and one for the tied pair."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer is not module.lm_head:
            fully_shard(layer, reshard_after_forward=True)
    fully_shard([module.model.embed_tokens, module.lm_head])
    return fully_shard(module)


def kept_whole(module: Qwen3ForCausalLM) -> nn.Module:
    parallel = sharded(module, reshard_after_forward=False)
    parallel.set_reshard_after_backward(False)
    return parallel


def hybrid(module: Qwen3ForCausalLM) -> nn.Module:
    """Replicas of shards: gradients are reduced within a replica, then over replicas."""
    return sharded(module, mesh=init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicas", "shards")))


def tied_late(module: Qwen3ForCausalLM) -> nn.Module:
    """As transformers shards what it loads: the head is tied when the root has taken it into its care, so FSDP2 gathers
    two of the weight. It has been used, too, and is gathered at the moment."""
    module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    for block in module.model.layers:
        fully_shard(block)
    fully_shard([module.model.embed_tokens, module.model.norm], reshard_after_forward=False)
    fully_shard(module)
    module.lm_head.weight = module.model.embed_tokens.weight
    with torch.no_grad():
        module(torch.tensor([[1, 2]]))
    return module


def narrow(module: Qwen3ForCausalLM, param: torch.dtype, reduced: torch.dtype) -> nn.Module:
    return sharded(module, mp_policy=MixedPrecisionPolicy(param_dtype=param, reduce_dtype=reduced))


class Case(NamedTuple):
    """How the model is wrapped; the rest is as the oracle must know it.

    synchronised: gradients are averaged after every microbatch, not only the last. size: of virtual microbatches.
    """

    wrap: Callable[[Qwen3ForCausalLM], nn.Module]
    config: ProjectionConfig = ProjectionConfig()
    tied: bool = True
    reentrant: bool | None = None
    synchronised: bool = False
    size: int | None = None
    unprojected: tuple[str, ...] = ()
    relative: float = 1e-9


CASES = {
    "ddp": Case(DistributedDataParallel),
    "ddp, exact, bucket views": Case(
        partial(DistributedDataParallel, gradient_as_bucket_view=True), ProjectionConfig("exact")
    ),
    "ddp, synchronised always": Case(DistributedDataParallel, synchronised=True),
    "ddp, checkpointed": Case(DistributedDataParallel, reentrant=False),
    "ddp, virtual": Case(DistributedDataParallel, size=2),
    "ddp, intra": Case(DistributedDataParallel, INTRA),
    "fsdp": Case(sharded),
    "fsdp, exact": Case(sharded, ProjectionConfig("exact", max_removed=None)),
    "fsdp, untied": Case(sharded, tied=False),
    "fsdp, each layer": Case(each_layer_sharded),
    "fsdp, whole": Case(kept_whole),
    "fsdp, tied late": Case(tied_late),
    "fsdp, checkpointed": Case(sharded, reentrant=False),
    "fsdp, checkpointed, reentrant": Case(sharded, reentrant=True),
    "fsdp, hybrid": Case(hybrid),
    "fsdp, virtual": Case(sharded, size=2),
    "fsdp, unprojected": Case(sharded, unprojected=("model.embed_tokens.weight", "model.norm.weight")),
    "fsdp, reduced in another type": Case(partial(narrow, param=torch.float32, reduced=torch.float64), relative=1e-5),
    "fsdp, intra, synchronised always": Case(sharded, INTRA, synchronised=True),
    "fsdp, bfloat16": Case(partial(narrow, param=torch.bfloat16, reduced=torch.float32), relative=0.1),
}


def synchronise(parallel: nn.Module, last: bool) -> AbstractContextManager[None]:
    if isinstance(parallel, DistributedDataParallel):
        return nullcontext() if last else parallel.no_sync()
    assert isinstance(parallel, FSDPModule)
    parallel.set_requires_gradient_sync(last)
    parallel.set_is_last_backward(last)
    return nullcontext()


def train(parallel: nn.Module, proma: Proma, rank: int, synchronised: bool, size: int | None) -> None:
    """One step's microbatches."""
    for number, answers in enumerate(answers_of(rank), start=1):
        with synchronise(parallel, synchronised or number == len(LENGTHS)):
            log_probs = answers.padded(parallel)
            proma.backward(log_probs, answers.advantages.to(log_probs.dtype), microbatch_size=size)


def gradients(case: Case, rank: int) -> Results:
    module = tiny_qwen3(torch.float64, tied=case.tied)
    if case.reentrant is not None:
        module.train().gradient_checkpointing_enable({"use_reentrant": case.reentrant})
    parallel = case.wrap(module)
    names = [f"module.{name}" if parallel is not module else name for name in case.unprojected]
    proma = Proma(parallel, case.config, record=True, unprojected=names)
    steps = []
    for _ in range(STEPS):
        train(parallel, proma, rank, case.synchronised, case.size)
        for child in module.modules():
            if isinstance(child, FSDPModule):
                child.reshard()  # the gradients are those of the sharded parameters
        grads = {name: whole(parameter.grad) for name, parameter in module.named_parameters()}
        steps.append({name: gradient.clone() for name, gradient in grads.items()})
        parallel.zero_grad()
    records = [tuple(record[:3]) for record in proma.stats()]
    return {"steps": steps, "records": records}


def whole(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


# ------------------------------------------------------------------------------------------- what must be refused


def synchronised_too_early(module: Qwen3ForCausalLM) -> None:
    parallel = sharded(module)
    train(parallel, Proma(parallel), 0, synchronised=True, size=None)


def reduced_within_replicas(module: Qwen3ForCausalLM) -> None:
    parallel = hybrid(module)
    proma = Proma(parallel)
    parallel.set_requires_all_reduce(False)  # between the replicas
    for answers in answers_of(0):
        proma.backward(answers.padded(parallel), answers.advantages)


def attached_too_early(module: Qwen3ForCausalLM) -> None:
    proma = Proma(module)
    train(sharded(module), proma, 0, synchronised=False, size=None)


def attached_to_a_part(module: Qwen3ForCausalLM) -> None:
    Proma(sharded(module).model)


def a_weight_used_directly(module: Qwen3ForCausalLM) -> None:
    parallel, answers = sharded(module), answers_of(0)[0]

    def fused(hidden: Tensor) -> Tensor:
        return hidden @ module.lm_head.weight.T

    proma = Proma(parallel)
    module.lm_head.forward = fused  # the module is called, its layer is not
    with proma.microbatch(answers.advantages):
        (-answers.padded(parallel).sum()).backward()


def flattened(module: Qwen3ForCausalLM) -> None:
    Proma(FullyShardedDataParallel(module, device_id=torch.device("cpu")))


def tensor_parallel(module: Qwen3ForCausalLM) -> None:
    layer = module.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(distribute_tensor(layer.weight.data, init_device_mesh("cpu", (RANKS,)), [Shard(0)]))
    Proma(module)


REFUSED: dict[str, tuple[Callable[[Qwen3ForCausalLM], None], str]] = {
    "synchronised": (synchronised_too_early, r"RuntimeError: .*'lm_head.weight'.*set_requires_gradient_sync\(False\)"),
    "reduced": (reduced_within_replicas, "RuntimeError: .*synchronised before the last microbatch"),
    "early": (attached_too_early, "RuntimeError: fully_shard was applied after Proma was attached"),
    "part": (attached_to_a_part, "ValueError: parameter '.*' is a DTensor.*attach Proma to the whole module"),
    "direct": (a_weight_used_directly, "RuntimeError: parameter 'lm_head.weight' received a gradient from outside"),
    "fsdp1": (flattened, r"ValueError: FullyShardedDataParallel \(FSDP1\).*use fully_shard"),
    "tensor parallel": (tensor_parallel, "ValueError: parameter '.*up_proj.weight' is a DTensor"),
}


def refusal(name: str) -> str:
    try:
        REFUSED[name][0](tiny_qwen3(torch.float64, tied=False))
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


# ------------------------------------------------------------------------------------------------- the processes


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # transformers' about the name of an argument; FSDP1's about its end
    Qwen3RMSNorm.forward = norm_forward
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    results: Results = {name: gradients(case, rank) for name, case in CASES.items()}
    results["refused"] = {name: refusal(name) for name in REFUSED}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(autouse=True, scope="module")
def exact_norms() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3RMSNorm, "forward", norm_forward)
        yield


def micros(answers: Answers, size: int | None) -> list[Micro]:
    """A microbatch as the virtual ones that it consists of."""
    size = size or len(answers.advantages)
    return [
        Micro(lambda model, i, start=start: answers.alone(model, start + i), advantages)
        for start, advantages in zip(range(0, len(answers.tokens), size), answers.advantages.split(size), strict=True)
    ]


@cache
def expected(
    config: ProjectionConfig, tied: bool = True, synchronised: bool = False, size: int | None = None
) -> dict[str, Tensor]:
    """The oracle's gradients of two single processes, averaged at the end or after every microbatch."""
    model = tiny_qwen3(torch.float64, tied=tied)
    by_rank = [[micro for answers in answers_of(rank) for micro in micros(answers, size)] for rank in range(RANKS)]
    if config.method == "intra":  # no microbatch meets another, so it does not matter when they are averaged
        return average([intra_gradients(model, own, config) for own in by_rank])
    if not synchronised:
        return average([oracle_gradients(model, own, config) for own in by_rank])
    running: dict[str, Tensor] | None = None
    for both in zip(*by_rank, strict=True):
        running = average([oracle_gradients(model, [micro], config, running) for micro in both])
    assert running is not None
    return running


def average(gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([own[name] for own in gradients]).mean(0) for name in gradients[0]}


@pytest.mark.parametrize("name", CASES)
def test_equals_single_processes_averaged(name: str, distributed: list[Results]) -> None:
    case = CASES[name]
    wanted = expected(case.config, case.tied, case.synchronised, case.size)
    wanted = wanted | {parameter: expected(PLAIN)[parameter] for parameter in case.unprojected}
    for results in distributed:
        for gradients in results[name]["steps"]:
            assert_near(gradients, wanted, case.relative)


def test_what_the_cases_are_to_tell_apart_differs() -> None:
    """Projection of local or of averaged running gradients, in microbatches of one size or another, and none."""
    config = ProjectionConfig()
    results = [expected(config), expected(config, synchronised=True), expected(config, size=2), expected(PLAIN)]
    for one, other in combinations(results, 2):
        assert all((one[name] - other[name]).norm() > 1e-3 * one[name].norm() for name in one)


def test_records_carry_the_names_of_the_module(distributed: list[Results]) -> None:
    ddp, fsdp = (distributed[0][name]["records"] for name in ("ddp", "fsdp"))
    assert [(f"module.{name}", microbatch) for name, microbatch, _ in fsdp] == [record[:2] for record in ddp]
    torch.testing.assert_close([norm for *_, norm in fsdp], [norm for *_, norm in ddp], rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, distributed: list[Results]) -> None:
    for results in distributed:
        assert re.search(REFUSED[name][1], results["refused"][name]), results["refused"][name]
