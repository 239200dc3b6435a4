"""The command line: help with defaults and units, one line for a user's mistake, the verbs that need no cluster."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_service import Service
from victorian.artifact import PRETRAINED, find_artifact
from victorian.cli import main

VERBS = ["demo", "prepare", "train", "evaluate", "generate", "serve", "drain", "key", "app", "ask", "export", "recipe"]


def victorian(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "victorian"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def here(*arguments: str, cwd: Path | str = ".") -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported what a new one takes seconds to import."""
    printed, complaint, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(cwd):
        patch.setattr(sys, "argv", ["victorian", *arguments])
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
    return subprocess.CompletedProcess(["victorian", *arguments], code, printed.getvalue(), complaint.getvalue())


def told(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that must fail for a reason of the user's says."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("victorian: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_defaults(verb: str) -> None:
    done = here(verb, "--help")
    assert done.returncode == 0
    assert f"victorian {verb}" in done.stdout
    assert "(default: " in done.stdout


def test_help_gives_units_and_the_recipes_own_defaults() -> None:
    tiny, large = (here("train", "--recipe", name, "--help").stdout for name in ("tiny", "gpt2-124m"))
    assert "Tokens of one optimizer step over all workers. (default: 524288)" in " ".join(
        large.replace("│", "").split()
    )
    assert "(default: 4096)" in tiny
    assert "in tokens" in " ".join(tiny.replace("│", "").split())


def test_the_flag_that_evaluate_advises_is_one_of_prepare() -> None:
    assert "--cleaning.no-held-out" in here("prepare", "--help").stdout.replace("\n", "")


def test_without_a_verb_the_verbs_are_listed() -> None:
    done = victorian()
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


def test_recipe_prints_what_would_be_run() -> None:
    printed = json.loads(here("recipe", "gpt2-124m", "--model.layers", "3", "--training.seed=5").stdout)
    assert (printed["name"], printed["model"]["layers"], printed["training"]["seed"]) == ("gpt2-124m", 3, 5)
    assert printed["training"]["tokens_per_step"] == 524_288
    assert json.loads(here("recipe").stdout)["name"] == "tiny"


def test_verify_reads_a_data_set_back_and_names_what_is_damaged(toy_data: Path, tmp_path: Path) -> None:
    done = here("prepare", "--verify", str(toy_data))
    assert done.returncode == 0, done.stderr
    assert "train: 12 books" in done.stdout
    assert f"{toy_data} is whole" in done.stdout
    copy = Path(shutil.copytree(toy_data, tmp_path / "copy"))
    data = bytearray((copy / "train-00001.npy").read_bytes())
    data[1000] ^= 1
    (copy / "train-00001.npy").write_bytes(data)
    assert "train-00001.npy is damaged" in told(victorian("prepare", "--verify", str(copy)))


@pytest.mark.parametrize(("flag", "other"), [("steps", "seconds"), ("seconds", "steps")])
def test_a_budget_by_flag_replaces_the_recipes_other_kind(flag: str, other: str) -> None:
    for name in ("tiny", "gpt2-124m"):
        training = json.loads(here("recipe", name, f"--training.{flag}", "7").stdout)["training"]
        assert (training[flag], training[other]) == (7, None)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["recipe", "huge"],
            "no recipe is called 'huge'; there are tiny, small, small-tune, gpt2-124m, gpt2-124m-muon",
        ),
        (["train", "--recipe", "huge"], "no recipe is called 'huge'"),
        (["recipe", "--model.heads", "7"], "256 channels cannot be shared by 7 heads"),
        (["recipe", "--model.dropout", "1.5"], "less than 1"),
        (["prepare", "sample"], "prepare wants a source and --output"),
        (["prepare", "sample", "--output", "out", "--verify", "out"], "give it without a source"),
        (["prepare", "--verify", "nowhere"], "is not a token data set"),
        (["prepare", "hf:deepmind/pg19", "--output", "out"], "hf:emozilla/pg19"),
        (["prepare", "s3:///x", "--output", "out"], "expected s3://BUCKET/PREFIX"),
        (["recipe", "--selection.first-year", "1900", "--selection.last-year", "1800"], "comes after the last"),
        (["recipe", "--nonsense"], "Unrecognized options: --nonsense"),
        (["recipe", "--model.layers", "many"], "invalid literal for int"),
        (["recipe", "--optimizer.clip", "inf"], "finite number"),
        (["recipe", "--training.steps=0"], "victorian: --training.steps: Input should be greater than or equal to 1"),
        (["recipe", "--selection.least_words", "0"], "victorian: --selection.least-words: Input should be greater"),
        (["report", "run", "--output", "pages/"], "expected the name of a file in --output, got the folder 'pages/'"),
        (["plan", "--machines", "0"], "expected at least one machine, got 0"),
        (["plan", "--price-per-hour", "-5"], "expected a price per hour of 0 or more, got -5"),
        (["recipe", "--training.seed", "3", "small"], "name the recipe before its flags"),
        (["demo", "--training.tokens-per-step", "1000"], "not whole windows of 512"),
        (["demo", "--from-scratch", "--training.tokens-per-step", "1000"], "not whole windows of 256"),
        (["demo", "--recipe", "tiny"], "another shape than the recipe tiny (layers: 4, not 6;"),
        (["demo", "--port", "8123", "--app-port", "8123"], "cannot share port 8123"),
        (["app", "--port", "99999"], "expected a port from 1 to 65535, got 99999"),
        (["app", "--port", "0"], "expected a port from 1 to 65535, got 0"),
        (["serve", "--artifact", "pretrained", "--port", "0"], "expected a port from 1 to 65535, got 0"),
        (["sing"], "Unrecognized options: sing"),
        (["prepare", "sample"], "--output"),
        (["generate", "--temperature", "9"], "--temperature: Input should be less than or equal to 2, got 9.0"),
        (["generate", "--artifact", "nowhere"], "no trained model in nowhere"),
        (["evaluate", "nowhere", "--data", "x"], "no trained model in nowhere"),
        (["serve", "--artifact", "nowhere"], "no trained model in nowhere"),
        (["export", "nowhere", "--output", "out"], "no trained model in nowhere"),
        (["export", "pretrained", "--output", "out", "--format", "gguf"], "name ends in .gguf, got 'out'"),
        (["export", "pretrained", "--output", "out", "--precision", "q8_0"], "no weights in q8_0: take fp32, bf16"),
        (["ask", "--url", "localhost"], "expected an address like"),
        (["ask", "--url", "http://127.0.0.1:9"], "no service answers at"),
        (["demo", "--corpus", "nowhere", "--port", "18023", "--app-port", "18024"], "no corpus at 'nowhere'"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: list[str], reason: str, tmp_path: Path) -> None:
    assert reason in told(here(*arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_ports_in_use_are_told_before_anything_starts(service: Service, toy_artifact: Path, tmp_path: Path) -> None:
    port = service.url.rpartition(":")[2]
    for arguments in (["serve", "--artifact", str(toy_artifact)], ["demo"], ["app"]):
        assert f"port {port} of 127.0.0.1 is taken" in told(here(*arguments, "--port", port, cwd=tmp_path))
    assert "is taken" in told(here("demo", "--app-port", port, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_generate_continues_a_text_without_a_service(toy_artifact: Path) -> None:
    arguments = ["generate", "It was", "--artifact", str(toy_artifact), "--max-tokens", "20", "--seed", "3"]
    first, second = victorian(*arguments), here(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith("It was")
    assert len(first.stdout) > 20
    assert "the model sees 64" in told(here("generate", "word " * 100, "--artifact", str(toy_artifact)))


def test_generate_has_a_model_where_nothing_was_trained(tmp_path: Path) -> None:
    done = here("generate", "It was", "--max-tokens", "20", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("It was")
    assert done.stderr == "victorian: nothing was trained in runs yet: this is the package's own model\n"


def test_who_copies_or_judges_the_packages_own_model_is_told_so(tmp_path: Path) -> None:
    own = "victorian: nothing was trained in runs yet: this is the package's own model\n"
    assert here("export", "runs", "--output", "copy", cwd=tmp_path).stderr == own
    assert here("export", "pretrained", "--output", "copy", cwd=tmp_path).stderr == ""
    assert here("export", find_artifact(PRETRAINED), "--output", "copy", cwd=tmp_path).stderr == ""


def test_export_halves_a_model(toy_artifact: Path, tmp_path: Path) -> None:
    done = here("export", str(toy_artifact), "--output", str(tmp_path / "small"))
    assert done.returncode == 0, done.stderr
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (toy_artifact, tmp_path / "small")]
    assert sizes[1] < 0.6 * sizes[0]
    assert here("generate", "It was", "--artifact", str(tmp_path / "small"), "--max-tokens", "5").returncode == 0


def test_export_spoils_nothing_that_is_there(toy_artifact: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_artifact, run / "artifact")
    (run / "recipe.json").write_text("that of the run")
    assert "holds other files (artifact): choose an empty" in told(
        here("export", "run", "--output", "run", cwd=tmp_path)
    )
    itself = here("export", "run", "--output", "run/../run/artifact", cwd=tmp_path)
    assert "is the model that is to be copied" in told(itself)
    assert (run / "recipe.json").read_text() == "that of the run"
    assert (run / "artifact" / "model.safetensors").read_bytes() == (toy_artifact / "model.safetensors").read_bytes()
    for _ in range(2):  # a copy may be made again, and have a card by then
        assert here("export", "run", "--output", "copy", cwd=tmp_path).returncode == 0
        (tmp_path / "copy" / "README.md").write_text("a card")
    (tmp_path / "copy" / "training.json").unlink()  # as where one was interrupted
    (tmp_path / "copy" / ".git").mkdir()
    assert here("export", "run", "--output", "copy", cwd=tmp_path).returncode == 0
    for place in ("run/artifact", "run/best/step-00000005"):
        within = here("export", "pretrained", "--output", place, cwd=tmp_path)
        assert f"{place} lies in the run or the model {run}: choose another" in told(within)


def test_export_writes_a_file_for_llama_cpp(toy_artifact: Path, tmp_path: Path) -> None:
    arguments = ["--format", "gguf", "--precision", "q8_0", "--output", "toy.gguf"]
    done = here("export", str(toy_artifact), *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.gguf"]
    assert (tmp_path / "toy.gguf").read_bytes()[:4] == b"GGUF"


def test_generate_says_that_an_artifact_is_damaged(toy_artifact: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_artifact, tmp_path / "artifact"))
    (copy / "model.safetensors").write_bytes(b"cut")
    assert "model.safetensors is damaged" in told(here("generate", "x", "--artifact", str(copy)))


def test_ask_streams_to_the_terminal(service: Service, toy_artifact: Path) -> None:
    arguments = ["--max-tokens", "20", "--seed", "3"]
    done = victorian("ask", "It was", "--url", service.url, *arguments)
    assert done.returncode == 0, done.stderr
    generated = here("generate", "It was", "--artifact", str(toy_artifact), *arguments)
    assert "It was" + done.stdout == generated.stdout


def test_an_output_that_is_full_is_one_line() -> None:
    command = [str(Path(sys.executable).parent / "victorian"), "recipe"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "victorian: cannot write the output: No space left on device\n")


def test_ask_can_be_piped_into_something_that_stops_reading(service: Service) -> None:
    bin_folder = Path(sys.executable).parent
    command = f"{bin_folder}/victorian ask It --url {service.url} --max-tokens 2000 | head -c 50"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert len(done.stdout) == 50
    assert service.idle()


def test_a_job_refuses_relative_paths() -> None:
    from victorian.command_line import refuse_relative_paths
    from victorian.errors import ConfigError

    refuse_relative_paths(["sample", "--output", "/x", "--data=s3://bucket/y"])
    for arguments in (["--output", "x"], ["--data=x"], ["--run", "./x"]):
        with pytest.raises(ConfigError, match="give an absolute path"):
            refuse_relative_paths(arguments)
