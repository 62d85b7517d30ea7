"""Downloads from the Hugging Face hub, which fail within seconds if there is no network.

The hub's own client tries for half a minute before it fails.
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
"""Time limit in seconds for the first answer of the hub."""


MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors")
"""The files of a model that are downloaded: no pickled weights and no code."""


def dataset_file(repository: str, revision: str, name: str, instead: str) -> Path:
    """Find a file of a data set in the hub's cache on this machine, or download it.

    Args:
        repository: the name of the data set on the hub.
        revision: commit, tag or branch.
        name: the path of the file in the data set.
        instead: advice for users without access to the hub; it ends the error message.

    Returns:
        The path on this machine.

    Raises:
        UsageError: the file cannot be downloaded.
    """
    download = functools.partial(hf_hub_download, repository, name, repo_type="dataset", revision=revision)
    return _cached_or_fetched(download, lambda path: True, f"{name} of the data set {repository}", instead)


def model_folder(repository: str, revision: str | None, instead: str) -> Path:
    """Find a model, with its tokenizer, in the hub's cache on this machine, or download it.

    Args:
        repository: the name of the model on the hub.
        revision: commit, tag or branch; None is the main branch.
        instead: advice for users without access to the hub; it ends the error message.

    Returns:
        The folder on this machine.

    Raises:
        UsageError: the model cannot be downloaded.
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
        except Exception as error:  # errors of the client and of its HTTP library have no common class
            problem = str(error).partition("\n")[0]
    raise UsageError(
        f"{what} is not in {constants.HF_HUB_CACHE}, and cannot be fetched from {constants.ENDPOINT} ({problem}); "
        f"{instead}"
    )


def why_unreachable() -> str | None:
    """Check whether the hub can be reached.

    Returns:
        The reason if it cannot be reached, otherwise None.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # the hub has answered, although with an error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # The hub's client has its own certificates, so it may succeed.
        return None if isinstance(reason, ssl.SSLError) else str(reason)
    return None
