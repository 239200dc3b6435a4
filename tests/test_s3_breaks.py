"""A store whose answers break off: what is left is asked for, and two versions of an object are never mixed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from victorian.errors import StorageError
from victorian.s3 import MOST_RESUMED, BucketStorage

BREAK = 5_000_000
"""Bytes after which an answer breaks off: in the middle of a piece."""


class Breaking(ThreadingHTTPServer):
    """A store of one object, whose first answers break off."""

    def __init__(self, breaks: int, then: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.data = bytes(range(251)) * 100_000
        self.breaks, self.then = breaks, then
        self.ranges: list[str | None] = []

    def storage(self) -> BucketStorage:
        address = f"http://127.0.0.1:{self.server_port}"
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        return BucketStorage(
            boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys), "s3", "books", "x"
        )


class Answer(BaseHTTPRequestHandler):
    server: Breaking

    def do_GET(self) -> None:
        store, asked = self.server, self.headers["Range"]
        store.ranges.append(asked)
        if asked and store.then == "refuses":
            self.send_error(412 if self.headers["If-Match"] == '"1"' else 500)
            return
        start = int(asked[len("bytes=") : -1]) if asked and store.then != "gives the whole" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(store.data) - 1}/{len(store.data)}")
        self.send_header("ETag", '"2"' if asked and store.then == "gives another's" else '"1"')
        self.send_header("Content-Length", str(len(store.data) - start))
        self.end_headers()
        self.close_connection = len(store.ranges) <= store.breaks
        with suppress(ConnectionError):  # of a client that has seen that this is not what it asked for
            self.wfile.write(store.data[start : start + BREAK] if self.close_connection else store.data[start:])

    def log_message(self, *_: object) -> None: ...


Start = Callable[..., Breaking]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def started(breaks: int, then: str = "goes on") -> Breaking:
            store = stack.enter_context(Breaking(breaks, then))
            thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(store.shutdown)
            return store

        yield started


def test_an_object_that_breaks_off_is_gone_on_with_where_it_did(start: Start) -> None:
    store = start(breaks=MOST_RESUMED)
    assert store.storage().read("k") == store.data
    assert store.ranges == [None, *(f"bytes={BREAK * times}-" for times in range(1, 1 + MOST_RESUMED))]


@pytest.mark.parametrize("then", ["refuses", "gives another's", "gives the whole"])
def test_two_versions_of_an_object_are_never_mixed(start: Start, then: str) -> None:
    with pytest.raises(
        StorageError, match=r"s3://books/x/k: it broke off at byte 5000000 and its rest is not to be had: run again"
    ):
        start(1, then).storage().read("k")


def test_an_object_that_breaks_off_again_and_again_is_told(start: Start) -> None:
    store = start(breaks=99)
    with pytest.raises(StorageError, match="cannot read s3://books/x/k: "):
        store.storage().read("k")
    assert len(store.ranges) == 1 + MOST_RESUMED
