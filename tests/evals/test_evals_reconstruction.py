import cv2
import numpy as np
import pytest

from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals import reconstruction
from surgjax.evals.model import Model

CLIP = ClipShape(4, 4, 32)  # 2 x 2 x 2 cubes


def statistics_of(video, masked):
    """Normalised pixels, mean and deviation of hidden cubes, cube by cube."""
    target, mean, std = [], [], []
    for clip, hidden in zip(video, masked, strict=True):
        for at in hidden:
            t, y, x = np.unravel_index(at, (2, 2, 2))
            cube = clip[2 * t : 2 * t + 2, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] / 255.0
            mean.append(cube.mean((0, 1, 2)))
            std.append(cube.reshape(-1, 3).std(0, ddof=1) + 1e-6)
            target.append(((cube - mean[-1]) / std[-1]).reshape(-1))
    shape = masked.shape
    return (np.reshape(v, (*shape, -1)).astype(np.float32) for v in (target, mean, std))


def oracle(batch):
    masked = np.tile([1, 3, 4, 6, 7], (len(batch["video"]), 1))
    target, mean, std = statistics_of(batch["video"], masked)
    return {"masked": masked, "prediction": target, "mean": mean, "std": std}


def test_a_perfect_prediction_gives_the_input_back():
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    found = oracle({"video": video})
    masked, filled = reconstruction.fill(video, *(found[k] for k in found))
    np.testing.assert_array_equal(filled, video)
    hidden = reconstruction.hidden_pixels(video.shape, found["masked"])
    np.testing.assert_array_equal(masked[~hidden], video[~hidden])
    assert (masked[hidden] == 128).all() and hidden.mean() == 5 / 8
    assert hidden[0, 0, 0, 16, 0] and not hidden[0, 0, 0, 0, 0]  # cube 1 lies right of cube 0


def test_visible_cubes_are_the_inputs_whatever_is_predicted():
    video = np.random.default_rng(1).integers(0, 256, (1, 4, 32, 32, 3), dtype=np.uint8)
    found = oracle({"video": video})
    wild = np.full_like(found["prediction"], 1e3)
    _, filled = reconstruction.fill(video, found["masked"], wild, found["mean"], found["std"])
    hidden = reconstruction.hidden_pixels(video.shape, found["masked"])
    np.testing.assert_array_equal(filled[~hidden], video[~hidden])
    assert (filled[hidden] == 255).all()


def test_picture_and_errors_of_the_same_clips_every_time(store, tmp_path):
    seen = []

    def reconstruct(batch):
        seen.append(batch)
        return oracle(batch)

    model = Model(encode=lambda v: v, clip=CLIP, reconstruct=reconstruct)
    evaluator = reconstruction.Evaluator(store=str(store), clips=3)
    first = evaluator.run(model, out=tmp_path, step=5)
    again = evaluator.run(model, out=tmp_path / "again", step=5)
    assert first == again and first["pixel_error"] == 0 < first["mean_fill_error"]
    np.testing.assert_array_equal(seen[0]["video"], seen[1]["video"])
    np.testing.assert_array_equal(seen[0]["index"], [0, 1, 2])
    picture = tmp_path / "step_00000005.png"
    assert picture.read_bytes() == (tmp_path / "again" / picture.name).read_bytes()
    assert cv2.imread(str(picture)).std() > 5
    for name, shown in (("all", CLIP.frames), ("more", 99)):  # no frame is shown twice
        evaluator = reconstruction.Evaluator(store=str(store), clips=3, shown_frames=shown)
        evaluator.run(model, out=tmp_path / name, step=5)
    assert (tmp_path / "all" / picture.name).read_bytes() == (
        tmp_path / "more" / picture.name
    ).read_bytes()


def test_clips_are_of_held_out_videos(store):
    opened = open_store(store)
    rows = reconstruction.fixed_clips(opened, CLIP, 4)
    held_out = np.flatnonzero(opened.videos["split_official"] != "train")
    assert set(rows["video"]) <= set(held_out) and len(set(rows["video"])) == 4
    assert (rows["start"] + 13 <= opened.frames[rows["video"]]).all()


def test_nothing_to_reconstruct(store, tmp_path):
    model = Model(encode=lambda v: v, clip=CLIP)
    with pytest.raises(UserError, match="reconstructs nothing"):
        reconstruction.Evaluator(store=str(store)).run(model, out=tmp_path, step=0)
    long = Model(encode=lambda v: v, clip=ClipShape(200, 4, 32), reconstruct=oracle)
    with pytest.raises(UserError, match="has the 797 frames"):
        reconstruction.Evaluator(store=str(store)).run(long, out=tmp_path, step=0)
