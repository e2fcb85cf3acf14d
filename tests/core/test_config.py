"""Config: YAML is the value written down; a wrong key, kind or type is an error that names the nearest right one."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from swath.core import Family, SwathError, UnknownName, UserError
from swath.core.config import digest, load, override, parse, plain, save


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    package = root / "shape_members"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, body in {
        "round_one": "radius: float = 1.0",
        "square": "side: int = 2\n    deep: tuple[int, ...] = (1, 2)",
    }.items():
        (package / f"{name}.py").write_text(
            f"from dataclasses import dataclass\nfrom typing import ClassVar\n@dataclass(frozen=True)\nclass C:\n"
            f'    kind: ClassVar[str] = "{name.replace("_", "-")}"\n    {body}\nMEMBER = C\n'
        )
    (package / "empty.py").write_text("")
    sys.path.insert(0, str(root))
    yield Family("shape", "shape_members")
    sys.path.remove(str(root))


@pytest.fixture
def schema(shapes):
    @dataclass(frozen=True)
    class Inner:
        a: int = 1
        b: float | None = None

    @dataclass(frozen=True)
    class Run:
        name: str
        shape: Annotated[Any, shapes]
        inner: Inner = Inner()
        many: tuple[Annotated[Any, shapes], ...] = ()
        out: Path = Path("out")
        kind: ClassVar[str] = "run"

    Run.__annotations__.update(inner=Inner, shape=Annotated[Any, shapes], many=tuple[Annotated[Any, shapes], ...])
    Run.__annotations__.update(name=str, out=Path, kind=ClassVar[str])
    Inner.__annotations__.update(a=int, b=float | None)
    return Run


def test_parse_and_back(schema):
    run = parse(
        {"name": "x", "shape": "square", "inner": {"a": 3}, "many": ["round-one", {"kind": "square", "side": 5}]},
        schema,
    )
    assert run.shape.side == 2 and run.inner.a == 3 and [type(m).kind for m in run.many] == ["round-one", "square"]
    data = plain(run)
    data.pop("kind")
    assert parse(data, schema) == run and digest(parse(data, schema)) == digest(run)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({"name": "x", "shape": "square", "iner": {}}, UnknownName, "did you mean inner"),
        ({"name": "x", "shape": "squares"}, UnknownName, "did you mean square"),
        ({"name": "x", "shape": {"kind": "square", "sied": 3}}, UnknownName, "did you mean side"),
        ({"shape": "square"}, UserError, "'name' is missing"),
        ({"name": "x", "shape": "square", "inner": {"a": "many"}}, UserError, "config.inner.a"),
        ({"name": "x", "shape": 3}, UserError, "kind"),
        ({"name": "x", "shape": "empty"}, SwathError, "declares no MEMBER"),
        ([], UserError, "mapping"),
    ],
)
def test_mistakes_are_named(schema, data, error, words):
    with pytest.raises(error, match=words):
        parse(data, schema)


def test_override_and_files(schema, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("name: x\nshape: square\n")
    run = load(file, schema, ["shape.side=7", "inner.b=0.5", "out=elsewhere"])
    assert run.shape.side == 7 and run.inner.b == 0.5 and run.out == Path("elsewhere")
    save(run, tmp_path / "again.yaml")
    text = (tmp_path / "again.yaml").read_text().replace("kind: run\n", "")
    (tmp_path / "again.yaml").write_text(text)
    assert load(tmp_path / "again.yaml", schema) == run
    with pytest.raises(UserError, match=r"a\.b=value"):
        override({}, ["nothing"])
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.yaml", schema)
    file.write_text("a: [1\n")
    with pytest.raises(UserError, match="not YAML"):
        load(file, schema)


def test_family_names_without_import(shapes):
    assert shapes.names() == ["empty", "round-one", "square"]
    assert "shape_members.square" not in sys.modules or shapes.get("square")
    assert shapes.get("round_one") is shapes.get("round-one")
