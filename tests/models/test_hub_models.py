"""Models of a hub: downloaded from one that answers, read again without one, refused at once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from polopt.errors import ModelError
from polopt.hub import answers
from polopt.models import load, save

NOWHERE = "http://127.0.0.1:9"  # nobody listens there


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a model needs: ``/org/model/resolve/main/FILE``."""

    files: Path

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        _, owner, name, *rest = self.path.removeprefix("/api/models").split("/")
        file = self.files / rest[-1] if rest else self.files
        error = None if (owner, name) == ("org", "model") else "RepoNotFound"
        if error is None and not (rest[:1] == ["resolve"] and file.is_file()):
            error = "EntryNotFound"
        content = b"" if error else file.read_bytes()
        self.send_response(404 if error else 200)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


@pytest.fixture
def endpoint(tmp_path: Path) -> Generator[str]:
    save(load("builtin:tiny", seed=3), tmp_path / "files")
    handler = type("Mine", (Hub,), {"files": tmp_path / "files"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOAD = """
import sys
from polopt.errors import ModelError
from polopt.models import load, read
try:
    weight = load(sys.argv[1]).model.get_input_embeddings().weight[3, 4].item()
    print(weight, read(sys.argv[1]).context)
except ModelError as error:
    print(error)
"""


def loaded(name: str, endpoint: str, home: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name],
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), **more},
        capture_output=True, text=True, timeout=120, check=True, cwd=home,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.strip()


def test_downloaded_once_and_read_without_the_hub(endpoint: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    weight = load("builtin:tiny", seed=3).model.get_input_embeddings().weight[3, 4].item()
    whole = f"{weight} 256"
    assert loaded("org/model", endpoint, home) == whole
    assert loaded("org/model", NOWHERE, home) == whole
    assert loaded("org/model", endpoint, home, HF_HUB_OFFLINE="1") == whole
    assert loaded("org/other", endpoint, home) == (
        "model.path: 'org/other' is no directory and no model of the hub that you may read"
    )


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(tmp_path: Path) -> None:
    """Before a run directory is made, and without a line of whoever asked."""
    (tmp_path / "modell" / "qwen").mkdir(parents=True)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'algorithm = "sft"\n[model]\npath = "far/model"\n[data]\nsource = "task:chain_sum"\n'
    )
    began = time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).with_name("polopt"), "train", recipe],
        env=os.environ | {"HF_ENDPOINT": NOWHERE, "HF_HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: model.path: 'far/model' is no directory, and the hub cannot be asked for it: ["
    )
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - began < 20  # retries alone took 50 s
    assert not (tmp_path / "runs").exists()


def _http(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "refused")
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("RevisionNotFoundError", "has no revision 'v9'; model.revision is a commit, branch or "
         "tag"),
        ("GatedRepoError", "is gated; ask for access on its page, then log in: hf auth login"),
        ("RepositoryNotFoundError", "is no directory and no model of the hub that you may read; "
         "did you mean qwen/base?"),
        ("OfflineModeIsEnabled", "is no directory, and the hub cannot be asked for it: refused; "
         "did you mean qwen/base?"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_line(
    error: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qwen" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise _http(getattr(huggingface_hub.errors, error))

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(ModelError) as caught:
        answers("critic.path", "qwin/base", "v9")
    assert str(caught.value) == f"critic.path: 'qwin/base' {line}"


def test_what_has_no_configuration_is_left_to_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise _http(huggingface_hub.errors.RemoteEntryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    assert answers("model.path", "org/adapter")
