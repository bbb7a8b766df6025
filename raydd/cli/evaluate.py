"""The command that scores synthetic sets."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.options import (
    Address,
    AsJson,
    DatasetOption,
    DeviceOption,
    Seed,
    Settings,
    Workers,
    dataset_word,
    given,
    known_device,
    listed,
    out_file,
    row_names,
    show_scores,
)

app = typer.Typer()
Sets = Annotated[
    list[Path], typer.Argument(metavar="SYNSET...", help="Files synset.arrow, run folders, or other projects' files.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do every training anew, also those done before.")]
Paper = Annotated[bool, typer.Option("--paper", help="Score a run's kept steps too: the best on test, as papers do.")]
Buffer = Annotated[
    str | None,
    typer.Option(
        help="Experts, a folder or an URI: they choose herding, kcenter and forgetting, and label random images for "
        "--scores."
    ),
]
Nets = Annotated[
    str | None, typer.Option(help="Networks, with commas; default: the network the set was distilled with.")
]
Baselines = Annotated[
    str | None,
    typer.Option(
        help="Real images beside the sets: random,kmeans,herding,kcenter,forgetting, or none; default: all "
        "(forgetting needs --buffer)."
    ),
]
Space = Annotated[
    str | None, typer.Option(help="Of other projects' files: normalise, zca or raw01; default: normalise.")
]
StepSize = Annotated[
    float | None, typer.Option(help="Of other projects' files: the students' step size; default: theirs, else 0.01.")
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of other projects' files: dcbench, datm, mtt, ddranking, tgdd, dc, hf or png; default: found from the "
        "files' names.",
    ),
]


def own_scores(path: Path) -> Path:
    """The file that scores go to, which replaces nothing but older scores.

    Raises:
        ValueError: It is another kind of file.
    """
    from raydd.io.document import parse
    from raydd.io.regular_file import read_bytes

    if path.suffix != ".json":
        raise ValueError(f"--out {path}: scores are JSON; use {path.with_suffix('.json')}, or a folder that exists")
    try:
        own = not path.exists() or "scores" in parse(read_bytes(path))
    except (ValueError, TypeError, OSError):
        own = False
    if not own:
        raise ValueError(f"--out {path} holds no scores of `raydd evaluate` and would be replaced; name another file")
    return path


@app.command(epilog="Example: raydd evaluate runs/digits/synset.arrow --nets ConvNetW32,MLP --seeds 5")
def evaluate(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Sets,
    dataset: DatasetOption = None,
    nets: Nets = None,
    seeds: Annotated[int, typer.Option(help="Fresh networks a cell.")] = 5,
    protocol: Annotated[
        str, typer.Option(help="mtt, datm, ast, dm, dcbench, tgdd, or a YAML file of a protocol's fields.")
    ] = "mtt",
    baselines: Baselines = None,
    scores: Annotated[str | None, typer.Option(help="Robust scores, with commas: lrs,ars,hlr,ior.")] = None,
    paper: Paper = False,
    test: Annotated[str, typer.Option(help="Of differences between sets: welch or bootstrap.")] = "welch",
    buffer: Buffer = None,
    preprocessing: Space = None,
    lr: StepSize = None,
    format: Layout = None,
    fresh: Fresh = False,
    seed: Seed = 0,
    settings: Settings = None,
    num_workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file, or into a folder.")] = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Train fresh networks on synthetic sets and test them, beside real images of the same number."""
    from raydd.api import evaluate as evaluation
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.schema import EvaluateConfig
    from raydd.interop.layouts import detect
    from raydd.io.console import Screen
    from raydd.io.lock import alone

    screen = Screen(as_json)
    for path in synsets:
        detect(path, format)
    flags = given(dataset=dataset and dataset_word(dataset), baselines=listed(baselines), scores=listed(scores))
    flags |= given(preprocessing=preprocessing, lr=lr, layout=format)
    flags |= {"networks": listed(nets) or (), "seeds": seeds, "seed": seed, "protocol": protocol}
    config = build(EvaluateConfig, flags, {"paper": paper, "test": test}, parse_settings(settings or ()))
    out = out and own_scores(out_file(out, "scores.json"))
    names = None if len(synsets) == 1 else row_names(synsets)
    where = Where(num_workers, address, known_device(device))
    with alone(out, "raydd evaluate", screen.note, beside=True) if out else nullcontext():
        asked = evaluation.asked_for(synsets, config)
        found = evaluation.evaluate(
            synsets, config, buffer=buffer, names=names, fresh=fresh, where=where, screen=screen
        )
        report = evaluation.report(found, config, asked)
        outputs = {} if out is None else {"scores": str(out)}
        show_scores(screen, report["scores"], outputs, report)
        if out is not None:  # last: what cannot be written has been shown
            evaluation.save_scores(report["scores"], out, report)
