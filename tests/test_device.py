"""What hardware there is: the parts that can be asked without having it."""

import time
from pathlib import Path

import pytest
import torch

from victorian.cores import cores
from victorian.device import known_flops, measured_flops


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_container_has_the_cores_that_its_share_of_time_is_worth(
    tmp_path: Path, quota: str, expected: int | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert cores(file) == (expected or cores(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 494e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA H100 NVL", 835e12, 417e12),
        ("NVIDIA H200", 989e12, 494e12),
        ("NVIDIA GH200 480GB", 989e12, 494e12),
        ("NVIDIA A100-SXM4-40GB", 312e12, 156e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 156e12),
        ("NVIDIA A10G", 70e12, 35e12),
        ("NVIDIA L40S", 362e12, 183e12),
        ("NVIDIA L40", 181e12, 90e12),
        ("NVIDIA L4", 121e12, 60e12),
        ("Tesla V100-SXM2-16GB", None, 15.7e12),
        ("Tesla T4", None, 8.1e12),
        ("NVIDIA T400 4GB", None, None),
        ("NVIDIA A10", None, None),
    ],
)
def test_an_accelerator_has_the_speed_of_its_own_data_sheet(name: str, bf16: float | None, fp32: float | None) -> None:
    assert known_flops(name, torch.bfloat16) == bf16
    assert known_flops(name, torch.float32) == fp32


def test_what_a_library_does_before_its_first_product_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Matrix:
        first = True

        def __matmul__(self, other: "Matrix") -> None:
            time.sleep(0.3 if Matrix.first else 0.01)
            Matrix.first = False

    monkeypatch.setattr(torch, "randn", lambda *_, **__: Matrix())
    assert measured_flops(torch.device("cpu"), torch.float32, size=100) > 2 * 100**3 / 0.1
