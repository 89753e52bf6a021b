"""Data that several measures' tests share."""

from pathlib import Path

import pytest

from pipelines import PrepareConfig, SplitConfig, prepare


@pytest.fixture(scope="session")
def labelled_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits at 4x4 and 8x8 with 180 held out; not to be changed."""
    out = tmp_path_factory.mktemp("labelled") / "digits"
    prepare(PrepareConfig(source="digits", out=str(out), resolution=8, workers=1, split=SplitConfig(holdout=180)))
    return out
