"""A platform of VeRL's without an accelerator. ``VERL_USE_EXTERNAL_MODULES=verl_cpu VERL_PLATFORM=cpu`` selects it."""

import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.utils import distributed


def nothing(*args: Any, **options: Any) -> None:
    pass


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = SimpleNamespace(
        is_available=lambda: True,
        get_device_name=lambda: "cpu",
        max_memory_allocated=lambda: 0,
        max_memory_reserved=lambda: 0,
        memory_allocated=lambda: 0,
        memory_reserved=lambda: 0,
        mem_get_info=lambda: (0, 0),
        empty_cache=nothing,
        synchronize=nothing,
    )
    set_device = synchronize = manual_seed = manual_seed_all = nothing
    set_allocator_settings = empty_cache = profiler_start = profiler_stop = cudart = nothing

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:  # type: ignore[override]  # what ``Tensor.to`` understands
        return "cpu"

    def device_count(self) -> int:
        return 1

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg: str) -> Any:
        return nullcontext()

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {}

    def is_ipc_supported(self) -> bool:
        return False


def initialize_global_process_group_ray(**options: Any) -> None:
    """VeRL's own would name gloo twice on a CPU, which torch refuses."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))


distributed.initialize_global_process_group_ray = initialize_global_process_group_ray
