"""A headless browser for the pages: the one of the page to explore."""

from tests.explore.conftest import browser, shots  # noqa: F401 - fixtures
