"""What shows a job while it runs."""

from dataclasses import dataclass

from runtime.training.job.ranges import NotNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """What shows a job while it runs, with methods "lora" and "full"."""

    tensorboard: bool = True
    """Write event files for TensorBoard to tensorboard/ in the job's directory."""
    chart: bool = True
    """Write loss.png to the job's directory at each evaluation."""
    wandb: str = ""
    """Project of Weights & Biases that receives the numbers; needs the package wandb."""
    mlflow: str = ""
    """Experiment of MLflow that receives the numbers; needs the package mlflow."""
    samples: NotNegative = 0
    """Prompts of the evaluation file that are answered at each evaluation, in samples.jsonl."""
    sample_tokens: Positive = 48
    """Longest of these answers, in tokens."""
