"""The commands of data_prep/README.md run as printed, on miniatures."""

import re
import shlex
import shutil
from pathlib import Path

import layouts.cholec80
import layouts.surglavi

from data_prep.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "data_prep" / "README.md").read_text(encoding="utf-8")


def run(section: str, verbs: set[str]) -> list[str]:
    """Run the section's commands of these verbs here; returns the verbs that ran."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]
    ran = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", "data_prep"] and words[3] in verbs:
                assert main([*words[3:], *["--workers=1"] * (words[3] == "shards")]) == 0, line
                ran.append(words[3])
    return ran


def test_a_public_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.cholec80.make(Path("DIR"))
    assert run("Use a public dataset", {"check", "shards", "verify"}) == [
        *("check", "shards", "verify"),
    ]
    for name in ("STORE1", "STORE2"):
        shutil.copytree("STORE", name)
    assert run("Use a public dataset", {"overlap"}) == ["overlap"]


def test_a_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.surglavi.make(Path("DIR"))
    shutil.copy("DIR/surglavi_beta.db", ".")
    ran = run("Download a catalogue", {"catalogue", "shards"})  # the others need the web
    assert ran == ["catalogue", "shards"] and Path("CATALOGUE/explore.html").is_file()


def test_own_recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", "--videos", "2", "--seconds", "6", "--out", "CORPUS"]) == 0
    shutil.copytree("CORPUS/videos", "VIDEOS")
    assert run("Look through recordings first", {"qc", "shards"}) == ["qc", "shards"]
    assert Path("QC/qc.html").is_file() and Path("KEY").is_file()
    assert run("Which kind of store", {"shards"}) == ["shards"]
    shutil.move("STORE", "STORE1")
    shutil.move("DENSE", "STORE2")
    assert run("What a corpus holds", {"inventory"}) == ["inventory"]
    assert Path("inventory/inventory.html").is_file()


def test_clips_for_curation(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(store, "STORE")
    assert run("Curate", {"clips"}) == ["clips"]


def test_links_and_sections_exist():
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", README):
        assert (ROOT / "data_prep" / target).exists(), target
    titles = [title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", README, re.M)]
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    for anchor in re.findall(r"data_prep/README\.md#([\w-]+)", front):
        assert anchor in titles, anchor
