"""The command that scores synthetic sets."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Flags, Fresh, Output, Sets, TrainingMachine, command
from raydd.cli.output import end, show_scores, with_missing
from raydd.cli.paths import existing_buffer, local_paths, out_location, row_names
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.schema import EvaluateConfig

app = typer.Typer()


EVALUATE = "dataset networks=nets seeds protocol baselines scores paper test preprocessing lr layout=format seed"
_BUFFER = "Buffer of experts: they choose herding, kcenter and forgetting, and label random images for --scores."
_OUT = "JSON file to write, or a folder; or a URI."


def own_scores(out: str | None) -> str | None:
    """Return the file that scores go to, a path or a URI; a path is checked."""
    if out is not None and "://" not in (out := out_location(out, "scores.json")):
        check_scores(Path(out))
    return out


def check_scores(path: Path) -> None:
    """Refuse a file that is no JSON, or holds anything but older scores."""
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


@command(app, "raydd evaluate runs/digits/synset.arrow --nets ConvNetW32,MLP --seeds 5", main="nets seeds out")
def evaluate(
    synsets: Sets,
    values: Annotated[Tree, Flags(EvaluateConfig, EVALUATE)],
    where: TrainingMachine,
    screen: Output,
    buffer: Annotated[str | None, typer.Option(help=_BUFFER, callback=existing_buffer)] = None,
    fresh: Fresh = False,
    out: Annotated[str | None, typer.Option(help=_OUT, callback=own_scores)] = None,
) -> None:
    """Train fresh networks on synthetic sets and measure their accuracy on the real test images.

    Real images of the same number, selected in several ways, are scored beside them.
    """
    config = configure(EvaluateConfig, values)
    from raydd.api import evaluate as evaluation
    from raydd.interop.layouts import detect
    from raydd.run.storage import open_file

    paths = local_paths(synsets, screen.note)
    for path in paths:
        detect(path, config.layout)
    names = None if len(synsets) == 1 else row_names(synsets)
    with open_file(out, "raydd evaluate", screen.note) if out else nullcontext() as place:
        if place is not None:
            check_scores(place[1])
        inputs = evaluation.inputs_document(paths, config, synsets)
        scores, missing = with_missing(
            lambda: evaluation.evaluate(
                paths, config, buffer=buffer, names=names, fresh=fresh, where=where, screen=screen
            )
        )
        report = evaluation.report(scores, config, inputs, missing, names)
        show_scores(screen, scores, {} if place is None else {"scores": place[0].output(place[1])}, report)
        if place is not None:  # last: the scores have been shown, should the file not be writable
            evaluation.save_scores(scores, place[1], report)
    end(screen, missing)
