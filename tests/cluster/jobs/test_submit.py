"""What a job is submitted with, and what is rejected before it is."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed

import pytest
from ray.job_submission import JobDetails, JobStatus
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.jobs.job_output import MARK
from cluster.jobs.submit import ROOT, _connect, _follow, _submit, entrypoint_of, runtime_environment
from cluster.options.cluster_options import SubmitOptions
from runtime.errors import ConfigError


def options(**fields: object) -> SubmitOptions:
    given: dict[str, object] = {
        "verb": "generate",
        "address": "http://127.0.0.1:1",
        "runtime_env": None,
        "working_dir": None,
        "submission_id": None,
        "detach": False,
    } | fields
    return SubmitOptions(**given)  # type: ignore[arg-type]  # a test names real fields


def test_an_entrypoint_keeps_every_argument_whole() -> None:
    entrypoint = entrypoint_of(("generate", "--prompt", "two words; rm", "--json"))
    assert entrypoint == "python -m cluster.jobs.submitted generate --prompt 'two words; rm' --json"


def test_a_verb_that_talks_to_a_server_is_not_submitted() -> None:
    with pytest.raises(ConfigError, match="submit client: choose one of serve, generate"):
        entrypoint_of(("client", "hello"))


def test_a_checkout_is_uploaded_as_it_is() -> None:
    assert runtime_environment(options(working_dir=ROOT)) == {"working_dir": str(ROOT)}


def test_our_code_goes_along_from_elsewhere(tmp_path: Path) -> None:
    environment = runtime_environment(options(working_dir=tmp_path))
    assert environment["working_dir"] == str(tmp_path)
    assert {Path(module).name for module in environment["py_modules"]} == {
        "parallel", "runtime", "actors", "cluster", "protos"
    }  # fmt: skip


def test_a_runtime_environment_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "env.yaml"
    file.write_text("env_vars: {A: b}\nexcludes: [data]\nworking_dir: s3://bucket/code.zip\n")
    assert runtime_environment(options(runtime_env=file)) == {
        "env_vars": {"A": "b"},
        "excludes": ["data"],
        "working_dir": "s3://bucket/code.zip",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1]", "write keys as env_vars"), ("a: [", "is not YAML or JSON"), (None, "does not exist")],
)
def test_a_bad_runtime_environment_is_rejected(
    text: str | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "env.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        runtime_environment(options(runtime_env=file))


def test_a_working_directory_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no directory"):
        runtime_environment(options(working_dir=tmp_path / "nowhere"))


class Starting:
    """A job server whose agent comes up after some tries, or rejects for another reason."""

    def __init__(self, *errors: str) -> None:
        self._errors = list(errors)

    def submit_job(self, **job: object) -> str:
        assert job == {"entrypoint": "x"}
        if self._errors:
            raise RuntimeError(self._errors.pop(0))
        return "raysubmit_1"


class Ended:
    """A failed job's logs: some parts, a connection that breaks, all parts but the last."""

    PARTS = (
        "Running entrypoint\n",
        f"{MARK}started\n",
        f'{{"row": 1}}\n{MARK}step 1\n',
        f'{{"row": 2}}\n{{"ro{MARK}step 2\n',
        f'w": 3}}\n{MARK}error: --count is 1\n',
    )
    OUTPUT = '{"row": 1}\n{"row": 2}\n{"row": 3}\n'
    ASIDE = "Running entrypoint\nstarted\nstep 1\nstep 2\nerror: --count is 1\n"

    def __init__(self) -> None:
        self._connections = 0

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        self._connections += 1
        for part in self.PARTS[: 3 if self._connections == 1 else 4]:
            yield part
        if self._connections == 1:
            raise RuntimeError("the connection broke")

    def get_job_status(self, _job: str) -> JobStatus:
        return JobStatus.RUNNING if self._connections == 1 else JobStatus.FAILED

    def get_job_logs(self, _job: str) -> str:
        return "".join(self.PARTS)

    def get_job_info(self, _job: str) -> JobDetails:
        return JobDetails(type="SUBMISSION", entrypoint="", status="FAILED", driver_exit_code=2)


def test_output_is_shown_whole_and_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.jobs.submit._POLL_S", 0.0)
    assert _follow(Ended(), "raysubmit_1", "") == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (Ended.OUTPUT, Ended.ASIDE)


def test_a_cluster_that_was_just_started_gets_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.submit._POLL_S", 0.0)
    late = "Request failed with status code 500: No available agent to submit job"
    assert _submit(Starting(late, late), entrypoint="x") == "raysubmit_1"
    with pytest.raises(ConfigError, match="the job was not accepted: no such id"):
        _submit(Starting(late, "no such id"), entrypoint="x")
    monkeypatch.setattr("cluster.jobs.submit._AGENT_S", -1.0)
    with pytest.raises(ConfigError, match=r"No available agent.*--dashboard-agent-listen-port"):
        _submit(Starting(late, late), entrypoint="x")


def test_a_head_that_requires_a_token_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: str) -> None:
        raise RuntimeError("Authentication required: Unauthorized")

    monkeypatch.setattr("cluster.jobs.submit.JobSubmissionClient", refuse)
    monkeypatch.setattr("cluster.jobs.submit.why_silent", lambda *_, **__: "")
    with pytest.raises(ConfigError, match="requires a token: set RAY_AUTH_MODE=token"):
        _connect("http://head:8265")


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://head:10001"])
def test_an_address_that_is_no_dashboard_is_rejected(address: str) -> None:
    result = CliRunner().invoke(app, ["submit", "generate", "--address", address])
    assert isinstance(result.exception, ConfigError)
    assert "write http://HEAD:8265" in str(result.exception)


def test_results_are_not_written_into_an_upload(tmp_path: Path) -> None:
    upload = tmp_path / "_ray_pkg_0a1b"
    upload.mkdir()
    (upload / "job.toml").write_text('model = "x"\nout = "run"\n[data]\ntrain = "a.jsonl"\n')
    result = CliRunner().invoke(app, ["train", str(upload / "job.toml")])
    assert isinstance(result.exception, ConfigError)
    assert f"out is {upload / 'run'}, in this job's upload" in str(result.exception)
    assert not (upload / "run").exists()


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("draft train --target smollm2-135m", "--out"),
        ("draft follow FOLDER --target smollm2-135m", "--out"),
        ("draft index PYPROJECT --target smollm2-135m", "--out"),
        ("draft eval lookup --target smollm2-135m --prompts PROMPTS", "--keep"),
        ("draft eval lookup --target smollm2-135m --prompts PROMPTS", "--plot"),
        ("bench decode --target smollm2-135m --prompts PROMPTS", "--set keep"),
        ("serve --target smollm2-135m", "--journal"),
        ("serve --target smollm2-135m", "--set traffic"),
        ("experiment run PYPROJECT", "--out"),
    ],
)
def test_no_option_writes_results_into_an_upload(command: str, flag: str, tmp_path: Path) -> None:
    (tmp_path / "_ray_pkg_0a1b").mkdir()
    place = str(tmp_path / "_ray_pkg_0a1b" / "results.png")
    files = {
        "PROMPTS": ROOT / "tests/data/prompts.jsonl",
        "PYPROJECT": ROOT / "pyproject.toml",
        "FOLDER": ROOT,
    }
    arguments = [str(files.get(word, word)) for word in command.split()]
    option, _, key = flag.partition(" ")
    result = CliRunner().invoke(app, [*arguments, option, f"{key}={place}" if key else place])
    assert isinstance(result.exception, ConfigError), result.output
    assert f"{flag} is {place}, in this job's upload" in str(result.exception)


@pytest.mark.parametrize(
    ("address", "named", "bypasses"),
    [
        ("http://127.0.0.1:8265", None, True),
        ("http://localhost:8265", "head,other", True),
        ("http://[::1]:8265", None, True),
        ("http://node.example:8265", None, False),
    ],
)
def test_a_job_server_on_this_machine_is_not_asked_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, address: str, named: str | None, *, bypasses: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", named or "")
    monkeypatch.setattr("cluster.jobs.submit.JobSubmissionClient", lambda address: address)
    monkeypatch.setattr("cluster.jobs.submit.why_silent", lambda *_, **__: "")
    _connect(address)
    host = urlsplit(address).hostname
    assert bool(proxy_bypass_environment(str(host))) == bypasses
    assert all(proxy_bypass_environment(name) for name in (named or "").split(",") if name)
