"""Object stores behind the interface of `storage.py`: s3:// to read and write, gs:// to read.

Google's buckets are read without an account, through the S3-compatible interface of Cloud Storage. Endpoint,
credentials and region of s3:// come from where boto3 looks for them (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_PROFILE, an instance's role, ...). A put is atomic, and so is the end of an upload in parts: a reader sees a whole
object or none.
"""

import functools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import urllib3.exceptions
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from victorian.errors import StorageError, TakenError
from victorian.storage import PIECE_BYTES, Entry, check_key, save_pieces

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

GOOGLE = "https://storage.googleapis.com"
MOST_RESUMED = 3
"""How often the rest of an object is asked for that broke off: boto3 repeats a request, and not what fails after it."""
PART_BYTES = 16 * 1024 * 1024
"""Size of the parts of a long upload; S3 takes at least 5 MiB and at most 10,000 of them."""

_making = threading.Lock()

_ADVICE = {
    "NoSuchBucket": "there is no such bucket: make it, or correct its name",
    "NoSuchKey": "there is no such object",
    "404": "there is no such object or bucket",
    "AccessDenied": "access is denied: check the credentials and what they may do",
    "403": "access is denied: check the credentials and what they may do",
    "InvalidAccessKeyId": "the access key is not known there: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired: get a new one",
}
_MISSING = {"NoSuchKey", "404"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


def open_bucket(uri: str, google: str = GOOGLE) -> "BucketStorage":
    """The storage at `s3://bucket/prefix` or `gs://bucket/prefix`; nothing is asked of the store yet.

    Args:
        google: address of Cloud Storage.

    Raises:
        StorageError: if no bucket is named.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not bucket or ".." in prefix.split("/"):
        raise StorageError(f"expected {scheme}://BUCKET/PREFIX, got {uri!r}")
    with _making:  # boto3 makes clients in one thread at a time; once made they serve all
        client = client_for(google if scheme == "gs" else None)
    return BucketStorage(client, scheme, bucket, prefix.strip("/"))


@functools.cache
def client_for(google: str | None) -> "S3Client":
    """One client for each kind of store; StorageError where boto3's settings contradict each other."""
    session = boto3.session.Session()
    common = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32,
    )
    by_path = Config(s3={"addressing_style": "path"})  # other stores than AWS rarely have a host name for every bucket
    try:
        if google:
            unsigned = Config(signature_version=UNSIGNED, response_checksum_validation="when_required")
            options = common.merge(by_path).merge(unsigned)
            return session.client("s3", endpoint_url=google, region_name="auto", config=options)
        client = session.client("s3", config=common)
        if "amazonaws.com" not in client.meta.endpoint_url:
            client = session.client("s3", config=common.merge(by_path))
    except (BotoCoreError, ValueError) as error:
        raise StorageError(f"cannot reach S3: {error}") from error
    return client


class BucketStorage:
    """Objects of one bucket whose names begin with one prefix."""

    def __init__(self, client: "S3Client", scheme: str, bucket: str, prefix: str) -> None:
        self._client = client
        self._scheme = scheme
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def uri(self) -> str:
        return f"{self._scheme}://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        return b"".join(self.read_pieces(key))

    def read_pieces(self, key: str) -> Iterator[bytes]:
        with self._told("read", key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
            body, expected, version, seen = answer["Body"], answer["ContentLength"], answer.get("ETag"), 0
            for left in reversed(range(1 + MOST_RESUMED)):
                try:
                    for piece in body.iter_chunks(PIECE_BYTES):
                        seen += len(piece)
                        yield piece
                    break
                except (BotoCoreError, urllib3.exceptions.HTTPError):
                    if not left or not version or seen == expected:
                        raise
                    body = self._rest(key, seen, version)
        if seen != expected:
            raise StorageError(f"cannot read {self.uri}/{key}: {seen} of {expected} bytes came")

    def _rest(self, key: str, start: int, version: str) -> "StreamingBody":
        """The object from a byte on; StorageError if it is not of that version any more: two are never mixed."""
        rest = f"bytes={start}-"
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key), Range=rest, IfMatch=version)
            same = answer.get("ETag") == version and answer.get("ContentRange", "").startswith(f"bytes {start}-")
        except ClientError as error:
            if _code(error) not in _TAKEN:
                raise
            same = False
        if not same:
            raise StorageError(
                f"cannot read {self.uri}/{key}: it broke off at byte {start} and its rest is not to be had: run again"
            )
        return answer["Body"]

    def write(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        self._may_write(key)
        with self._told("write", key):
            if only_new:
                self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=data, IfNoneMatch="*")
            else:
                self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=data)

    def write_pieces(self, key: str, pieces: Iterable[bytes]) -> str:
        self._may_write(key)
        digest = sha256()
        parts = _regroup(pieces, PART_BYTES)
        first = next(parts, b"")
        second = next(parts, None)
        digest.update(first)
        if second is None:
            self.write(key, first)
            return digest.hexdigest()
        with self._told("write", key):
            upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._name(key))["UploadId"]
        try:
            done = [self._part(key, upload, 1, first)]
            part: bytes | None = second
            while part is not None:
                digest.update(part)
                done.append(self._part(key, upload, len(done) + 1, part))
                part = next(parts, None)
            with self._told("write", key):
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=self._name(key), UploadId=upload, MultipartUpload={"Parts": done}
                )
        except BaseException:
            with self._told("abort the upload of", key):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._name(key), UploadId=upload)
            raise
        return digest.hexdigest()

    def _part(self, key: str, upload: str, number: int, data: bytes) -> "CompletedPartTypeDef":
        with self._told("write", key):
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=self._name(key), UploadId=upload, PartNumber=number, Body=data
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def exists(self, key: str) -> bool:
        try:
            with self._told("read", key):
                self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        except _MissingError:
            self._require_bucket()  # a head request does not say which of the two is missing
            return False
        return True

    def names(self, prefix: str = "") -> list[str]:
        return sorted(entry.key for entry in self._list(prefix))

    def entries(self, folder: str = "") -> list[Entry]:
        return sorted(self._list(f"{folder}/" if folder else "", delimiter="/"), key=lambda entry: entry.key)

    def folders(self, folder: str = "") -> list[str]:
        prefix = self._prefix + (f"{folder}/" if folder else "")
        with self._told("list", folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, Delimiter="/"
            )
            found = [str(item["Prefix"]) for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)

    def _list(self, prefix: str, delimiter: str = "") -> Iterator[Entry]:
        with self._told("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, Delimiter=delimiter
            )
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._prefix)
                    if key and not key.endswith("/"):  # some tools leave empty objects to mark folders
                        yield Entry(key, item["Size"], item["ETag"].strip('"'))

    def delete(self, key: str) -> None:
        self._may_write(key)
        with self._told("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def local_path(self, key: str) -> Path | None:
        check_key(key, self.uri)
        return None

    def download(self, key: str, target: Path) -> None:
        save_pieces(self.read_pieces(key), target)

    def _name(self, key: str) -> str:
        check_key(key, self.uri)
        return self._prefix + key

    def _may_write(self, key: str) -> None:
        if self._scheme == "gs":
            raise StorageError(
                f"cannot write {self.uri}/{key}: gs:// is for reading alone; give s3:// or a local folder"
            )

    def _require_bucket(self) -> None:
        with self._told("find", ""):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _code(error) == "404":
                    raise StorageError(f"cannot find {self.uri}: {_ADVICE['NoSuchBucket']}") from error
                if _code(error) != "403":  # whoever may not ask about a bucket may still read from it
                    raise

    @contextmanager
    def _told(self, action: str, key: str) -> Iterator[None]:
        """What botocore raises, in one line of ours; its messages name keys and codes, never a secret."""
        place = f"{self.uri}/{key}".rstrip("/")
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _TAKEN:
                raise TakenError(f"{place} exists already") from error
            kind = _MissingError if code in _MISSING else StorageError
            raise kind(f"cannot {action} {place}: {_ADVICE.get(code, str(error))}") from error
        except NoCredentialsError as error:
            advice = "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise StorageError(f"cannot {action} {place}: {advice}") from error
        except EndpointConnectionError as error:
            endpoint = self._client.meta.endpoint_url
            raise StorageError(
                f"cannot {action} {place}: nothing answers at {endpoint}; check AWS_ENDPOINT_URL"
            ) from error
        except (BotoCoreError, urllib3.exceptions.HTTPError) as error:
            raise StorageError(f"cannot {action} {place}: {error}") from error


class _MissingError(StorageError):
    """There is nothing of that name."""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _regroup(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last of them shorter."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
