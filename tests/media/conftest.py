"""The small bundle and the pictures of tests/sampling."""

from tests.sampling.conftest import sampler, save_pictures  # noqa: F401 - fixtures
