"""Image tensors in bounded memory: those of recent use are kept, others are made again when they are asked for.

A processed image takes about 24 bytes a pixel; the images of a whole data set would not fit.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor


class ImageMemory:
    """What holds on to the tensors of recent use: up to `max_bytes` together, the latest in any case."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._recent: OrderedDict[int, tuple[ImageTensors, object]] = OrderedDict()
        self._lock = threading.RLock()  # a round may be sampled while another is trained on

    def read(self, images: ImageTensors) -> Mapping[str, Tensor]:
        """The tensors, made if they are not there."""
        with self._lock:
            if images.kept is None:
                images.kept = images.make()
            tensors = images.kept
            if id(images) not in self._recent:
                self._recent[id(images)] = images, images.owner()
                self.bytes += _size(tensors)
            self._recent.move_to_end(id(images))
            while self.bytes > self.max_bytes and len(self._recent) > 1:
                _, (oldest, _) = self._recent.popitem(last=False)
                assert oldest.kept is not None  # as are all of these
                self.bytes -= _size(oldest.kept)
                oldest.kept = None
            return tensors


class ImageTensors(Mapping[str, Tensor]):
    """The tensors of one prompt's images by their names, which are known without making them again."""

    def __init__(self, tensors: dict[str, Tensor], make: Callable[[], dict[str, Tensor]], memory: ImageMemory) -> None:
        self.kept: dict[str, Tensor] | None = tensors
        self.make = make
        self.owner: Callable[[], object] = lambda: None
        self._names = tuple(tensors)
        self._memory = memory

    def keep_with(self, owner: object) -> None:
        """Have the memory hold on to the tensors, and for as long to what owns them."""
        self.owner = weakref.ref(owner)
        self._memory.read(self)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._memory.read(self)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
