"""A web server of this machine, and the videos that it serves, for the tests of downloading."""

import pytest
import small_videos as make
import web as server


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make.write_video(tmp_path_factory.mktemp("small") / "small.mp4", 50)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return server.large_video(tmp_path_factory.mktemp("large") / "large.mp4")


@pytest.fixture
def web():
    with server.serve() as running:
        yield running
