"""A real S3 server on loopback: SeaweedFS, on ports, keys and a folder of its own."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.ports import free_ports
from victorian.s3 import client_for

WEED = str(Path(sys.executable).parent / "weed")
PUBLIC = "public"
"""A bucket that anybody may read."""


class ObjectStore:
    """The server. It can be killed and started again with what it held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ports = free_ports(8)
        self._ports = dict(zip(("master", "volume", "filer", "s3"), ports[:4], strict=True))
        self._grpc_ports = dict(zip(self._ports, ports[4:], strict=True))
        self.key, self.secret = secrets.token_hex(8), secrets.token_hex(16)
        owner = {"name": "tests", "credentials": [{"accessKey": self.key, "secretKey": self.secret}]}
        identities = [
            owner | {"actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
        ]
        self._config = folder / "s3.json"
        self._config.touch(mode=0o600)
        self._config.write_text(json.dumps({"identities": identities}))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to work with it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> str:
        """Makes a bucket; its address."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def client(self):  # type: ignore[no-untyped-def]  # boto3 makes the class
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            WEED, "server", "-s3", "-filer", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}",
            f"-master.port={self._ports['master']}", f"-volume.port={self._ports['volume']}",
            f"-filer.port={self._ports['filer']}", f"-s3.port={self._ports['s3']}", f"-s3.config={self._config}",
            *(f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()),
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # ports of fixed numbers that it would open as well
            "-volume.max=50", "-master.volumeSizeLimitMB=64",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True)
        end = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it and remove what it leaves outside its folder."""
        self.kill()
        for port in [*self._ports.values(), *self._grpc_ports.values()]:
            for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """The server, and this process's environment set for it."""
    store = ObjectStore(Path(tempfile.mkdtemp(prefix="vs3-")))
    store.start()
    before = dict(os.environ)
    os.environ.update(store.environment)
    client_for.cache_clear()
    try:
        yield store
    finally:
        os.environ.clear()
        os.environ.update(before)
        client_for.cache_clear()
        store.close()
