"""config.json of public models: loaded with the sizes it says, or refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import odd_json

pytestmark = pytest.mark.torch
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("torch")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    out = tmp_path_factory.mktemp("models")
    pictures = {"image_size": 32, "patch_size": 16}
    for name, more in {
        "ViT": pictures,
        "VideoMAE": pictures | {"num_frames": 4, "tubelet_size": 2},
        "Bert": {"vocab_size": 40, "max_position_embeddings": 16},
    }.items():
        config = getattr(transformers, f"{name}Config")(**SMALL, **more)
        getattr(transformers, f"{name}Model")(config).eval().save_pretrained(out / name)
    return out


def model(folder: Path, whole: str, case: tuple[str, bytes]) -> str:
    from surgjax.interop import public
    from surgjax.state import flatten

    name, data = case
    path = folder / name
    shutil.copytree(Path(whole) / name, path)
    (path / "config.json").write_bytes(data)
    found = public.load(path)
    assert all(np.isfinite(leaf).all() for leaf in flatten(found.params).values())
    about = json.loads(data)
    seen = SMALL.keys() & about.keys() - {"num_attention_heads"}  # weights do not tell of heads
    assert all(about[name] == SMALL[name] for name in seen)
    return "read"


def test_what_a_config_says_is_checked_against_the_weights(for_all, folders):
    cases = st.one_of(
        *(
            st.tuples(
                st.just(folder.name), odd_json(json.loads((folder / "config.json").read_text()))
            )
            for folder in sorted(folders.iterdir())
        )
    )
    about = json.loads((folders / "ViT" / "config.json").read_text())
    odd = [{"architectures": [["x"]]}, {"num_attention_heads": 0}, {"hidden_size": 10**15}]
    examples = [(str(folders), ("ViT", json.dumps(about | one).encode())) for one in odd]
    outcomes = for_all(model, st.just(str(folders)), cases, examples=examples)
    assert outcomes["read"] and len(outcomes) > 3
