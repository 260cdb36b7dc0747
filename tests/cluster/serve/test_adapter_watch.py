"""Of a job's directory that is written step by step, the newest intact adapter is served."""

from pathlib import Path

import pytest

from cluster.serve.adapter_watch import AdapterWatch, parse_watches
from runtime.errors import ConfigError, InvalidValue, PeerLost
from runtime.requests.served_adapters import ServedAdapter, ServedAdapters


class Engines:
    """Serves adapters whose one file holds their digest."""

    def __init__(self, adapters: ServedAdapters) -> None:
        self.read: list[str] = []
        self.is_lost = False
        self._adapters = adapters

    def add(self, name: str, directory: str) -> ServedAdapter:
        path = Path(directory)
        self.read.append(path.name)
        text = (path / "weights").read_text()
        if not text.startswith("good"):
            raise ConfigError(f"{directory} is damaged")
        if self.is_lost:
            raise PeerLost("target rank 0 died")
        adapter = ServedAdapter(name=name, version=f"{name}@{text}", directory=path, num_bytes=1)
        self._adapters.put(adapter)
        return adapter


class Job:
    """A job's directory and its watch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.adapters = ServedAdapters()
        self.engines = Engines(self.adapters)
        self.watch = AdapterWatch("job", directory, self.engines, self.adapters)

    def write(self, name: str, text: str) -> None:
        """Write a result as a job does: whole, then under its name."""
        fresh = self.directory / f"{name}.new"
        fresh.mkdir(parents=True)
        (fresh / "weights").write_text(text)
        fresh.replace(self.directory / name)

    @property
    def served(self) -> str | None:
        found = self.adapters.find("job")
        return None if found is None else found.version

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            self.watch.look()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "job")


def test_the_newest_adapter_is_served_as_it_appears(job: Job) -> None:
    job.look()
    assert job.served is None
    assert not job.watch.has_served
    for name, text in (
        ("step-000002", "good 2"),
        ("step-000010", "good 10"),
        ("step-1000000", "good 1000000"),
        ("final", "good"),
    ):
        job.write(name, text)
        job.look()
        assert job.served == f"job@{text}"
    job.look(5)
    assert job.engines.read == ["step-000002", "step-000010", "step-1000000", "final"]


def test_what_lies_there_at_the_start_is_served_at_once(tmp_path: Path) -> None:
    before = Job(tmp_path / "job")
    before.write("step-000001", "good 1")
    before.write("step-000002", "good 2")
    job = Job(tmp_path / "job")
    job.look(1)
    assert job.engines.read == ["step-000002"]


def test_a_directory_that_is_being_written_is_not_read(job: Job) -> None:
    job.write("step-000001", "good 1")
    job.look()
    (job.directory / "step-000002.new").mkdir()
    (job.directory / "step-000002.new" / "weights").write_text("good too early")
    slow = job.directory / "step-000003"
    slow.mkdir()
    for size in range(1, 6):
        (slow / "weights").write_text("good 3"[:size])
        job.look(1)
    assert job.engines.read == ["step-000001"]
    (slow / "weights").write_text("good 3")
    job.look()
    assert job.served == "job@good 3"


def test_a_damaged_adapter_is_told_once_and_never_served(job: Job) -> None:
    job.write("step-000001", "good 1")
    job.look()
    job.write("step-000002", "bad")
    job.look(1)
    with pytest.raises(ConfigError, match="step-000002 is damaged"):
        job.look(1)
    job.look(5)
    assert job.engines.read == ["step-000001", "step-000002"]
    assert job.served == "job@good 1"
    (job.directory / "step-000002" / "weights").write_text("good, repaired")
    job.look()
    assert job.served == "job@good, repaired"


def test_the_adapter_before_a_damaged_one_is_served(job: Job) -> None:
    job.write("step-000001", "good 1")
    job.write("step-000002", "bad")
    job.look(1)
    with pytest.raises(ConfigError):
        job.look(1)
    job.look(1)
    assert job.served == "job@good 1"


def test_a_lost_engine_is_told_once_and_the_adapter_is_tried_again(job: Job) -> None:
    job.write("final", "good")
    job.look(1)
    job.engines.is_lost = True
    with pytest.raises(PeerLost):
        job.look(1)
    job.look(3)
    assert job.served is None
    job.engines.is_lost = False
    job.look(1)
    assert job.served == "job@good"


def test_a_job_that_starts_again_is_followed(job: Job) -> None:
    job.write("step-000009", "good 9")
    job.write("final", "good")
    job.look()
    (job.directory / "final").rename(job.directory / "step-000020")  # it continues with more steps
    job.look()
    assert job.engines.read == ["final"]
    job.directory.rename(job.directory.with_name("old"))
    job.look()
    assert job.served == "job@good"
    job.write("step-000001", "good 1")
    job.look()
    assert job.served == "job@good 1"


def test_what_an_administrator_does_ends_the_watch(job: Job) -> None:
    job.write("step-000001", "good 1")
    job.look()
    job.adapters.remove("job")
    job.write("step-000002", "good 2")
    with pytest.raises(ConfigError, match="an administrator has changed it"):
        job.look(1)
    job.look(3)
    assert job.served is None


def test_an_option_names_a_job_and_perhaps_its_adapter(tmp_path: Path) -> None:
    job, odd = tmp_path / "sst2", tmp_path / "a=b"
    texts = [str(job), f"other={job}", str(odd) + "/"]
    with pytest.raises(InvalidValue, match="`watch` has the name 'a=b'"):
        parse_watches(texts, model="tiny", taken=())
    texts[2] = f"odd={odd}"
    expected = [("sst2", job), ("other", job), ("odd", odd)]
    assert parse_watches(texts, model="tiny", taken=()) == expected
    for taken in (["sst2"], ["odd"]):
        with pytest.raises(InvalidValue, match=f"names '{taken[0]}', which is taken"):
            parse_watches(texts, model="tiny", taken=taken)
    with pytest.raises(InvalidValue, match="which is the model's"):
        parse_watches(texts, model="sst2", taken=())


def test_a_directory_of_something_else_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_watches([str(tmp_path / "file")], model="tiny", taken=())
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    assert parse_watches([str(adapter)], model="tiny", taken=())  # a job may begin in it
    (adapter / "adapter_config.json").touch()
    with pytest.raises(ConfigError, match="is one adapter, not a job: serve it with `adapter`"):
        parse_watches([str(adapter)], model="tiny", taken=())
    with pytest.raises(ConfigError, match=r"it has no job\.json"):
        parse_watches([str(tmp_path)], model="tiny", taken=())
    (tmp_path / "job.json").touch()
    assert parse_watches([f"a={tmp_path}"], model="tiny", taken=()) == [("a", tmp_path)]
