import pytest

from surgjax.interop import licence


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], "unknown"),
        (["CC0-1.0"], "Apache-2.0"),
        (["MIT", "Apache-2.0", "CC-BY-4.0"], "Apache-2.0"),
        (["CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-NC-4.0", "CC0-1.0"], "CC-BY-NC-4.0"),
        (["CC BY-NC-SA 4.0", "cc-by-nc-4.0"], "CC-BY-NC-SA-4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-SA-4.0"),  # both conditions are kept
        (["CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"], "CC-BY-NC-ND-4.0"),
        (["CC-BY-ND-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-ND-4.0"),
        (["Apache-2.0", "unknown"], "unknown"),
        (["DINOv3 License", "MIT"], "unknown"),
        (["unverified"], "unknown"),
    ],
)
def test_combined_terms(names, expected):
    assert licence.combined(names) == expected
    assert licence.combined(reversed(names)) == expected


def test_every_licence_keeps_its_own_conditions():
    for name, conditions in licence.CONDITIONS.items():
        assert conditions <= licence.CONDITIONS[licence.combined([name])]


def test_notes_name_each_condition_once():
    notes = " ".join(licence.notes(["CC-BY-NC-ND-4.0", "CC-BY-NC-SA-4.0", "private"]))
    for words in ("no commercial use", "no derivatives", "same terms", "not known"):
        assert notes.count(words) == 1
    assert licence.notes(["MIT", "CC-BY-4.0"]) == []
    assert len(licence.notes(["private"])) == 1
