"""The loader decodes; it does not decide: a run is the same run with each, and from a web server."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import json
from pathlib import Path
import threading

import pytest


def metrics(run: Path) -> list[dict]:
    """The run's lines of losses, without what depends on the clock."""
    lines = [line for text in (run / "metrics.jsonl").read_text().splitlines() if "resolution" in (line := json.loads(text))]
    return [{name: value for name, value in line.items() if name not in ("seconds_per_kimg", "eta_seconds", "memory_gb")} for line in lines]


@pytest.fixture(scope="module")
def reference(hires, tiny, tmp_path_factory) -> Path:
    """A run on the shards' folder, begun when the default loader was called webdataset, ended with today's."""
    run = tmp_path_factory.mktemp("reference") / "run"
    for settings in (["data.loader=webdataset", "train.max_images=64"], []):
        done = hires("train", *tiny, *settings, f"run={run}")
        assert done.returncode == 0, done.stderr
    return run


def test_dali_trains_to_the_same_losses(hires, tiny, tmp_path, reference):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 'hires[dali-cuda13]'")
    done = hires("train", "loader=dali", *tiny, f"run={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert len(metrics(reference)) >= 5 and metrics(tmp_path / "run") == metrics(reference)
    assert "loader: dali" in (tmp_path / "run" / "config.yaml").read_text()


def test_shards_of_a_web_server_train_to_the_same_losses(hires, tiny, digits, tmp_path, reference):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(digits)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        remote = f"data.root=http://127.0.0.1:{server.server_port}"
        overrides = [remote, "data.cache_gb=0", f"data.remote_cache={tmp_path / 'cache'}", f"run={tmp_path / 'run'}"]
        done = hires("train", *[setting for setting in tiny if not setting.startswith("data.root=")], *overrides)
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "run") == metrics(reference)


def test_an_unknown_loader_is_refused_before_anything_is_written(hires, tiny, tmp_path):
    done = hires("train", *tiny, "data.loader=ffcv", f"run={tmp_path / 'run'}")
    assert done.returncode == 1 and "loader=ffcv: unknown; wanted pillow or dali" in done.stderr
    assert not (tmp_path / "run").exists()
