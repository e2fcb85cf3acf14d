def test_listing_needs_no_import_and_says_what_a_member_is():
    import subprocess
    import sys

    from swath.cli import families

    for name in families.known():
        real, light = families.family(name), families.listing(name)
        assert light.names() == real.names() and (light.kind, light.suffix) == (real.kind, real.suffix), name
        silent = [n for n in light.names() if not light.about(n) and name != "weights"]
        assert not silent, f"{name}: {silent} say nothing about themselves"
    code = (
        "import sys; sys.argv = ['swath', 'list', 'objectives']\n"
        "from swath.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Masked autoencoder" in done.stdout
