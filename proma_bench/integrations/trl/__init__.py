"""PROMA in Hugging Face TRL: `PROMATrainer` and `PROMAConfig`. Needs the extra ``trl``."""

from proma_bench.integrations.trl.config import PROMAConfig
from proma_bench.integrations.trl.trainer import PROMATrainer

__all__ = ["PROMAConfig", "PROMATrainer"]
