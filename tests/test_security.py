"""What the project never does, names that lead out of folders, secrets, and who may read a run."""

import ast
import base64
import json
import logging
import os
import re
import shutil
import sqlite3
import stat
import tomllib
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from packaging.requirements import Requirement

from data_prep import catalogue, decisions
from data_prep.__main__ import main as data_prep
from data_prep.verify import check_store
from surgjax import export
from surgjax import main as surgjax_main
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.inside import inside
from surgjax.interop import files

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = [
    p for room in ("surgjax", "data_prep", "configs", "launch") for p in (ROOT / room).rglob("*.py")
]
# The one place that may do what no other does.
PLACES = {
    "pickle": "data_prep/label_files.py",
    "the network": "data_prep/fetching.py",
    "a video": "data_prep/media.py",
    "SQLite": "data_prep/catalogue.py",
}


# --- what is never called ----------------------------------------------------------------------


def dangers(text: str) -> list[tuple[str, int]]:
    """(what, line) of calls and imports that strange files could misuse."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += (
                [f"{node.module}.{n}" for n in names] if isinstance(node, ast.ImportFrom) else []
            )
            found += [(what, node.lineno) for name in names if (what := _imported(name))]
        elif isinstance(node, ast.Call):
            found += [(what, node.lineno) for what in _called(node)]
        elif isinstance(node, ast.ClassDef):
            found += [("pickle", node.lineno) for b in node.bases if "Unpickler" in ast.unparse(b)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines = [line for line in node.value.splitlines() if re.search(r"torch\.load\(", line)]
            found += [("torch.load", node.lineno) for x in lines if "weights_only=True" not in x]
    return found


def _imported(name: str) -> str | None:
    if re.match(r"(urllib\.request|http\.client|requests|httpx|aiohttp|yt_dlp)\b", name):
        return "the network"
    return "pickle" if re.match(r"(cloudpickle|dill|joblib|marshal|shelve)\b", name) else None


def _called(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
    rules = {
        "a shell": re.fullmatch(r"os\.(system|popen|spawn\w+)|subprocess\.get\w*output", name)
        or given.get("shell", "False") != "False",
        "pickle": re.fullmatch(r"c?[pP]ickle\.(loads?|Unpickler)", name),
        "text as code": re.fullmatch(r"(builtins\.)?(eval|exec|__import__)", name),
        "yaml": re.fullmatch(r"yaml\.\w*load(_all)?", name) and "safe" not in name,
        "an archive": name.endswith("unpack_archive")
        or (re.search(r"\.extract(all)?$", name) and given.get("filter") != "'data'"),
        "torch.load": name.endswith("torch.load") and given.get("weights_only") != "True",
        "pickle in numpy": given.get("allow_pickle", "False") != "False",
        "remote code": given.get("trust_remote_code", "False") != "False",
        "a guessable name": name.endswith("mktemp"),
        "the network": name.endswith("urlopen"),
        "a video": name.endswith("av.open") and [ast.unparse(a) for a in call.args[1:2]] != ["'w'"],
        "SQLite": name.endswith("sqlite3.connect"),
    }
    return [what for what, matches in rules.items() if matches]


DANGEROUS = {
    "a shell": "os.system('ls'); os.popen('ls'); subprocess.run('ls', shell=True)",
    "pickle": "pickle.load(f); pickle.loads(b); import joblib",
    "text as code": "eval(x); exec(x)",
    "yaml": "yaml.load(f, yaml.Loader); yaml.full_load(f)",
    "an archive": "tar.extractall(); zipped.extract(x); shutil.unpack_archive(x)",
    "torch.load": "torch.load(p); torch.load(p, weights_only=False); 'torch.load(p)'",
    "pickle in numpy": "np.load(p, allow_pickle=True)",
    "remote code": "AutoModel.from_pretrained(p, trust_remote_code=True)",
    "a guessable name": "tempfile.mktemp()",
    "the network": "import requests; from urllib.request import urlopen; urlopen(u)",
    "a video": "av.open(p); av.open(p, 'r')",
    "SQLite": "sqlite3.connect(p)",
}
HARMLESS = """
subprocess.run(["ls"], shell=False); yaml.safe_load(f); tar.extractall(x, filter="data")
torch.load(p, weights_only=True); np.load(p, allow_pickle=False); model.eval(); re.compile(x)
av.open(p, "w"); "torch.load(p, weights_only=True)"
"""


@pytest.mark.parametrize("what", DANGEROUS)
def test_the_search_finds(what):
    parts = DANGEROUS[what].split("; ")
    assert [what in {w for w, _ in dangers(part)} for part in parts] == [True] * len(parts)
    assert dangers(HARMLESS) == []


def test_no_program_calls_what_strange_files_could_misuse():
    found = [
        (what, f"{path.relative_to(ROOT)}:{line}")
        for path in PROGRAMS
        for what, line in dangers(path.read_text(encoding="utf-8"))
        if PLACES.get(what) != str(path.relative_to(ROOT))
    ]
    assert len(PROGRAMS) > 200 and found == []


def test_no_adapter_opens_a_recording_in_the_process_that_reads_its_labels():
    adapters = sorted((ROOT / "data_prep" / "sources").glob("*.py"))
    opened = [a.name for a in adapters if re.search(r"\bprobe\(|kept_frames|\bav\b", a.read_text())]
    assert len(adapters) > 30 and opened == []


def test_no_script_of_launch_evaluates_text_or_pipes_the_network_into_a_shell():
    scripts = [p for p in (ROOT / "launch").rglob("*") if p.suffix in (".sh", ".sbatch")]
    odd = [
        f"{path.name}: {line}"
        for path in scripts
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"^\s*eval\b|\|\s*(ba|z)?sh\b", line)
    ]
    assert odd == []


# --- names that lead out of a folder -----------------------------------------------------------

HOSTILE = [
    "/etc/passwd",
    "../secret",
    "a/../../secret",
    "..",
    "..\\secret",
    "C:\\secret",
    "c:secret",
    "\\\\host\\share",
    "a\0b",
    "a\nb",
    "",
    None,
    7,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path, name):
    with pytest.raises(UserError, match="^x.json names"):
        inside(tmp_path, name, "x.json")


@pytest.mark.parametrize(
    "name",
    ["a", "a/b.parquet", "a..b", ".a", "ä b", "labels/a.parquet", ".", "術\u30001", "9\u202fAM"],
)
def test_honest_names(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


def test_an_odd_name_costs_its_recording_alone(tmp_path):
    from data_prep.sources import folder

    names = ("A:1.mp4", "a\nb.mp4", "手術\u30001.mp4", "9.41\u202fAM.mov")
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    paths, refused = folder.walk(tmp_path)
    assert [path.name for path in paths] == sorted(names[2:])
    assert [row.path for row in refused] == sorted(names[:2])


@pytest.fixture
def own_store(store, tmp_path) -> Path:
    return shutil.copytree(store, tmp_path / "store")


@pytest.mark.parametrize("part", ["shards", "tables", "tasks"])
@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_a_store_names_nothing_outside_of_it(own_store, tmp_path, part, name):
    about = own_store / "store.json"
    meta = json.loads(about.read_text())
    if part == "shards":
        meta["shards"][0]["file"] = name
    else:
        meta[part][name] = next(iter(meta[part].values()))
    about.write_text(json.dumps(meta))
    before = sorted(tmp_path.rglob("*"))
    for look in (open_store, lambda path: list(check_store(path))):
        with pytest.raises(UserError, match="store.json names"):
            look(own_store)
    with pytest.raises(UserError, match="store.json names"):
        data_prep(["inspect", str(own_store)])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_index_of_weights_names_files_of_its_own_folder(tmp_path):
    files.write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(2, np.float32)}, {})
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("../x.safetensors", str(tmp_path / "x.safetensors"), "a/../../x.safetensors"):
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match="expected .safetensors files of its own folder"):
            files.read(folder)


@pytest.mark.parametrize("shape", [[0, 2**61], [1] * 40, [2**61, 0], [2**31, 2**31, 0]])
def test_a_tensor_that_no_array_can_be_is_refused(tmp_path, shape):
    size = 4 * int(np.prod([float(n) for n in shape]) > 0)
    entry = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(entry).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    with pytest.raises(UserError, match="which no array can have"):
        files.read_safetensors(path)


def test_tables_of_qc_are_in_its_folder(tmp_path):
    strange = {"../../etc/passwd": "0" * 64, **dict.fromkeys(decisions.TABLES, "0" * 64)}
    about = {"about": {}, "source": "folder", "tables": strange}
    (tmp_path / "qc.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="qc.json names"):
        decisions.check_tables(tmp_path)


def test_a_plan_of_somebody_else_reads_no_other_folder(tmp_path):
    import small_videos as make

    make.write_video(tmp_path / "secret.mp4", 20)
    make.write_video(tmp_path / "videos" / "a.mp4", 20)
    command = ["shards", "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "store")]
    plan = tmp_path / "store" / "plan.json"
    from data_prep import engines

    def stop(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engines, "local", stop)
        data_prep([*command, "--workers", "1"])
    plan.write_text(plan.read_text().replace('"a.mp4"', '"../secret.mp4"'))
    with pytest.raises(UserError, match=r"plan.json names '../secret.mp4'"):
        data_prep([*command, "--workers", "1"])


# --- SQLite ------------------------------------------------------------------------------------


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as made, made:
        for statement in statements:
            made.execute(statement)
    return path


def test_a_query_that_does_not_end_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "MAX_SECONDS", 0.2)
    rows = ", ".join(f"({i})" for i in range(400))
    path = database(tmp_path / "a.db", "CREATE TABLE a (x)", f"INSERT INTO a VALUES {rows}")
    with (
        pytest.raises(UserError, match="a.db: interrupted"),
        catalogue.opened(path) as opened,
    ):
        opened.execute("SELECT count(*) FROM a, a AS b, a AS c").fetchone()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW captions AS SELECT * FROM videos",
        "CREATE VIEW captions AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
        "SELECT x FROM n",
        "CREATE VIEW captions AS SELECT load_extension('x')",
    ],
)
def test_a_view_in_a_table_s_place_is_not_read(tmp_path, statement):
    path = database(tmp_path / "a.db", "CREATE TABLE videos (video_id, url)", statement)
    with pytest.raises(UserError, match="a.db: (access to|not authorized|unsafe use)"):
        with catalogue.opened(path) as opened:
            opened.execute("SELECT * FROM captions LIMIT 1").fetchall()
    with pytest.raises(UserError, match="no table captions, found videos"):
        list(catalogue.read_rows(path, "captions"))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO a VALUES (2)",
        "DROP TABLE a",
        "ATTACH ':memory:' AS b",
        "PRAGMA writable_schema = ON",
        "VACUUM INTO 'b.db'",
    ],
)
def test_a_catalogue_is_only_read(tmp_path, monkeypatch, statement):
    monkeypatch.chdir(tmp_path)
    path = database(tmp_path / "a.db", "CREATE TABLE a (x)", "INSERT INTO a VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(UserError), catalogue.opened(path) as opened:
        opened.execute(statement)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize(
    "url",
    ["ftp://ann:pa55@a.org/x", "https://ann:pa55@a.org:99999/x", "https://ann:pa55@a.org/x y\tz"],
)
def test_logins_in_addresses_are_not_shown(tmp_path, url):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"video_id": "a", "url": url}) + "\n")
    (line,) = catalogue.read(path).refused
    assert "pa55" not in line and "ann" not in line


# --- secrets -----------------------------------------------------------------------------------

SECRETS = {
    name: f"{name.lower()}-5ecre7"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SURGJAX_COOKIES")
}

CONFIG = """
from pathlib import Path
from runs import tiny
def get_config(variant):
    cfg = tiny(Path({store!r}))
    cfg.evals.vectors = dict(store={store!r}, every=0)
    return cfg
"""


@pytest.fixture(scope="module")
def private_run(store, tmp_path_factory):
    """(folder of a run made with --private and of its export, all that was printed)."""
    root = tmp_path_factory.mktemp("secrets")
    config = root / "mine.py"
    config.write_text(CONFIG.format(store=str(store)))
    flags = [f"--config={config}", f"--workdir={root / 'run'}", "--private"]
    said, mask = [], os.umask(0)
    os.umask(mask)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("HTTPS_PROXY", f"http://ann:{SECRETS['HF_TOKEN']}@127.0.0.1:9")
        stream, handler = open(root / "log", "w+"), None
        try:
            handler = logging.StreamHandler(stream)
            logging.getLogger().addHandler(handler)
            patch.setattr("sys.stderr", stream)
            patch.setattr("sys.stdout", stream)
            assert surgjax_main.main(flags) == 0
            assert surgjax_main.main([*flags, "--mode=evaluate"]) == 0
            assert export.main([f"--run={root / 'run'}", f"--out={root / 'out'}"]) == 0
            for wrong in ("--config.data.stores=/nowhere", f"--token={SECRETS['HF_TOKEN']}"):
                with pytest.raises(UserError) as error:
                    surgjax_main.main([flags[0], f"--workdir={root / 'failed'}", wrong])
                said.append(str(error.value))
        finally:
            logging.getLogger().removeHandler(handler)
            os.umask(mask)
            stream.flush()
            said.append((root / "log").read_text())
            stream.close()
    return root, "\n".join(said)


def test_no_secret_is_in_anything_a_run_writes_or_prints(private_run):
    root, said = private_run
    written = [p for p in root.rglob("*") if p.is_file()]
    names = {p.name for p in written}
    assert {
        "config.json",
        "train.log",
        "metrics.jsonl",
        "model.safetensors",
        "DIGESTS.json",
    } <= names
    assert "loss" in (root / "run" / "metrics.jsonl").read_text() and len(said) > 200
    for secret in SECRETS.values():
        for form in (secret.encode(), base64.b64encode(secret.encode())[:-4]):
            assert form not in said.encode()
            assert [p.name for p in written if form in p.read_bytes()] == []


def test_only_the_owner_reads_a_private_run(private_run):
    root, _ = private_run
    for path in [root / "run", *(root / "run").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_run_s_old_folder_is_made_private(tmp_path):
    before = os.umask(0o022)
    try:
        (tmp_path / "run").mkdir()
        surgjax_main._keep_private(str(tmp_path / "run"))
        (tmp_path / "run" / "a").write_text("x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("run", "run/a")]
    assert modes == [0o700, 0o600]


def test_a_config_of_elsewhere_is_said_to_be_executed(private_run, tmp_path, monkeypatch, capsys):
    root, said = private_run
    assert said.count(f"{root / 'mine.py'} is no config of this project; it is executed") == 3
    surgjax_main._load_config(f"{ROOT / 'configs' / 'surgrec_mae.py'}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "surgrec_mae.py", tmp_path / "configs" / "own.py")
    surgjax_main._load_config("configs/own.py")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o700])
def test_compiled_programs_that_others_can_change_are_not_used(tmp_path, monkeypatch, caplog, mode):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
    try:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        surgjax_main._private_compilation_cache()
        trusted = jax.config.jax_compilation_cache_dir == str(cache)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert trusted == (mode == 0o700)
    assert ("chmod 700" in caplog.text) == (mode != 0o700)


# --- what is installed -------------------------------------------------------------------------


def locked(python: str) -> dict[str, str]:
    """Name -> version that requirements.lock has for a Python on Linux."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    environment = {
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line.split("--hash")[0].strip())
        assert re.fullmatch(r"(\s*--hash=sha256:[0-9a-f]{64})+\s*", line[line.index(" --hash") :])
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (only,) = requirement.specifier
            assert only.operator == "==" and requirement.name not in found
            found[requirement.name] = only.version
    return found


def wanted() -> list[Requirement]:
    lines = [x.split("#")[0].strip() for x in (ROOT / "requirements.txt").read_text().splitlines()]
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines += about["project"]["optional-dependencies"]["test"]
    return [Requirement(line) for line in lines if line]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_has_what_requirements_and_tests_ask_for(python):
    plain = {re.sub(r"[-_.]+", "-", name).lower(): v for name, v in locked(python).items()}
    asked = wanted()
    assert len(asked) > 30
    for requirement in asked:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(plain[name]), requirement


def test_the_lock_is_for_everybody():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text
