"""The small players of tests/training."""

from tests.training.conftest import make_player, trained  # noqa: F401 - fixtures
