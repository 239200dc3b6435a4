"""What the tests of corpora share."""

from pathlib import Path

import pytest

from victorian.corpus.row_groups import FOLDER


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where row groups are kept, in a folder of the test's own."""
    monkeypatch.setenv("VICTORIAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER
