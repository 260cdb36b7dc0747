"""The function of each verb, typed; importing this loads none of their modules.

The one file with imports inside functions: torch and Ray load for seconds, for some verbs only.
"""

from cluster.options import bench_options as bench
from cluster.options import client_options as clients
from cluster.options import draft_options as draft
from cluster.options import experiment_options as experiments
from cluster.options.cluster_options import (
    CheckOptions,
    ServiceListOptions,
    ServiceLogsOptions,
    ServiceStartOptions,
    ServiceStopOptions,
    SubmitOptions,
)
from cluster.options.demo_options import DemoOptions
from cluster.options.docs_options import DocsOptions
from cluster.options.generate_options import GenerateOptions
from cluster.options.quantize_options import QuantizeOptions
from cluster.options.serve_options import ServeOptions
from cluster.options.simulate_options import SimulateSeedsOptions, SimulateTrainOptions
from cluster.options.train_options import (
    TrainCancelOptions,
    TrainJoinOptions,
    TrainMergeOptions,
    TrainOptions,
    TrainPlanOptions,
    TrainReplayOptions,
    TrainResumeOptions,
    TrainStatusOptions,
    TrainVerifyOptions,
)


def generate(options: GenerateOptions) -> int:
    """Generate text for prompts."""
    from cluster.generate.generation import run

    return run(options)


def serve(options: ServeOptions) -> int:
    """Serve generation over gRPC."""
    from cluster.serve.server_settings import run as check  # quick, so it comes first

    check(options)
    from cluster.serve.serving import run

    return run(options)


def demo(options: DemoOptions) -> int:
    """Serve a page to try a model."""
    from cluster.serve.demo import server_options

    return serve(server_options(options))


def client(options: clients.ClientOptions) -> int:
    """Generate from a server."""
    from cluster.serve.client_verb import run

    return run(options)


def top(options: clients.TopOptions) -> int:
    """Show the status of a server."""
    from cluster.serve.top import run

    return run(options)


def admin_status(options: clients.AdminStatusOptions) -> int:
    """Show the status of a server once."""
    from cluster.serve.top import show_once

    return show_once(options)


def admin_drain(options: clients.AdminDrainOptions) -> int:
    """Drain a server."""
    from cluster.serve.admin_verb import drain

    return drain(options)


def admin_drafter(options: clients.AdminDrafterOptions) -> int:
    """Replace the drafter of a server."""
    from cluster.serve.admin_verb import set_drafter

    return set_drafter(options)


def admin_drafters(options: clients.AdminDraftersOptions) -> int:
    """Change the number of drafters of a server."""
    from cluster.serve.admin_verb import set_drafters

    return set_drafters(options)


def admin_adapter(options: clients.AdapterOptions) -> int:
    """Add, remove or list adapters of a server."""
    from cluster.serve.admin_verb import change_adapters

    return change_adapters(options)


def cluster_check(options: CheckOptions) -> int:
    """Check a Ray cluster."""
    from cluster.deploy.cluster_check import run

    return run(options)


def submit(options: SubmitOptions) -> int:
    """Run a verb as a job of a Ray cluster."""
    from cluster.jobs.submit import run

    return run(options)


def service_start(options: ServiceStartOptions) -> int:
    """Start a service on a Ray cluster."""
    from cluster.jobs.kept_service import start

    return start(options)


def service_list(options: ServiceListOptions) -> int:
    """List the services of a Ray cluster."""
    from cluster.jobs.kept_service import list_services

    return list_services(options)


def service_logs(options: ServiceLogsOptions) -> int:
    """Print the output of a service."""
    from cluster.jobs.kept_service import print_logs

    return print_logs(options)


def service_stop(options: ServiceStopOptions) -> int:
    """Drain a service."""
    from cluster.jobs.kept_service import stop

    return stop(options)


def bench_decode(options: bench.BenchDecodeOptions) -> int:
    """Compare decoding modes."""
    from cluster.bench.decode import run

    return run(options)


def bench_engines(options: bench.BenchEnginesOptions) -> int:
    """Compare with other engines."""
    from cluster.bench.engine_bench import run

    return run(options)


def bench_guesses(options: bench.BenchGuessesOptions) -> int:
    """Show how soon a drafter's guesses are right."""
    from cluster.bench.guesses import run

    return run(options)


def bench_layers(options: bench.BenchLayersOptions) -> int:
    """Compare layer-parallel drafters."""
    from cluster.bench.layer_parallel import run

    return run(options)


def bench_learn(options: bench.BenchLearnOptions) -> int:
    """Compare training methods by what they learn."""
    from cluster.bench.learning import run

    return run(options)


def bench_link(options: bench.BenchLinkOptions) -> int:
    """Time messages between two processes."""
    from cluster.bench.round_trips import run

    return run(options)


def bench_constraints(options: bench.BenchConstraintsOptions) -> int:
    """Compare constrained decoding."""
    from cluster.bench.constraints.constraint_bench import run

    return run(options)


def bench_quality(options: bench.BenchQualityOptions) -> int:
    """Compare weight formats."""
    from cluster.bench.quality import run

    return run(options)


def bench_seeds(options: bench.BenchSeedsOptions) -> int:
    """Time a shared-seed step."""
    from cluster.bench.shared_seed_bench import run

    return run(options)


def bench_serve(options: bench.BenchServeOptions) -> int:
    """Put load on a running server."""
    from cluster.bench.load import run

    return run(options)


def bench_step(options: bench.StepOptions) -> int:
    """Show the parts of a decode step, or what adapters cost it."""
    from cluster.bench.decode_step import run

    return run(options)


def bench_train(options: bench.BenchTrainOptions) -> int:
    """Time training steps under stragglers."""
    from cluster.bench.training_bench import run

    return run(options)


def draft_eval(options: draft.DraftEvalOptions) -> int:
    """Compare drafters."""
    from cluster.draft.draft_eval import run

    return run(options)


def draft_follow(options: draft.DraftFollowOptions) -> int:
    """Train a drafter on a server's traffic."""
    from cluster.draft.following import run

    return run(options)


def draft_index(options: draft.DraftIndexOptions) -> int:
    """Index texts for look-up drafters."""
    from cluster.draft.draft_index import run

    return run(options)


def draft_skip(options: draft.DraftSkipOptions) -> int:
    """Search the layers a target drafts with."""
    from cluster.draft.draft_skip import run

    return run(options)


def draft_train(options: draft.DraftTrainOptions) -> int:
    """Distill a drafter from a target."""
    from cluster.draft.draft_train import run

    return run(options)


def experiment_plan(options: experiments.ExperimentPlanOptions) -> int:
    """Predict the points of a sweep."""
    from cluster.experiment.experiment_plan import run

    return run(options)


def experiment_report(options: experiments.ExperimentReportOptions) -> int:
    """Write the report of a sweep."""
    from cluster.experiment.experiment_report import run

    return run(options)


def experiment_run(options: experiments.ExperimentOptions) -> int:
    """Measure the points of a sweep."""
    from cluster.experiment.run import run

    return run(options)


def simulate_seeds(options: SimulateSeedsOptions) -> int:
    """Simulate shared-seed training."""
    from cluster.simulate.simulate_seeds import run

    return run(options)


def simulate_train(options: SimulateTrainOptions) -> int:
    """Simulate straggler schemes."""
    from cluster.simulate.simulate_train import run

    return run(options)


def train(options: TrainOptions) -> int:
    """Run or resume a training job by its file."""
    from runtime.training.job.config_file import load_config  # quick, so it comes first

    load_config(options.config, options.settings)
    from cluster.train.training import run

    return run(options)


def train_plan(options: TrainPlanOptions) -> int:
    """Show what a training job needs."""
    from runtime.training.job.config_file import load_config  # quick, so it comes first

    load_config(options.config, options.settings)
    from cluster.train.job_needs import run

    return run(options)


def train_resume(options: TrainResumeOptions) -> int:
    """Resume a training job by its directory."""
    from runtime.training.job.config_file import kept_config  # quick, so it comes first

    kept_config(options.directory, options.settings)
    from cluster.train.training import resume

    return resume(options)


def train_cancel(options: TrainCancelOptions) -> int:
    """Stop a training job after its step."""
    from cluster.train.job_control import cancel_job

    return cancel_job(options)


def train_join(options: TrainJoinOptions) -> int:
    """Work for a shared-seed run."""
    from cluster.train.join_run import run

    return run(options)


def train_merge(options: TrainMergeOptions) -> int:
    """Merge an adapter into its model."""
    from cluster.train.job_results import merge

    return merge(options)


def train_replay(options: TrainReplayOptions) -> int:
    """Rebuild an adapter from a log."""
    from cluster.train.job_results import replay_log

    return replay_log(options)


def train_status(options: TrainStatusOptions) -> int:
    """Show the progress of a training job."""
    from cluster.train.job_control import show_status

    return show_status(options)


def train_verify(options: TrainVerifyOptions) -> int:
    """Check an adapter against its log."""
    from cluster.train.job_results import verify

    return verify(options)


def quantize(options: QuantizeOptions) -> int:
    """Write a copy of a model in integer codes."""
    from cluster.quantize.quantizing import run

    return run(options)


def docs_options(options: DocsOptions) -> int:
    """Print or write the reference of the settings."""
    from cluster.cli.reference import run

    return run(options)


def check_joinable(ray_address: str) -> None:
    """Raise ConfigError if no driver on this machine can join a Ray cluster."""
    from cluster.network.ray_address import joinable

    joinable(ray_address)
