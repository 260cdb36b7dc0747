"""Bad input is rejected before anything starts, with the value, the remedy and exit code 2."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from typer.testing import CliRunner

from cluster.cli.main import app, main
from tests.support.models import smollm2_directory


@pytest.fixture(scope="module")
def directory() -> str:
    return str(smollm2_directory())


def placed(arguments: list[str]) -> list[str]:
    """Return arguments with a file of prompts in the place of PROMPTS."""
    prompts = str(Path(__file__).resolve().parents[2] / "data" / "prompts.jsonl")
    return [prompts if argument == "PROMPTS" else argument for argument in arguments]


def refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """Run the command line, expect exit code 2 and return what it complains about."""
    monkeypatch.setattr("sys.argv", ["paceline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return " ".join(output.err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tp", "10"], "--tp is 10: .* 9 query heads"),
        (["--set", "models.drafter_tp=0"], "--set models.drafter_tp is 0"),
        (["--temperature", "-1"], "--temperature is -1.0: it must be at least 0"),
        (
            ["--set", "decode.top_p=1.5"],
            "--set decode.top_p is 1.5: it must be at least 0 and at most 1",
        ),
        (["--mode", "fast"], "--mode is 'fast': choose one of autoregressive, speculative, pearl"),
        (["--set", "decode.verifier=none"], "decode.verifier is 'none': choose one of match"),
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--set", "decode.draft_length=-2"], "decode.draft_length is -2"),
        (["--set", "models.cache_tokens=2000000000"], "not enough memory: .* GiB are available"),
        (["--set", "models.threads=0"], "--set models.threads is 0"),
        (["--set", "models.max_batch=0"], "--set models.max_batch is 0: it must be at least 1"),
        (["--set", "models.draft_wait_s=0"], "models.draft_wait_s is 0.0: it must be above 0"),
        (
            ["--set", "models.weights=int2"],
            "models.weights is 'int2': choose one of auto, float32, bfloat16",
        ),
        (["--set", "models.device=tpu"], "--set models.device is 'tpu'"),
        (["--device", "cuda"], "--set models.device"),
        (
            ["--set", "models.link=nccl"],
            "--set models.link is nccl, which needs --set models.device=cuda",
        ),
        (["--set", "models.group_backend=mpi"], "models.group_backend is 'mpi'"),
        (
            ["--set", "models.place.target=here"],
            "models.place.target is 'here': choose one of auto, pack, spread",
        ),
        (["--drafter", "target:layers=5-40"], "'5-40': name layers 0 to 29"),
        (["--drafter", "target:heads=1"], "write target:layers=0-3,28-29"),
        (["--drafter", "./nowhere"], "./nowhere does not exist"),
    ],
)
def test_a_bad_option_is_rejected(
    arguments: list[str],
    words: str,
    directory: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ["generate", "--target", directory, "--prompt", "hi", *arguments]
    printed = refusal(capsys, monkeypatch, *given)
    assert re.search(words, printed), printed


def test_a_missing_target_is_rejected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = refusal(capsys, monkeypatch, "generate", "--target", "./nope", "--prompt", "hi")
    assert "./nope does not exist" in printed
    assert "no target" in refusal(capsys, monkeypatch, "generate", "--prompt", "hi")


def test_damaged_and_foreign_checkpoints_are_rejected(
    directory: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(directory, cut, ignore=shutil.ignore_patterns("*.safetensors"))
    with (Path(directory) / "paceline.safetensors").open("rb") as whole:
        (cut / "paceline.safetensors").write_bytes(whole.read(1_000_000))
    printed = refusal(capsys, monkeypatch, "generate", "--target", str(cut), "--prompt", "hi")
    assert "truncated or corrupt" in printed
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    printed = refusal(capsys, monkeypatch, "generate", "--target", str(foreign), "--prompt", "hi")
    assert (
        "'gpt2' is not supported; these are: gemma3_text, llama, mistral, qwen2, qwen3" in printed
    )


def test_a_drafter_with_another_vocabulary_is_rejected(
    directory: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other, ignore=shutil.ignore_patterns("*.safetensors"))
    (other / "paceline.safetensors").symlink_to(Path(directory) / "paceline.safetensors")
    Tokenizer(models.WordLevel({"hi": 0, "ho": 1}, unk_token="hi")).save(
        str(other / "tokenizer.json")
    )
    given = ["generate", "--target", directory, "--drafter", str(other), "--prompt", "hi"]
    printed = refusal(capsys, monkeypatch, *given)
    assert "the drafter has another vocabulary" in printed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ('{"prompt": "a"}\n{"prompt": oops}\n', "line 2: not JSON"),
        ('{"prompt": "' + "word " * 9000 + '"}\n', "the context of .* holds 8192: shorten"),
        ('{"instruction": "a"}\n', "line 1: .*instruction.*prompt"),
    ],
)
def test_bad_prompt_files_are_rejected(
    content: str,
    words: str,
    directory: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    given = ["generate", "--target", directory, "--prompts", str(file)]
    printed = refusal(capsys, monkeypatch, *given)
    assert re.search(words, printed), printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--virtual", "target=40,draft=8ms,alpha=0.8"], "'40' is not a duration"),
        (["--virtual", "target=40ms,draft=8ms"], "missing"),
        (["--virtual", "target=40ms,draft=8ms,alpha=1.8"], "alpha and beta must be in"),
        (
            ["--virtual", "target=40ms,draft=8ms,alpha=.8", "--modes", "fast"],
            "--modes[0] is 'fast': choose one of autoregressive",
        ),
        (["--virtual", "target=40ms,draft=8ms,alpha=.8", "--tp", "one"], "--tp[0] is 'one'"),
        (["--virtual", "target=40ms,draft=8ms,alpha=.8", "--repeats", "0"], "--repeats is 0"),
        (["--target", "smollm2-135m", "--baseline", "vllm"], "--baseline[0] is 'vllm'"),
    ],
)
def test_a_bad_benchmark_is_rejected(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert words in refusal(capsys, monkeypatch, "bench", "decode", *arguments)


LAYERS = ["bench", "layer-parallel", "--set", "input.prompt=x", "--drafter"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["draft", "train", "--out", "x"],
            "no prompts to learn from: give --prompts or --free-prompts",
        ),
        (["draft", "train", "--out", "x", "--free-prompts", "-1"], "--free-prompts is -1"),
        (["draft", "train", "--out", "x", "--prompts", "none.jsonl"], "none.jsonl does not exist"),
        (["draft", "train", "--out", "x", "--free-prompts", "9", "--steps", "0"], "--steps is 0"),
        (
            ["draft", "train", "--out", "x", "--free-prompts", "9", "--set", "init_layers=0,5,29"],
            "--set init_layers names 3 layers, --layers is 2",
        ),
        (
            ["draft", "train", "--out", "x", "--free-prompts", "9", "--set", "divergence=mse"],
            "--set divergence is 'mse': choose one of forward-kl",
        ),
        (
            ["draft", "train", "--out", "x", "--free-prompts", "9", "--head-vocab", "99999"],
            "--head-vocab is 99999: .* has 49152 tokens",
        ),
        (["draft", "index", "none.txt", "--out", "x"], "FILES none.txt does not exist"),
        (
            ["draft", "eval", "lookup", "--prompts", "PROMPTS", "--mode", "fast"],
            "--mode is 'fast': choose one of autoregressive, speculative",
        ),
        (
            ["draft", "eval", "lookup:bigram", "--prompts", "PROMPTS"],
            "look-up source 'bigram' is not known",
        ),
        (
            ["draft", "eval", "lookup:store=nowhere", "--prompts", "PROMPTS"],
            "nowhere is no store of texts: make one with",
        ),
        (["draft", "eval", "lookup", "--prompts", "PROMPTS", "--plot", "x.pdf"], "ends in .png"),
        (["serve", "--listen", "50051"], "--listen is '50051': write HOST:PORT"),
        (["serve", "--token-file", "none"], "--token-file none does not exist"),
        (
            ["serve", "--listen", "127.0.0.1:0", "--tls-key", "PROMPTS"],
            "--tls-key needs --tls-cert: give both",
        ),
        (["serve", "--set", "max_tokens=0"], "--set max_tokens is 0"),
        (["serve", "--replicas", "0"], "--replicas is 0: it must be at least 1"),
        (
            ["serve", "--listen", "127.0.0.1:0", "--drafters", "4", "--set", "max_drafters=1"],
            "--drafters is 4, above --set max_drafters 1",
        ),
        (["serve", "--set", "step_limit_s=0"], "--set step_limit_s is 0.0: it must be above 0"),
        (["serve", "--mode", "fast"], "--mode is 'fast': choose one of autoregressive"),
        (
            ["draft", "follow", ".", "--out", "nowhere"],
            "--out nowhere holds no trained drafter",
        ),
        (
            ["draft", "follow", ".", "--out", "nowhere", "--window", "3"],
            "--window is 3",
        ),
        (
            ["draft", "train", "--out", "d", "--free-prompts", "9", "--set", "precision=int4"],
            "--set precision is .int4.: choose one of auto",
        ),
        (
            ["draft", "train", "--out", "d", "--free-prompts", "9", "--set", "on_policy=2"],
            "--set on_policy is 2.0: it must be at least 0 and at most 1",
        ),
        (["draft", "skip", "--prompts", "PROMPTS", "--trials", "0"], "--trials is 0"),
        (["draft", "skip", "--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (
            ["generate", "--prompt", "x", "--drafter", "inline:ngram"],
            "only a model can be inline",
        ),
        (
            [
                "generate",
                "--prompt",
                "x",
                "--drafter",
                "inline:target:layers=0",
                "--set",
                "models.drafter_tp=2",
            ],
            "--set models.drafter_tp 2 asks for a drafter on ranks",
        ),
        (["generate", "--prompt", "x", "--drafter", "lookup:x+ngram"], "source 'x' is not known"),
        (["generate", "--prompt", "x", "--drafter", "ngram+ngram"], "only a model can be inline"),
        (
            ["generate", "--prompt", "x", "--set", "models.layer_parallel=two"],
            "--set models.layer_parallel is 'two'",
        ),
        (
            ["generate", "--prompt", "x", "--set", "models.layer_parallel=0"],
            "layer_parallel is '0'",
        ),
        (
            [
                "generate",
                "--prompt",
                "x",
                "--drafter",
                "target:layers=0-1",
                "--set",
                "models.drafter_tp=3",
            ],
            "has 2 layers, one rank holds at least one",
        ),
        (
            [*LAYERS, "target:layers=0-1", "--mode", "autoregressive"],
            "--mode is 'autoregressive': choose speculative or pearl",
        ),
        ([*LAYERS, "target:layers=0-1", "--widths", "0"], r"--widths\[0\] is 0"),
        ([*LAYERS, "target:layers=0-1", "--drafter-tp", "a"], r"--drafter-tp\[0\] is 'a'"),
        ([*LAYERS, "lookup"], "has no layers on ranks of its own"),
        ([*LAYERS, "target:layers=0-1", "--plot", "x.svg"], "ends in .png"),
    ],
)
def test_other_verbs_reject_bad_options_too(
    arguments: list[str],
    words: str,
    directory: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = refusal(capsys, monkeypatch, *placed(arguments), "--target", directory)
    assert re.search(words, printed), printed
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.toml"], "CONFIG nowhere.toml does not exist"),
        (["train", "run", "nowhere.toml"], "CONFIG nowhere.toml does not exist"),
        (["train", "status", "nowhere"], "DIRECTORY nowhere does not exist"),
        (["train", "status", "."], ". holds no training job"),
        (["train", "merge", "nowhere", "--out", "x"], "ADAPTER nowhere does not exist"),
        (["train", "merge", ".", "--out", "x"], ". is not an adapter"),
        (["simulate", "train", "--workers", "0"], "--workers is 0: it must be at least 1"),
        (["simulate", "train", "--patience", "0"], "--patience is 0"),
        (["simulate", "train", "--model", "poisson"], "--model is 'poisson'"),
        (["simulate", "train", "--model", "trace:none.csv"], "none.csv does not exist"),
        (["simulate", "train", "--schemes", "magic-3"], "--schemes has 'magic-3': choose among"),
        (["simulate", "train", "--schemes", "m-sgc-1"], "m-sgc takes 3 number"),
        (["simulate", "train", "--schemes", "pull"], "as in pull-4"),
        (
            ["simulate", "train", "--schemes", "frc-stream-3"],
            "groups of 3 do not divide 16 workers evenly",
        ),
        (["simulate", "train", "--plot", "x.pdf"], "ends in .png"),
        (["simulate", "shared-seed", "--machines", "0"], "--machines is 0: it must be at least 1"),
        (
            ["simulate", "shared-seed", "--loss", "1"],
            "--loss is 1.0: it must be at least 0 and below 1",
        ),
        (["bench", "learn", "PROMPTS", "--methods", "byte,magic"], "--methods has 'magic'"),
        (["bench", "learn", "PROMPTS", "--budget", "0"], "--budget is 0: it must be at least 1"),
        (["bench", "learn", "nowhere.toml"], "CONFIG nowhere.toml does not exist"),
        (["bench", "shared-seed", "--shapes", "4by2"], "--shapes has '4by2': write pairs as 4x2"),
        (["bench", "shared-seed", "--repeats", "0"], "--repeats is 0: it must be at least 1"),
        (["train", "replay", "--log", "nowhere", "--out", "x"], "--log nowhere does not exist"),
        (["train", "verify", ".", "--log", "nowhere"], "--log nowhere does not exist"),
        (
            ["train", "join", "--server", "here", "--data", "PROMPTS"],
            "--server is 'here': write HOST",
        ),
        (["train", "join", "--server", "h:1", "--data", "no"], "--data no does not exist"),
        (["simulate", "train", "--model", "serverless:tail=-1"], "tail=-1.0: it must not be below"),
        (
            ["simulate", "train", "--rounds", "5", "--schemes", "m-sgc-2-5-2"],
            "m-sgc-2-5-2 decodes 5 rounds late: more than 5 rounds are needed",
        ),
    ],
)
def test_training_verbs_reject_bad_options(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refusal(capsys, monkeypatch, *placed(arguments))
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_schemes_are_simulated_side_by_side(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = tmp_path / "schemes.png"
    arguments = ["simulate", "train", "--workers", "8", "--rounds", "40", "--json"]
    monkeypatch.setattr("sys.argv", ["paceline", *arguments, "--plot", str(picture)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["scheme"] for row in rows][:2] == ["uncoded", "drop-2"]
    assert all(row["seconds"] > 0 for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_version_is_said() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"paceline {version('paceline')}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", ""), "--prompt is empty: give a value, or leave it out"),
        (("--prompt=",), "--prompt is empty"),
        (("--prompt", "\udcff\udcfe"), "--prompt is not UTF-8"),
    ],
)
def test_an_empty_or_undecodable_value_is_rejected_by_its_option(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    command = ("generate", "--target", "smollm2-135m", *arguments)
    assert words in refusal(capsys, monkeypatch, *command)
