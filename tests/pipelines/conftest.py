"""Pictures to prepare: drawn ones, and real ones where they lie beside the project."""

from collections.abc import Callable
from pathlib import Path

from drawing import fill
import pytest

from pipelines import PrepareConfig, Shards, prepare

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 JPEG files, 150x140; not to be changed."""
    return fill(tmp_path_factory.mktemp("photos"), 30)


@pytest.fixture(scope="session")
def prepared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """`photos` at 4..128 with 5 held out, 7 a shard; not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(PrepareConfig(path=str(photos), out=str(out), resolution=128, images_per_shard=7, holdout=5, workers=1))
    return Shards.open(out)


@pytest.fixture(scope="session")
def faces() -> Path:
    """Real 1024x1024 faces."""
    folder = SHARED / "faces1024"
    if not folder.is_dir():
        pytest.skip("real faces are not here: they lie in ../shared/data/faces1024")
    return folder


@pytest.fixture
def one_line() -> Callable[[BaseException], str]:
    """Checks that an error is one line, and gives it."""

    def check(error: BaseException) -> str:
        assert "\n" not in str(error)
        return str(error)

    return check
