"""The file of keys: what it may hold, who may write it, and that it may change."""

import logging
from pathlib import Path

import pytest

from tests.running_service import soon
from victorian.config import service_keys
from victorian.errors import ConfigError
from victorian.service.keys import MAX_KEYS, Key, Keyring, make_key, read_keys

HASH = "sha256:" + "0" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.touch(mode=0o600)
    return made


def found(ring: Keyring, secret: str) -> Key:
    key = ring.find(secret)
    assert key is not None
    return key


def test_a_key_that_was_made_is_found_with_its_name_and_scopes(file: Path) -> None:
    secret, line = make_key("alice", ["admin", "generate"])
    other, other_line = make_key("bob", ["generate"])
    file.write_text(f"# who may write\n\n{line}  # since May\n{other_line}\n")
    ring = Keyring(str(file))
    assert (found(ring, secret).name, found(ring, secret).scopes) == ("alice", {"admin", "generate"})
    assert (found(ring, other).name, found(ring, other).scopes) == ("bob", {"generate"})
    for wrong in ("", secret[:-1], secret.upper(), line.split()[2], line.split()[2].removeprefix("sha256:")):
        assert ring.find(wrong) is None


def test_a_key_has_256_random_bits_and_its_line_does_not_hold_it() -> None:
    made = [make_key("alice", ["generate"]) for _ in range(100)]
    assert len({secret for secret, _ in made}) == 100
    assert all(len(secret) == len("vk-") + 43 for secret, _ in made)  # 6 bits a letter
    assert not any(secret in line for secret, line in made)


def test_a_keys_hash_is_not_told_by_accident() -> None:
    (key,) = read_keys(f"alice generate {HASH}", "here")
    assert "0000" not in repr(key)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("alice generate", "got 2 words"),
        (f"alice generate {HASH} now", "got 4 words"),
        (f"al/ice generate {HASH}", "a name has 1 to 64 letters"),
        (f"{'a' * 65} generate {HASH}", "a name has 1 to 64 letters"),
        (f"alice write {HASH}", "scopes are generate, admin"),
        (f"alice generate,,admin {HASH}", "scopes are generate, admin"),
        ("alice generate vk-plain", "the hash is no SHA-256"),
        (f"alice generate {HASH.upper()}", "the hash is no SHA-256"),
        (f"bob generate {HASH}", "bob has a key already"),
    ],
)
def test_a_line_that_is_no_key_is_told_by_its_number_alone(line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"the file, line 3: .*{reason}") as caught:
        read_keys(f"\nbob generate {HASH}\n{line}\n", "the file")
    assert not set(line.split()[2:]) & set(str(caught.value).split())


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"{MAX_KEYS} is the limit"):
        read_keys("\n".join(f"name{number} generate {HASH}" for number in range(MAX_KEYS + 1)), "here")


@pytest.mark.parametrize(
    ("name", "scopes", "reason"), [("a b", ["admin"], "got 'a b'"), ("alice", [], "opens nothing")]
)
def test_a_key_for_nobody_or_nothing_is_not_made(name: str, scopes: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_key(name, scopes)  # type: ignore[arg-type]  # as it comes from a command line


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match=r"others could add keys to .*: `chmod go-w"):
        Keyring(str(file))


def test_a_file_that_is_not_there_or_is_no_text_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Keyring(str(file.with_name("others")))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read: it is no text"):
        Keyring(str(file))


def test_an_empty_file_lets_nobody_in(file: Path) -> None:
    ring = Keyring(str(file))
    assert ring.on
    assert ring.find("anything") is None
    assert not Keyring().on


def test_the_environment_gives_keys_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make_key(name, ["generate"]) for name in ("alice", "bob", "carol")]
    file.write_text(made[0][1])
    monkeypatch.setenv("VICTORIAN_KEYS", f"{made[1][1]}; {made[2][1]};")
    ring = Keyring(str(file), service_keys())
    assert [found(ring, secret).name for secret, _ in made] == ["alice", "bob", "carol"]
    monkeypatch.setenv("VICTORIAN_KEYS", made[0][1])
    with pytest.raises(ConfigError, match="both have a key for alice"):
        Keyring(str(file), service_keys())


def test_a_changed_file_is_noticed_and_a_broken_one_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (alice, line), (bob, other) = make_key("alice", ["generate"]), make_key("bob", ["generate"])
    file.write_text(line)
    ring = Keyring(str(file))
    key = found(ring, alice)
    file.write_text("alice generate\n")
    with caplog.at_level(logging.ERROR):
        assert soon(lambda: ring.find(alice) is not None and "keys are those that were read before" in caplog.text)
    file.write_text(other)
    assert soon(lambda: ring.find(bob) is not None)
    assert ring.find(alice) is None
    assert not ring.knows(key)
