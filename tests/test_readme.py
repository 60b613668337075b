"""The README's blocks marked as tested run as printed, and every command it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import users_environment

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TESTED = re.findall(r"<!-- tested -->\n```sh\n(.*?)```", README, re.S)


def commands(block):
    lines = block.replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_your_own_videos(corpus, tmp_path):
    """Bring your own videos, with a shorter training."""
    videos = tmp_path / "VIDEOS"
    videos.symlink_to(corpus / "videos")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = users_environment(PYTHONPATH=str(ROOT))
    assert len(TESTED) == 1
    for command in commands(TESTED[0]):
        if "surgjax.main" in command:
            command += " --config.total_steps=2 --config.batch_size=2"
        command = command.replace("python ", f"{sys.executable} ", 1)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "OUT" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"python -m ([\w.]+)", README))))
def test_commands_exist_and_have_help(name):
    done = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_links_and_files_named_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for anchor in re.findall(r"\]\(#([\w-]+)\)", README):
        titles = [t.lower().replace(" ", "-") for t in re.findall(r"^#+ (.*)$", README, re.M)]
        assert anchor in titles, anchor
    for config in re.findall(r"configs/\w+\.py", README):
        assert (ROOT / config).is_file()
