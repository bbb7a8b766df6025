"""The command that scores synthetic sets."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Flags, Fresh, Output, Sets, TrainingMachine, command
from raydd.cli.output import end, show_scores, with_missing
from raydd.cli.paths import existing_buffer, local_paths, out_file, row_names
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.schema import EvaluateConfig

app = typer.Typer()


EVALUATE = "dataset networks=nets seeds protocol baselines scores paper test preprocessing lr layout=format seed"
_BUFFER = "Buffer of experts: they choose herding, kcenter and forgetting, and label random images for --scores."


def own_scores(out: Path | None) -> Path | None:
    """Return the file that scores go to, which replaces nothing but older scores.

    Raises:
        ValueError: It is another kind of file.
    """
    if out is None:
        return None
    path = out_file(out, "scores.json")
    from raydd.io.bounded_file import read_bytes
    from raydd.io.document import parse

    if path.suffix != ".json":
        raise ValueError(f"--out {path}: scores are JSON; use {path.with_suffix('.json')}, or a folder that exists")
    try:
        own = not path.exists() or "scores" in parse(read_bytes(path))
    except (ValueError, TypeError, OSError):
        own = False
    if not own:
        raise ValueError(f"--out {path} holds no scores of `raydd evaluate` and would be replaced; name another file")
    return path


@command(app, "raydd evaluate runs/digits/synset.arrow --nets ConvNetW32,MLP --seeds 5", main="nets seeds out")
def evaluate(
    synsets: Sets,
    values: Annotated[Tree, Flags(EvaluateConfig, EVALUATE)],
    where: TrainingMachine,
    screen: Output,
    buffer: Annotated[str | None, typer.Option(help=_BUFFER, callback=existing_buffer)] = None,
    fresh: Fresh = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write, or a folder.", callback=own_scores)] = None,
) -> None:
    """Train fresh networks on synthetic sets and measure their accuracy on the real test images.

    Real images of the same number, selected in several ways, are scored beside them.
    """
    config = configure(EvaluateConfig, values)
    from raydd.api import evaluate as evaluation
    from raydd.interop.layouts import detect
    from raydd.io.lock import alone

    paths = local_paths(synsets, screen.note)
    for path in paths:
        detect(path, config.layout)
    names = None if len(synsets) == 1 else row_names(synsets)
    with alone(out, "raydd evaluate", screen.note, beside=True) if out else nullcontext():
        inputs = evaluation.inputs_document(paths, config)
        scores, missing = with_missing(
            lambda: evaluation.evaluate(
                paths, config, buffer=buffer, names=names, fresh=fresh, where=where, screen=screen
            )
        )
        report = evaluation.report(scores, config, inputs, missing, names)
        show_scores(screen, scores, {} if out is None else {"scores": str(out)}, report)
        if out is not None:  # last: the scores have been shown, should the file not be writable
            evaluation.save_scores(scores, out, report)
    end(screen, missing)
