"""The options that verbs share: one place for each flag's type and help."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.path_options import input_file, output_file
from cluster.options import model_options
from parallel.decoding.types import VerifierKind

Target = Annotated[
    str | None,
    typer.Option(
        help="The model: a Hugging Face directory, a GGUF file, a hub id, or smollm2-135m."
    ),
]
Drafter = Annotated[
    str | None,
    typer.Option(
        help="Who drafts: a model with the target's tokenizer, a directory made by draft train, "
        "target:layers=0-3,28-29 (the target cut to these layers), one of these with +ngram (it "
        "copies where the text repeats itself), ngram (copies from prompt and output, in an actor "
        "of its own), or lookup:ngram+recycle+store=DIR (copies in the "
        "target's own process, from some of these). Default: the best one known for the target."
    ),
]
Tp = Annotated[int, typer.Option(help="Target ranks the model is split over.")]
DrafterTp = Annotated[
    int | None,
    typer.Option(
        help="Ranks that the drafter is split over; a number gives it ranks of its own or is "
        "refused. Default: 1 where there is room beside the target."
    ),
]
LayerParallel = Annotated[
    str,
    typer.Option(
        help="How many of the drafter's layers run their attention at once, each on a rank of its "
        "own (EasySpec): a number, auto (what is fastest, where there are several drafter ranks), "
        "or off: the ranks share the heads of each layer. 4@6 and auto@6 leave layers 0 to 5 one "
        "after the other."
    ),
]
Virtual = Annotated[
    str | None,
    typer.Option(
        help="Virtual devices in place of models: target=40ms,draft=8ms,alpha=0.8"
        "[,position=1ms][,exchanges=0][,vocab=1024][,seed=0]; in place of draft also "
        "layers=32,attention=2ms,mlp=1ms[,exchange=0.2ms][,drop=0.02]."
    ),
]
Dtype = Annotated[model_options.Dtype, typer.Option(help="Type of weights and cache.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of each model rank; default: the cores shared out.")
]
Group = Annotated[model_options.GroupBackend, typer.Option(help="Exchange between ranks.")]
Link = Annotated[model_options.LinkKind, typer.Option(help="Between leader and drafter.")]
MaxBatch = Annotated[int, typer.Option(help="Prompts decoded at once.")]
CacheTokens = Annotated[
    int | None, typer.Option(help="Tokens the KV cache holds; default: what the prompts need.")
]
DraftWait = Annotated[
    float, typer.Option(help="Seconds a round waits for a late draft before continuing without it.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        callback=lambda address: None if address == "local" else address,
        help="Ray address to join (auto, HOST:PORT), or local: one that ends with this run. "
        "Default: local, within a Ray job its cluster.",
    ),
]
Place = Annotated[
    str | None,
    typer.Option(
        help="Nodes of the ranks: target=auto|pack|spread, nodes=N (that spread takes), "
        "drafter=auto|near|far, cpus=N (that "
        "each reserves), domain=LABEL (of nodes that belong together), interface=NAME or network, "
        "port=N (of the leader's links), timeout=SECONDS (that ranks wait for one another), "
        "wait=SECONDS (for room); as target=spread,drafter=far."
    ),
]
Verifier = Annotated[
    VerifierKind,
    typer.Option(
        help="match: tokens depend on target and seed alone. rejection: accepts more, tokens "
        "depend on the drafts too. Both keep the target's distribution exactly."
    ),
]
DraftLength = Annotated[
    int | None, typer.Option(help="Draft tokens a round; default: chosen from measured speed.")
]
MaxTokens = Annotated[int, typer.Option(help="Longest output of a prompt, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Sample among the k best tokens; 0 is off.")]
TopP = Annotated[float, typer.Option(help="Sample among the best tokens of this mass; 1 is off.")]
MinP = Annotated[float, typer.Option(help="Drop tokens below this share of the best; 0 is off.")]
Penalty = Annotated[float, typer.Option(help="Repetition penalty; 1 is off.")]
Seed = Annotated[int, typer.Option(help="Same seed, same tokens, in every mode and batch.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Continue after the end token.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this string; repeatable.")]
Prompt = Annotated[str | None, typer.Option(help="The prompt itself.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        callback=input_file,
        help="A .jsonl file with a prompt a line: prompt, text, question, turns or messages.",
    ),
]
NumPrompts = Annotated[int | None, typer.Option(help="Take only the first prompts of the file.")]
Chat = Annotated[bool, typer.Option("--chat", help="Wrap prompts in the model's chat template.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Keep = Annotated[
    Path | None,
    typer.Option(
        callback=output_file, help="Keep each prompt's figures here; a run that was cut continues."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        callback=input_file, help="A file of bearer tokens, one a line; a client sends the first."
    ),
]
Server = Annotated[str, typer.Option(help="HOST:PORT of a paceline serve.")]
RootCa = Annotated[
    Path | None,
    typer.Option(
        callback=input_file, help="Authority of the server's certificate; default: this machine's."
    ),
]
Tls = Annotated[
    bool, typer.Option("--tls", help="Encrypt; --root-ca, --tls-cert and --tls-key imply it.")
]
PlaintextToken = Annotated[
    bool,
    typer.Option("--plaintext-token", help="Send the token to another machine without encryption."),
]
ClientCert = Annotated[
    Path | None, typer.Option(callback=input_file, help="Certificate of this client, PEM.")
]
ClientKey = Annotated[Path | None, typer.Option(callback=input_file, help="Its private key, PEM.")]
