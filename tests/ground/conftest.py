"""Small players, as the training tests make them."""

from tests.training.conftest import make_player  # noqa: F401 - a fixture
