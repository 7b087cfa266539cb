"""A process that shifts batches for another one; see `fairweather.shifting`."""

from __future__ import annotations

import mmap
import os
import sys
import traceback
from functools import cache

import cv2
import numpy as np
import torch

from fairweather.children import answers
from fairweather.errors import InputError
from fairweather.shift_lists import expand
from fairweather.shifting import ShiftAnswer, ShiftOrder
from fairweather.streams import shift_pixels
from fairweather.types import Attack, Shift


def main() -> None:
    """Shift the batches that standard input orders, in the memory of an open file."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    output = answers()
    file, memory = int(sys.argv[1]), None
    for line in sys.stdin:
        order = ShiftOrder.model_validate_json(line)
        if memory is None or len(memory) < order.offset + order.size:
            memory = mmap.mmap(file, os.fstat(file).st_size)
        output.write(_shift(order, memory).model_dump_json() + "\n")
        output.flush()


def _shift(order: ShiftOrder, memory: mmap.mmap) -> ShiftAnswer:
    view = np.frombuffer(memory, np.uint8, order.size, order.offset).reshape(order.shape)
    try:
        shift, keys = _shift_of(order.shift), torch.tensor(order.keys)
        view[...] = shift_pixels(torch.from_numpy(view.copy()), keys, shift, order.seed).numpy()
    except InputError as error:
        return ShiftAnswer(number=order.number, error=str(error), is_input=True)
    except Exception:
        return ShiftAnswer(number=order.number, error=traceback.format_exc())
    return ShiftAnswer(number=order.number)


@cache
def _shift_of(text: str) -> Shift:
    (found,) = expand(text)
    assert not isinstance(found, Attack)
    return found


if __name__ == "__main__":
    main()
