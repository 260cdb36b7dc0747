"""Machines on a real gRPC server: faults of all kinds, and all replicas end as the same bits."""

import contextlib
import threading
import time
from pathlib import Path

import grpc
import pytest

from parallel.training.shared_seed.byte_codec import ABSTAIN
from parallel.training.shared_seed.round_messages import MachineReport, Receipt
from protos.paceline.v1 import seedlog_pb2 as pb
from protos.paceline.v1 import seedlog_pb2_grpc as rpc
from runtime.channels.credentials import Credentials
from runtime.errors import ConfigError, PacelineError, PeerLost
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.shared_seed.port import STATUS_ERRORS, GrpcPort
from runtime.training.shared_seed.seed_log import read_log
from runtime.training.shared_seed.seed_service import ListenSettings, SeedLogServer
from runtime.training.shared_seed.seed_worker import SeedWorker
from runtime.training.shared_seed.sequencer import Rejected, Rules
from runtime.training.shared_seed.snapshot import write_snapshot
from tests.support.certificates import make_certificates
from tests.support.shared_seed_runs import ToyRun, fresh, header, loss_at


def rules(rounds: int = 40, **more: float) -> Rules:
    return Rules(rounds=rounds, lr=0.03, deadline_s=5.0, alive_s=2.0, **more)  # type: ignore[arg-type]  # of floats


def wait_for_round(run: ToyRun, number: int) -> None:
    deadline = time.monotonic() + 60
    while run.sequencer.round < number:
        assert time.monotonic() < deadline
        assert not run.failures, run.failures
        time.sleep(0.01)


def digests(*workers: SeedWorker) -> set[bytes]:
    return {w.member.replica.digest() for w in workers if w.member is not None}


def test_machines_and_a_follower_end_as_the_same_bits(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(patience=1e6))
    workers = [run.worker(f"m{n}") for n in range(3)]
    follower = run.worker("follower", works=False)
    for worker in (*workers, follower):
        run.run_in_thread(worker)
    run.join()
    assert digests(*workers, follower) == {run.replayed().digest()}
    start = loss_at(fresh(header()).theta)
    assert loss_at(run.replayed().theta) < 0.3 * start
    assert {len(c.entries) for c in run.sequencer.commits[10:30]} == {3}
    run.stop()
    assert read_log(run.log).commits == run.sequencer.commits


def test_faults_change_no_replica(tmp_path: Path) -> None:
    """Lost, repeated and late messages; leaves, kills and joins; the sequencer dies, twice."""
    faults = FaultsConfig(lose=0.2, repeat=0.2, delay_s=0.01)
    run = ToyRun(tmp_path, rules=rules(50))
    staying = [run.worker(f"s{n}", faults=faults) for n in range(4)]
    for worker in staying:
        run.run_in_thread(worker)
    wait_for_round(run, 5)
    leaving = run.worker("leaving", faults=faults)
    run.run_in_thread(leaving, lambda w: w.progress.round < 20)
    follower = run.worker("follower", works=False, faults=faults)
    run.run_in_thread(follower)
    for number in (10, 26):
        wait_for_round(run, number)
        run.stop()
        time.sleep(0.3)
        run.start()
    wait_for_round(run, 32)
    write_snapshot(run.snapshot, run.replayed())
    late = run.worker("late", faults=faults)
    run.run_in_thread(late)
    run.join()
    assert digests(*staying, late, follower) == {run.replayed().digest()}
    assert loss_at(run.replayed().theta) < 0.3 * loss_at(fresh(header()).theta)
    lost = sum(worker._port.num_lost for worker in staying)  # type: ignore[attr-defined]  # faulty
    repeated = sum(worker._port.num_repeated for worker in staying)  # type: ignore[attr-defined]
    assert lost > 15
    assert repeated > 8
    assert len(read_log(run.log).machines) >= 6  # machines that a restart cut off are still known
    run.stop()


def test_a_late_joiner_takes_the_snapshot_and_the_tail(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(60))
    first = run.worker("first")
    held = threading.Event()

    def hold(worker: SeedWorker) -> bool:
        if worker.progress.round == 40:
            assert held.wait(30)
        return True

    run.run_in_thread(first, hold)
    wait_for_round(run, 40)
    half = fresh(header())
    for commit in run.sequencer.commits[:30]:
        half.apply(commit)
    write_snapshot(run.snapshot, half)
    late = run.worker("late")
    run.run_in_thread(late)
    deadline = time.monotonic() + 30
    while run.sequencer.num_alive < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.set()
    run.join()
    assert digests(first, late) == {run.replayed().digest()}
    run.stop()


def test_a_damaged_snapshot_is_done_without(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(30))
    run.snapshot.write_bytes(b"\0" * 100)
    worker = run.worker("m")
    run.run_in_thread(worker)
    run.join()
    assert digests(worker) == {run.replayed().digest()}
    run.stop()


def test_a_corrupt_replica_is_found_and_restored(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(40))

    def corrupt(worker: SeedWorker) -> bool:
        if (
            worker.progress.round == 12
            and worker.member is not None
            and not worker.progress.num_restored
        ):
            worker.member.replica.theta[3] += 1e-6
        return True

    healthy = [run.worker(f"m{n}") for n in range(3)]
    sick = run.worker("sick")
    for worker in healthy:
        run.run_in_thread(worker)
    run.run_in_thread(sick, corrupt)
    run.join()
    assert sick.progress.num_restored >= 1
    assert [w.progress.num_restored for w in healthy] == [0, 0, 0]
    assert digests(*healthy, sick) == {run.replayed().digest()}
    run.stop()


def test_a_wrong_snapshot_does_not_keep_a_machine_wrong(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(60, quorum=4), run_header=header(hash_every=15))
    wrong = fresh(header())
    wrong.theta[0] += 1
    write_snapshot(run.snapshot, wrong)
    sick = run.worker("sick")  # takes the snapshot as it joins
    run.run_in_thread(sick)
    deadline = time.monotonic() + 30
    while run.sequencer.num_alive < 1:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    run.snapshot.unlink()
    healthy = [run.worker(f"m{n}") for n in range(3)]
    for worker in healthy:
        run.run_in_thread(worker)
    wait_for_round(run, 1)
    write_snapshot(run.snapshot, wrong)
    run.join()
    assert sick.progress.num_restored >= 2
    assert digests(sick, *healthy) == {run.replayed().digest()}
    run.stop()


def test_machines_come_in_by_tls_alone(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    run = ToyRun(tmp_path, rules=rules(5))
    settings = ListenSettings(
        address="127.0.0.1:0",
        certificate=certificates / "server.pem",
        private_key=certificates / "server.key",
        client_ca=certificates / "authority.pem",
    )
    server = SeedLogServer(run.sequencer, settings, terms="{}", snapshot=run.snapshot)
    server.start()
    root = certificates / "authority.pem"
    mine = Credentials(
        root_ca=root,
        certificate=certificates / "client.pem",
        private_key=certificates / "client.key",
    )
    assert GrpcPort(server.address, mine).join("m").machine == 0
    for other in (Credentials(), Credentials(root_ca=root)):
        with pytest.raises(PeerLost):
            GrpcPort(server.address, other).join("m")
    server.stop()
    run.stop()


def test_a_log_that_was_cut_makes_machines_begin_again(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(30))
    worker = run.worker("m")
    held, reached = threading.Event(), threading.Event()

    def hold(this: SeedWorker) -> bool:
        if this.progress.round == 20 and not reached.is_set():
            reached.set()
            assert held.wait(30)
        return True

    run.run_in_thread(worker, hold)
    assert reached.wait(30)
    run.stop()
    data = run.log.read_bytes()
    run.log.write_bytes(data[: len(data) // 2])
    run.start()
    assert 0 < run.sequencer.round < 20
    held.set()
    run.join()
    assert worker.progress.num_joined == 2
    assert digests(worker) == {run.replayed().digest()}
    run.stop()


def test_tokens_are_asked_for_and_each_is_one_machine(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(), tokens=("red", "green"))
    for credentials in (Credentials(), Credentials(token="blue")):
        with pytest.raises(ConfigError, match="no valid bearer token"):
            GrpcPort(run.server.address, credentials).join("m")
    red = GrpcPort(run.server.address, Credentials(token="red"))
    green = GrpcPort(run.server.address, Credentials(token="green"))
    assert red.join("a").machine == 0
    assert green.join("b").machine == 1
    again = GrpcPort(run.server.address, Credentials(token="red"))
    assert again.join("a").machine == 2
    with pytest.raises(Rejected, match="machine 0 is not known"):
        red.exchange(MachineReport(round=0, codes=b"\x50"), 0.0)
    assert green.exchange(MachineReport(round=0, codes=b"\x50"), 0.0).receipt is Receipt.TAKEN
    run.stop()


def test_what_is_repeated_forged_or_too_much_does_not_count(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(late_rounds=1, max_scalars=3))
    ports = [GrpcPort(run.server.address) for _ in range(2)]
    joined = [port.join(f"m{n}") for n, port in enumerate(ports)]
    say = [
        lambda r, c, p=port: p.exchange(MachineReport(round=r, codes=c), 0.0).receipt
        for port in ports
    ]
    assert say[0](0, b"\x50") is Receipt.TAKEN
    assert run.sequencer.round == 1  # no other machine had sent anything yet
    assert say[0](0, b"\x60") is Receipt.REPEATED  # a replay with other bytes
    assert say[1](0, b"\x50") is Receipt.TAKEN  # a round late
    assert say[0](5, b"\x50") is Receipt.TOO_EARLY
    assert say[0](1, b"\x50\x51") is Receipt.TAKEN
    commits = run.sequencer.commits
    assert [(e.round, e.machine, e.codes) for e in commits[0].entries] == [(0, 0, b"\x50")]
    with pytest.raises(Rejected, match="at most 3 are accepted"):
        say[1](1, b"\x50" * 4)
    with pytest.raises(Rejected, match="another secret"):
        run.sequencer.take(1, joined[0].secret, MachineReport(round=1, codes=b"\x50"))
    with pytest.raises(Rejected, match="not known"):
        run.sequencer.take(9, b"", MachineReport(round=1, codes=b"\x50"))
    run.stop()


def test_machines_that_abstain_are_no_scalars(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules(3))
    port = GrpcPort(run.server.address)
    port.join("m")
    for number in range(3):
        port.exchange(MachineReport(round=number, codes=bytes([ABSTAIN, ABSTAIN])), 2.0)
    assert [commit.num_scalars for commit in run.sequencer.commits] == [0, 0, 0]
    assert run.replayed().digest() == fresh(header()).digest()
    run.stop()


def test_a_silent_sequencer_ends_a_worker_with_its_name(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules())
    address = run.server.address
    run.stop()
    worker = SeedWorker(
        GrpcPort(address), name="m", fresh=fresh, work=None, give_up_s=0.3, wait_s=0.1
    )
    with pytest.raises(PeerLost, match=f"did not answer for 0.3 s: {address}"):
        worker.run()


def test_calls_of_strangers_are_rejected_in_order(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules())
    stub = rpc.SeedLogServiceStub(grpc.insecure_channel(run.server.address))
    for asked in (pb.ExchangeRequest(round=1), pb.ExchangeRequest(machine=3, secret=b"x")):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Exchange(asked, timeout=5)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.GetSnapshot(pb.GetSnapshotRequest(), timeout=5))
    assert STATUS_ERRORS[caught.value.code()] is Rejected
    with pytest.raises(grpc.RpcError) as caught:
        stub.Join(pb.JoinRequest(name="x" * 65), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    run.stop()


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules())
    port = GrpcPort(run.server.address)
    port.join("m")
    port.exchange(MachineReport(round=0, codes=b"\x50"), 0.0)
    run.server.check()
    run._file.close()
    with contextlib.suppress(PeerLost):
        port.exchange(MachineReport(round=1, codes=b"\x50"), 0.0)
    ticking, deadline = run.server._ticking, time.monotonic() + 30
    while ticking is not None and not ticking.done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(PacelineError, match="cannot continue"):
        run.server.check()
    run.stop()


def test_a_taken_address_is_said(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, rules=rules())
    settings = ListenSettings(address=run.server.address)
    second = SeedLogServer(run.sequencer, settings, terms="{}", snapshot=run.snapshot)
    with pytest.raises(ConfigError, match="the port is in use"):
        second.start()
    run.stop()
