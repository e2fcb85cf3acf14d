"""Every file of a group holds the same number of bands, as the card says or as most files do."""

from __future__ import annotations

from collections.abc import Iterator

from swath.data.check.finding import Finding
from swath.data.check.layout import majority
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    for groups in (survey.images(), survey.masks()):
        for group, pairs in groups.items():
            counts = [f.profile.bands for _, f in pairs if f.profile]
            expect = survey.expects.get(group)
            if expect is not None and expect.declared:
                want, whose = expect.channels, "the card says"
            else:
                found, n, total = majority(counts)
                want, whose = int(str(found)), f"{n} of {total} files in {group}/ have"
            for _, f in pairs:
                if f.profile and f.profile.bands != want:
                    yield Finding(
                        "band-count", "error", f.file, f"has {f.profile.bands} bands; {whose} {want}",
                        value=f.profile.bands, remedy="write the file with the same bands as the others",
                    )  # fmt: skip


MEMBER = Check("band count against the card or the majority", _run)
