import pytest

from surgjax.data import record

CUT = record.serialize(record.Record("v", 0, (0,), (b"abc",)))[:-3]


@pytest.mark.parametrize("n", [1, 10])
def test_a_record_is_a_tf_train_example(n):
    from tensorflow_datasets.proto import tf_example_pb2

    item = record.Record("vidéo/1", 7, tuple(range(0, n * 40, 40)), tuple([b"\xff\xd8"] * n))
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["video_id"].bytes_list.value.append(item.video_id.encode())
    feature["first_frame"].int64_list.value.append(7)
    feature["t_ms"].int64_list.value.extend(item.t_ms)
    feature["frames"].bytes_list.value.extend(item.frames)
    assert record.serialize(item) == example.SerializeToString(deterministic=True)
    assert record.parse(example.SerializeToString()) == item


@pytest.mark.parametrize("data", [b"", b"junk", b"\x0a\xff\xff", CUT])
def test_other_bytes_are_no_record(data):
    with pytest.raises(ValueError, match="record|tf.train.Example"):
        record.parse(data)


def test_records_are_read_without_heavy_packages(run_python):
    run_python(
        "import sys\n"
        "from surgjax.data import record as r\n"
        "r.parse(r.serialize(r.Record('v', 0, (1,), (b'',))))\n"
        "assert not {'jax', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
