"""What hardware there is: the parts that can be asked without having it."""

from pathlib import Path

import pytest

from victorian.cores import cores


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_container_has_the_cores_that_its_share_of_time_is_worth(
    tmp_path: Path, quota: str, expected: int | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert cores(file) == (expected or cores(tmp_path / "none"))
