"""PROMA in Hugging Face TRL: `PROMATrainer` and `PROMAConfig`. Needs the extra ``trl``."""

from proma_bench.integrations.trl.versions import require_trl

require_trl()  # before anything of it is imported

from proma_bench.integrations.trl.config import PROMAConfig  # noqa: E402
from proma_bench.integrations.trl.trainer import PROMATrainer  # noqa: E402

__all__ = ["PROMAConfig", "PROMATrainer"]
