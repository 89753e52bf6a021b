"""The two formats inside a TFRecord file: masked CRC32C checksums, and tf.train.Example messages."""

from functools import cache
from typing import Any

from ..errors import DataError

# tf.train.Example, as far as pictures need it. A map is a repeated entry; fields left out here are skipped by protobuf.
SCHEMA = """
syntax: "proto3" name: "picture.proto" package: "picture"
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".picture.BytesList" }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".picture.Int64List" }
}
message_type {
  name: "Entry"
  field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".picture.Feature" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".picture.Entry" }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".picture.Features" }
}
"""


def checksum(data: bytes) -> int:
    """The masked CRC32C that TFRecord files carry: rotated right by 15 bits, plus a constant, modulo 2^32."""
    try:
        from google_crc32c import value
    except ImportError as error:
        raise DataError("source=tfrecords needs the package google-crc32c, not installed: pip install 'hires[sources]'") from error
    crc = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse(data: bytes, name: str) -> tuple[tuple[int, ...], bytes]:
    """The features 'shape' and 'data' of an Example; raises DataError naming `name` if there are none such."""
    try:
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise DataError("source=tfrecords needs the package protobuf, not installed: pip install 'hires[sources]'") from error
    try:
        entries = _example().FromString(data).features.feature
    except DecodeError as error:
        raise DataError(f"{name}: {len(data)} bytes that are no tf.train.Example") from error
    features = {entry.key: entry.value for entry in entries}
    if not {"shape", "data"} <= features.keys() or len(features["data"].bytes_list.value) != 1:
        raise DataError(f"{name}: features {', '.join(sorted(features)) or 'none'}; wanted shape (integers) and data (one string of bytes)")
    return tuple(features["shape"].int64_list.value), features["data"].bytes_list.value[0]


@cache
def _example() -> Any:
    """The message class; its pool is our own: TensorFlow, where it is loaded, has registered such names in the common one."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("picture.Example"))
