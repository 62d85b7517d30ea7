"""What two processes do together: ways to be parallel that must give the right gradient, and uses that are refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from causal_lm import Answers, tiny_qwen3
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3ForCausalLM

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
    "direct": (a_weight_used_directly, "ValueError: parameter 'lm_head.weight': used directly, which fully_shard"),
    "fsdp1": (flattened, r"ValueError: FullyShardedDataParallel \(FSDP1\).*use fully_shard"),
    "tensor parallel": (tensor_parallel, "ValueError: parameter '.*up_proj.weight' is a DTensor"),
}


def refusal(name: str) -> str:
    try:
        REFUSED[name][0](tiny_qwen3(torch.float64, tied=False))
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"
