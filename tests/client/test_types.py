"""What a type checker says of a program that uses the client, without pydantic's plugin."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

PROGRAM = """
from victorian.client import Answer, AsyncClient, Client
from victorian.config import SamplingParameters
from victorian.errors import ReplicaLostError


def whole() -> tuple[str, int]:
    with Client("http://127.0.0.1:8000", key="k", retries=1, transport="sse") as client:
        answer: Answer = client.complete("It", SamplingParameters(max_tokens=2, stop=("a",), logit_bias={3: 1.0}))
    return answer.text, answer.complete.seed


async def pieces() -> list[str]:
    async with AsyncClient() as client:
        try:
            return [piece async for piece in await client.stream([1, 2], alternatives=1)]
        except ReplicaLostError as error:
            return [error.text]
"""


def test_a_program_that_uses_the_client_passes_a_strict_check(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    checker = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}"]
    check = [*checker, "--follow-imports=silent", "program.py"]  # as of an installed package
    found = subprocess.run(
        check,
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_whoever_installs_the_package_has_its_types() -> None:
    assert (files("victorian") / "py.typed").is_file()
