"""The Python interface as a whole: which names, and what they say of themselves."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import raydd

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in raydd.__all__ if inspect.isfunction(getattr(raydd, name))]
CLASSES = [name for name in raydd.__all__ if inspect.isclass(getattr(raydd, name))]
TABLES = [name for name in raydd.__all__ if isinstance(getattr(raydd, name), dict)]


def test_there_are_about_two_dozen_names_and_each_is_found():
    assert 20 <= len(raydd.__all__) <= 25
    assert len(FUNCTIONS) + len(CLASSES) + len(TABLES) == len(raydd.__all__) == len({*raydd.__all__})
    assert {*raydd.__all__} <= {*dir(raydd)}
    with pytest.raises(AttributeError, match="'raydd' has no attribute 'Synset'"):
        raydd.Synset  # noqa: B018


@pytest.mark.rows("name", FUNCTIONS)
def test_functions_document_what_they_take_give_and_raise(name):
    function = getattr(raydd, name)
    text = inspect.getdoc(function)
    kinds = {parameter: value.kind for parameter, value in inspect.signature(function).parameters.items()}
    words = [f"**{word}" if kind is inspect.Parameter.VAR_KEYWORD else word for word, kind in kinds.items()]
    assert [word for word in words if f"\n    {word}: " not in text] == []
    assert [part for part in ("Args", "Returns", "Raises") if f"\n{part}:\n" not in text] == []
    assert {*function.__annotations__} == {*kinds, "return"}


@pytest.mark.rows("name", FUNCTIONS)
def test_functions_have_an_example_that_is_run(name):
    """A doctest of its own, or of another function, or a script of examples/, which has tests too."""
    text = inspect.getdoc(getattr(raydd, name))
    scripts = re.findall(r"examples/(\w+)\.py", text)
    others = [other for other in re.findall(r"`(\w+)` has an example", text) if other in FUNCTIONS]
    assert ">>> " in text or scripts or others
    for script in scripts:
        assert f"raydd.{name}(" in (ROOT / "examples" / f"{script}.py").read_text()
    for other in others:
        assert f">>> {name}(" in inspect.getdoc(getattr(raydd, other)).replace("raydd.", ">>> ")


@pytest.mark.rows("name", CLASSES)
def test_classes_document_their_fields(name):
    kind = getattr(raydd, name)
    text = inspect.getdoc(kind)
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", None)
    fields = fields or getattr(kind, "_fields", None) or inspect.signature(kind).parameters
    assert len(fields) > 1
    assert [field for field in fields if f"\n    {field}: " not in text] == []


@pytest.mark.rows("name", TABLES)
def test_tables_are_documented_where_they_are_made(name):
    source = (ROOT / "raydd" / raydd._HOMES[name].replace(".", "/")).with_suffix(".py")
    source = source if source.exists() else source.with_suffix("") / "__init__.py"
    lines = ast.parse(source.read_text()).body
    made = next(
        place
        for place, line in enumerate(lines)
        if isinstance(line, ast.Assign | ast.AnnAssign)
        and name in [target.id for target in getattr(line, "targets", [getattr(line, "target", None)])]
    )
    text = lines[made + 1]
    assert isinstance(text, ast.Expr)
    assert len(ast.literal_eval(text.value)) > 40
