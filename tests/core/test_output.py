"""What verbs print for people."""

from swath.cli.output import answer


def test_numbers_have_six_digits(capsys):
    answer({"interval": (1 / 6, 0.5), "step": 1234567, "area": 12345678.94, "small": 1e-9, "bytes": 7588480.0}, False)
    said = capsys.readouterr().out
    assert "0.166667, 0.5" in said and "1234567" in said and "12345678.9" in said and "1e-09" in said
    assert "7588480\n" in said
