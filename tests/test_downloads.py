"""The hub: the cache first, then one question whether it is there, then its own client."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from proma_bench import downloads as hub
from proma_bench.errors import UsageError


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    """Whatever the environment says."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def client(monkeypatch, tmp_path):
    """A client that has nothing in its cache; what it was asked for beyond that."""
    asked = []

    def download(repository, name, *, local_files_only=False, **options):
        if local_files_only:
            raise LocalEntryNotFoundError("not there")
        asked.append((repository, name, options))
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    return asked


@pytest.fixture
def server(monkeypatch):
    """A hub that answers with 404, and turns proxies off."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *what):
            pass

    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_is_in_the_cache_needs_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "hf_hub_download", lambda *what, local_files_only, **options: str(tmp_path / "here"))
    monkeypatch.setattr(hub, "why_unreachable", lambda: pytest.fail("asked"))
    assert hub.dataset_file("a/b", "main", "x", "") == tmp_path / "here"


def test_what_is_not_comes_from_the_hub(client, server, tmp_path):
    assert hub.dataset_file("a/b", "c0ffee", "x.parquet", "") == tmp_path / "x.parquet"
    assert client == [("a/b", "x.parquet", {"repo_type": "dataset", "revision": "c0ffee"})]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://nowhere.invalid", "nonsense", "http://127.0.0.1:x"])
def test_no_network_is_one_line_before_the_client_tries(client, monkeypatch, endpoint):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(UsageError) as refusal:
        hub.dataset_file("a/b", "main", "x.parquet", "--data DIR takes a copy")
    message = str(refusal.value)
    assert message.startswith(
        f"x.parquet of the data set a/b is not in {constants.HF_HUB_CACHE}, and cannot be fetched from"
    )
    assert endpoint in message and message.endswith("; --data DIR takes a copy") and "\n" not in message
    assert client == []


def test_offline_mode_is_heeded(client, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        hub.dataset_file("a/b", "main", "x.parquet", "")


def test_a_failed_download_is_one_line(server, monkeypatch):
    def download(*what, local_files_only=False, **options):
        raise LocalEntryNotFoundError("") if local_files_only else RuntimeError("404 Not Found\nfor url ...")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(UsageError, match=r"\(404 Not Found\)") as refusal:
        hub.dataset_file("a/b", "main", "x.parquet", "")
    assert "\n" not in str(refusal.value)
