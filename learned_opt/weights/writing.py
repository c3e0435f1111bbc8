"""Bytes of a weights file, and putting them on disk at once or not at all."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def serialized(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The safetensors file of float32 arrays: equal content gives equal bytes.

    The safetensors package writes the metadata in an arbitrary order, so that its files of equal content have
    different checksums. The format is an 8-byte little-endian length, a JSON header and the arrays' bytes
    (https://huggingface.co/docs/safetensors).
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks, end = [], 0
    for name, array in sorted(tensors.items()):
        chunks.append(array.astype("<f4").tobytes())
        start, end = end, end + len(chunks[-1])
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays start aligned
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file through a temporary one beside it; an older file stays whole if anything fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
