"""The kernels' machine code: compiled from `kernels/` once a machine, and kept."""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import torch

from victorian.config import ModelConfig, cache_settings, make_private
from victorian.errors import ConfigError

FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread")
COMPILE_SECONDS = 300
DIGEST_BYTES = 32


def compiler() -> str | None:
    """The C++ compiler that is called, if there is one."""
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def why_not(model: ModelConfig) -> str | None:
    """Why this machine or this network must do without; None if nothing stands in the way."""
    capabilities = torch.cpu.get_capabilities()
    missing = [name for name in ("avx512_f", "avx512_vnni", "avx512_bf16") if not capabilities.get(name)]
    if missing:
        return f"the CPU lacks {', '.join(missing)}"
    if model.head_dim % 16 or model.head_dim > 128:
        return f"heads of {model.head_dim} channels are not a multiple of 16 up to 128"
    return None if compiler() else "there is no C++ compiler: install g++"


def library() -> ctypes.CDLL:
    """The compiled kernels, from the cache or compiled now, which takes some seconds.

    Raises:
        ConfigError: if the compiler fails, with what it said, or there is no place for what it makes.
    """
    try:
        target = library_path()
        try:
            loaded = _load(target)
        except OSError:  # not there yet, or not whole
            _compile(target)
            loaded = _load(target)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"the engine's kernels cannot be compiled here: {error}") from error
    loaded.victorian_new.restype = ctypes.c_void_p
    return loaded


def _load(target: Path) -> ctypes.CDLL:
    """OSError for one that is not whole: a process that loads it would end by a signal."""
    content = target.read_bytes()
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise OSError(f"{target} is damaged")
    return ctypes.CDLL(str(target))


def library_path() -> Path:
    """Where the compiled kernels are or will be: in a folder that this user alone can write.

    Raises:
        ConfigError: if others can write there.
    """
    program = compiler()
    assert program
    said = subprocess.run([program, "-march=native", "-Q", "--help=target"], capture_output=True, timeout=60)
    version = subprocess.run([program, "--version"], capture_output=True, timeout=60)
    # What `native` means, also where a home is shared by machines and the compiler cannot say it.
    abilities = repr(sorted(torch.cpu.get_capabilities().items())).encode()
    parts = [
        " ".join(FLAGS).encode(),
        abilities,
        said.stdout,
        version.stdout,
        *(file.read_bytes() for file in _sources()),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    cache = cache_settings().folder
    folder = cache / "kernels"
    make_private(folder)
    if not (_ours_alone(cache.stat()) and _ours_alone(folder.lstat())):
        raise ConfigError(f"{folder} can be written by others: set VICTORIAN_CACHE to a folder of your own")
    return folder / f"{digest}.so"


def _ours_alone(folder: os.stat_result) -> bool:
    """Whether nobody else can put a file, or a link to one, into a folder."""
    return stat.S_ISDIR(folder.st_mode) and folder.st_uid == os.getuid() and not folder.st_mode & 0o022


def _compile(target: Path) -> None:
    program = compiler()
    assert program
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        for file in _sources():
            (Path(place) / file.name).write_bytes(file.read_bytes())
        made = Path(place) / "network.so"
        command = [program, *FLAGS, "-o", str(made), str(Path(place) / "network.cpp")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"{program} did not compile the kernels in {COMPILE_SECONDS} s") from error
        if done.returncode:
            raise ConfigError(f"{program} could not compile the engine's kernels: {done.stderr.strip()[:2000]}")
        digest = hashlib.sha256(made.read_bytes()).digest()
        with made.open("ab") as whole:  # what stands behind its sections no loader reads
            whole.write(digest)
            whole.flush()
            os.fsync(whole.fileno())
        made.replace(target)


def _sources() -> list[Traversable]:
    folder = resources.files("victorian.engine") / "kernels"
    return sorted((item for item in folder.iterdir() if item.name.endswith("pp")), key=lambda item: item.name)
