"""The documentation's site, built once a session as `make docs` builds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILD = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env", "--quiet", "docs"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built pages. Building fails with the first thing that Sphinx would warn of."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, *BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder
