"""What tests of the client share."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def same_main_module() -> Iterator[None]:
    """Streamlit's test harness makes the page that it runs `__main__`, which processes spawned later would import."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
