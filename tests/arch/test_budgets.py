"""The budgets of the house, over the AST."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "swath"
FILES = sorted(SRC.rglob("*.py"))
BAD_WORDS = ("Generic", "Base", "Manager")


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node):
    return node.end_lineno - node.lineno + 1


def p90(values):
    return sorted(values)[int(0.9 * (len(values) - 1))] if values else 0


TREES = {p: ast.parse(p.read_text()) for p in FILES}


def test_file_lengths():
    lengths = {p: len(p.read_text().splitlines()) for p in FILES}
    assert p90(list(lengths.values())) <= 450
    assert not {str(p): n for p, n in lengths.items() if n > 700}
    cli = {str(p): n for p, n in lengths.items() if p.parent.name == "cli" and n > 80}
    assert not cli, "one file per verb, 80 lines at most"


def test_function_lengths():
    sizes = {f"{p}:{f.lineno} {f.name}": length(f) for p, t in TREES.items() for f in functions(t)}
    assert p90(list(sizes.values())) <= 45
    assert not {k: n for k, n in sizes.items() if n > 80}


def test_signatures_are_short():
    wide = {}
    for path, tree in TREES.items():
        if "cli" in path.relative_to(SRC).parts:
            continue
        for f in functions(tree):
            names = [a.arg for a in f.args.posonlyargs + f.args.args + f.args.kwonlyargs]
            if len([n for n in names if n not in ("self", "cls")]) > 8:
                wide[f"{path}:{f.lineno}"] = f.name
    assert not wide, "more than eight parameters: use a config object"


def test_no_kwargs_and_no_print():
    found = []
    for path, tree in TREES.items():
        adapter = "thin adapter" in (ast.get_docstring(tree) or "").lower()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg and not adapter:
                found.append(f"{path}:{node.lineno} **kwargs")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{path}:{node.lineno} print")
    assert not found


def test_names_and_docstrings():
    bad = []
    for path, tree in TREES.items():
        if not ast.get_docstring(tree):
            bad.append(f"{path}: no module docstring")
        if path.stem in ("utils", "helpers", "common", "misc"):
            bad.append(f"{path}: says nothing")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                if node.name.startswith("My") or any(w in node.name for w in BAD_WORDS):
                    bad.append(f"{path}: {node.name}")
    assert not bad


def test_inheritance_depth():
    """A class of ours is abstract or final: a subclass of ours is not subclassed again."""
    parents = {}
    for path, tree in TREES.items():
        if path.name == "errors.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                parents[node.name] = [b.id for b in node.bases if isinstance(b, ast.Name) and b.id != "Protocol"]

    def depth(name, seen=()):
        if name not in parents or name in seen:
            return 0
        return 1 + max([depth(b, (*seen, name)) for b in parents[name]], default=0)

    deep = {n: depth(n) for n in parents if depth(n) > 2}
    assert not deep


@pytest.mark.parametrize("words", [("/work/", "/root/", "pypi" + ".org", "pythonhosted")])
def test_no_machine_paths(words):
    found = [str(p) for p in FILES for w in words if w in p.read_text()]
    assert not found
