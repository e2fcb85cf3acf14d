"""The command and the package start at once: torch and its friends are not loaded."""

import json
import subprocess
import sys

HEAVY = ("torch", "rasterio", "pandas", "scipy", "sklearn", "timm", "matplotlib", "geopandas", "torchvision")
PROBE = "import sys, json; {code}; print(json.dumps(sorted(sys.modules)))"


def loaded(code):
    done = subprocess.run([sys.executable, "-c", PROBE.format(code=code)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_swath_is_light():
    modules = loaded("import swath, swath.core")
    assert not [m for m in modules if m.split(".")[0] in HEAVY]
    assert len([m for m in modules if m.startswith("swath")]) <= 3


def test_help_is_light():
    code = "from swath.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass"
    modules = loaded(f"exec({code!r})")
    assert not [m for m in modules if m.split(".")[0] in (*HEAVY, "numpy", "pydantic")]


def test_what_a_run_reads_first_is_known_without_torch():
    code = "import swath.adapt.opening, swath.adapt.splits, swath.data.sources.folder, swath.train.config"
    assert not [m for m in loaded(code) if m.split(".")[0] in HEAVY]


def test_imports_are_not_searched_for_garbage():
    import gc

    from swath.core.heap import importing

    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.unfreeze()
