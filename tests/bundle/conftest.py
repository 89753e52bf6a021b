"""The small bundle and the pictures of tests/sampling, and bundles that are checked without importing torch anew each time."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from hires.bundle import writing
from tests.sampling.conftest import sampler, save_pictures  # noqa: F401 - fixtures


@pytest.fixture(scope="session", autouse=True)
def checks_are_forked(forks, clean_env) -> Iterator[None]:
    """The process that checks a bundle is one of `forks`; tests/bundle/test_writing.py has a real one too."""
    with pytest.MonkeyPatch.context() as patched:

        def run(command: list[str], cwd: str, **_):
            return forks.run(command, env=clean_env, cwd=cwd, timeout=200)

        patched.setattr(writing, "subprocess", SimpleNamespace(run=run))
        yield
