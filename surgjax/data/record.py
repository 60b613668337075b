"""The store's record and tables, described once for its writer (data_prep) and reader (store.py).

A store is a folder:

    store.json                 schema version, settings, counts, licences, shards, tasks
    surgjax-train.array_record-SSSSS-of-NNNNN
                               the frames; at most MAX_RECORDS records each
    videos.parquet             one row a video (VIDEO_COLUMNS, split_<name>, qc_<flag>)
    labels/<task>.parquet      one row a labelled stored frame
    captions.parquet           one row a caption (CAPTION_COLUMNS), where the source has them
    clips.parquet              where the source has them, or `data_prep clips` cut them
    edits.parquet              what was left out, covered and cropped (EDIT_COLUMNS), if anything
    same_cases.parquet         cases that are in other datasets too (SAME_CASE_COLUMNS), if any
    quarantine.parquet         what could not be read, and why

A record is a tf.train.Example holding n consecutive stored frames of one video; n is
`settings.frames_per_record` (the last record of a video may hold fewer).
"""

import functools
from dataclasses import dataclass

SCHEMA_VERSION = 1
CODECS = ("jpeg", "x264")
REFERENCE_STEP = 4  # every fourth frame of an x264 block decodes without the three before it
MAX_RECORDS = 10_000  # array_record's random access slows down with the records of a shard
SHARD_NAME = "surgjax-train.array_record-{shard:05d}-of-{shards:05d}"
WRITER_OPTIONS = "group_size:1,uncompressed"

# name -> Arrow type of the fixed columns of videos.parquet; `first_record` indexes the
# concatenation of all shards; `case` is always "<dataset>/<case>".
VIDEO_COLUMNS = {
    "video_id": "string",
    "dataset": "string",
    "case": "string",
    "domain": "string",
    "procedure": "string",
    "anatomy": "string",
    "licence": "string",
    "native_fps": "float64",
    "stored_fps": "float64",
    "width": "int32",
    "height": "int32",
    "frames": "int64",
    "first_record": "int64",
}

# `same_as` is the same operation under another name; `held_out`: whether it is tested there;
# `evidence`: "published", or the share of frames that `data_prep overlap` found.
SAME_CASE_COLUMNS = {
    "case": "string",
    "same_as": "string",
    "held_out": "bool",
    "evidence": "string",
}

# What `shards --qc` did to the frames of a video: "left_out", "covered" (a box made black) or
# "cropped"; end_ms is empty for the end of the video, the box holds fractions of the picture. Times
# are those of the records (t_ms), so that frame numbers do not count what is left out: see
# Store.frames_in. No clip of pretraining reaches over such a span; the frames beside a labelled
# frame may, as its clip is chosen by its label.
EDIT_COLUMNS = {
    "video_id": "string",
    "edit": "string",
    "start_ms": "int64",
    "end_ms": "int64",
    "reason": "string",
    "x0": "float64",
    "y0": "float64",
    "x1": "float64",
    "y1": "float64",
}

# Coarse: an operation or its narration; mid: a phase or step; fine: a task or action.
LEVELS = ("coarse", "mid", "fine")

# `raw_text` is what was said, `text` what is trained on; `surgical` and `descriptive` say whether a
# person who sees the clip could agree.
CAPTION_COLUMNS = {
    "caption_id": "string",
    "video_id": "string",
    "level": "string",
    "start_ms": "int64",
    "end_ms": "int64",
    "raw_text": "string",
    "text": "string",
    "surgical": "bool",
    "descriptive": "bool",
}


@dataclass(frozen=True)
class Record:
    """n consecutive stored frames of one video.

    Attributes:
      video_id: the row of videos.parquet this belongs to.
      first_frame: position of frames[0] among the video's stored frames.
      t_ms: presentation time of each frame in the original recording, milliseconds.
      frames: encoded frames: JPEGs, or the H.264 packets of a block that is decoded by itself.
    """

    video_id: str
    first_frame: int
    t_ms: tuple[int, ...]
    frames: tuple[bytes, ...]


def serialize(record: Record) -> bytes:
    """The bytes of one record; equal records give equal bytes."""
    example = _example()()
    feature = example.features.feature
    feature["video_id"].bytes_list.value.append(record.video_id.encode())
    feature["first_frame"].int64_list.value.append(record.first_frame)
    feature["t_ms"].int64_list.value.extend(record.t_ms)
    feature["frames"].bytes_list.value.extend(record.frames)
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Record:
    """Inverse of `serialize`. Raises ValueError when the bytes are no record of ours."""
    from google.protobuf.message import DecodeError

    try:
        feature = _example().FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    try:
        found = Record(
            video_id=feature["video_id"].bytes_list.value[0].decode(),
            first_frame=feature["first_frame"].int64_list.value[0],
            t_ms=tuple(feature["t_ms"].int64_list.value),
            frames=tuple(feature["frames"].bytes_list.value),
        )
    except IndexError as error:
        raise ValueError("record lacks video_id, first_frame, t_ms or frames") from error
    if not 0 < len(found.frames) == len(found.t_ms):
        raise ValueError(f"record of {len(found.frames)} frames with {len(found.t_ms)} times")
    return found


@functools.cache
def _example() -> type:
    """The class of tf.train.Example, described here because the packages that ship it take a second
    to load. A descriptor pool of its own keeps it apart from theirs."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="surgjax/example.proto", package="tensorflow", syntax="proto3"
    )

    def add(into, name: str, **fields):
        message = into.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            repeated = field in ("value", "feature") and name != "FeatureEntry"
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            of = {"type": kind} if isinstance(kind, int) else {"type_name": f".tensorflow.{kind}"}
            message.field.add(name=field, number=number, label=label, **of)
        return message

    messages = file.message_type
    add(messages, "BytesList", value=kinds.TYPE_BYTES)
    add(messages, "FloatList", value=kinds.TYPE_FLOAT)
    add(messages, "Int64List", value=kinds.TYPE_INT64)
    feature = add(
        messages, "Feature", bytes_list="BytesList", float_list="FloatList", int64_list="Int64List"
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = add(messages, "Features", feature="Features.FeatureEntry")
    entry = add(features.nested_type, "FeatureEntry", key=kinds.TYPE_STRING, value="Feature")
    entry.options.map_entry = True
    add(messages, "Example", features="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
