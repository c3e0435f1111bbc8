"""Signals."""

from __future__ import annotations

from functools import cache

import numpy as np

from tasks.base import Split
from tasks.cache import Arrays, cached, files_of, missing
from tasks.data.parts import images, text_split


@cache
def mnist1d() -> Split:
    """Signals of 40 points, 10 classes, generated (Greydanus and Kobak 2020): 4,000 train, 1,000 validate."""

    def build() -> Arrays:
        try:
            from mnist1d.data import get_dataset_args, make_dataset
        except ImportError as error:
            raise missing("mnist1d==0.0.2.post1") from error
        made = make_dataset(get_dataset_args())
        x = np.concatenate([made["x"], made["x_test"]])
        # Fixed point: the last bits of the generator follow the versions of numpy and scipy.
        fixed_point = np.round(4096 * x).astype(np.int16)
        return {"x": fixed_point, "y": np.concatenate([made["y"], made["y_test"]]).astype(np.uint8)}

    sha = "c267f881daa735fde18135bf5fa939fb09f43c96424e79cf22ba09d1bf567d26"
    arrays = cached("mnist1d", sha, build)
    return images({"x": (arrays["x"] / 4096).astype(np.float32), "y": arrays["y"]}, 4000, 5000)


@cache
def pulse() -> Split:
    """A pulse, measured by light at 100 Hz for 11 minutes, as 123 levels: text of a kind (68 kB)."""

    def build() -> Arrays:
        file = files_of("heartpy", "heartpy==1.2.7") / "data" / "data3.csv"
        readings = [int(line.rpartition(",")[2]) for line in file.read_text("utf-8").splitlines()[1:]]
        return {"text": (np.array(readings) // 8).astype(np.uint8)}

    sha = "4790f01856454939fa07cdcca932d3703d19167abd5a4ae426dfdd43296a974b"
    return text_split(cached("pulse", sha, build)["text"])
