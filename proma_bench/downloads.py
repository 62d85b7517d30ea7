"""Files of the Hugging Face hub, with an answer within seconds where there is no network.

The hub's own client tries for half a minute before it says so.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from proma_bench.errors import UsageError

PATIENCE = 5.0
"""Seconds."""


MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors")
"""What is fetched of a model: no pickled weights, no code."""


def dataset_file(repository: str, revision: str, name: str, instead: str) -> Path:
    """One file of a data set, from the hub's cache on this machine or from the hub.

    Raises:
        UsageError: it cannot be fetched; the message ends in ``instead``, what to do without the hub.
    """
    download = functools.partial(hf_hub_download, repository, name, repo_type="dataset", revision=revision)
    return _cached_or_fetched(download, lambda path: True, f"{name} of the data set {repository}", instead)


def model_folder(repository: str, revision: str | None, instead: str) -> Path:
    """A model with its tokenizer, in safetensors, from the hub's cache on this machine or from the hub.

    Raises:
        UsageError: it cannot be fetched; the message ends in ``instead``, what to do without the hub.
    """
    download = functools.partial(snapshot_download, repository, revision=revision, allow_patterns=list(MODEL_FILES))
    what = f"the model {repository}" + (f" ({revision})" if revision else "")
    return _cached_or_fetched(download, lambda folder: any(folder.glob("*.safetensors")), what, instead)


def _cached_or_fetched(download: Callable[..., str], is_whole: Callable[[Path], bool], what: str, instead: str) -> Path:
    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
        path = Path(download(local_files_only=True))
        if is_whole(path):
            return path
    problem = why_unreachable()
    if problem is None:
        try:
            return Path(download())
        except Exception as error:  # the client's and its HTTP library's have no common class
            problem = str(error).partition("\n")[0]
    raise UsageError(
        f"{what} is not in {constants.HF_HUB_CACHE}, and cannot be fetched from {constants.ENDPOINT} ({problem}); "
        f"{instead}"
    )


def why_unreachable() -> str | None:
    """Why the hub cannot be asked; None where it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # an answer, if not a friendly one
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Its client brings certificates of its own.
        return None if isinstance(reason, ssl.SSLError) else str(reason)
    return None
