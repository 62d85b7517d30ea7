"""One mini-batch update by two Ray workers of VeRL's, on a CPU: ``python verl_ray.py FOLDER``."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils
from verl.workers.config import FSDPOptimizerConfig, TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss
from verl_runs import Batch, actor_config, model_config

RANKS, LEARNING_RATE = 2, 100.0  # so large that little of the step is lost to rounding


class Worker(TrainingWorker):
    def __init__(self, config: TrainingWorkerConfig, store: str) -> None:
        torch.set_num_threads(1)
        ranks = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
        # On a CPU, VeRL would name gloo twice; and a port that it has found free may be taken until it is used.
        dist.init_process_group("gloo", init_method=store, **ranks)
        super().__init__(config)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.full_tensor().detach() for name, parameter in self.engine.module.named_parameters()}


def main(folder: Path) -> None:
    actor = actor_config()
    config = TrainingWorkerConfig(
        model_type="language_model",
        model_config=model_config(folder),
        engine_config=actor.engine,
        optimizer_config=FSDPOptimizerConfig(
            optimizer="SGD", lr=LEARNING_RATE, weight_decay=0.0, clip_grad=1e9, total_training_steps=1
        ),
        checkpoint_config=CheckpointConfig(),
    )
    ray.init(num_cpus=32, include_dashboard=False)  # of which VeRL reserves more than it uses
    pool = RayResourcePool([RANKS], use_gpu=False, max_colocate_count=1)
    initial = RayClassWithInitArgs(ray.remote(Worker), config=config, store=f"file://{folder / 'ray-store'}")
    workers: Any = RayWorkerGroup(pool, initial, use_gpu=False)
    workers.reset()
    workers.set_loss_fn(partial(ppo_loss, config=actor))
    before = workers.weights()[0]

    batches = [Batch(rank).tensordict(RANKS) for rank in range(RANKS)]
    size = sum(map(len, batches))
    data = tensordict_utils.concat_tensordict(batches)
    tensordict_utils.assign_non_tensor(
        data,
        global_batch_size=size,
        mini_batch_size=size,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=actor.ppo_micro_batch_size_per_gpu,
    )
    metrics = tensordict_utils.get(workers.train_mini_batch(data).get(), "metrics")
    steps = {name: (before[name] - after) / LEARNING_RATE for name, after in workers.weights()[0].items()}
    save_file(steps, folder / "ray.safetensors")
    (folder / "ray.json").write_text(json.dumps({name: list(map(float, values)) for name, values in metrics.items()}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
