"""The base class of all classifiers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["BaseClassifier", "Image", "ResizeMode"]

Image = npt.NDArray[np.uint8]
"""(H, W, 3), RGB, uint8, read-only."""

ResizeMode = Literal["stretch", "letterbox", "center_crop"]


class BaseClassifier(ABC):
    """A model that classifies an image or a crop of it, or finds objects in it.

    A subclass has to define ``name`` and ``process``; ``process_batch`` is for speed. The ``params`` of the step
    in the pipeline file are the constructor's keyword arguments. Annotate them: the file is checked against the
    annotations before any model is loaded (``Annotated[float, pydantic.Field(ge=0, le=1)]`` checks a range,
    ``pathlib.Path`` makes a path relative to the file). Load the model in the constructor; it is called once in each
    process that runs the step.

    One instance is called by one thread at a time.
    """

    default_crops: ClassVar[str | None] = None
    """The crop rule if the pipeline file gives none, for example ``"detection['class_name'] ==
    'person'"``."""

    tunables: ClassVar[frozenset[str]] = frozenset()
    """Constructor arguments that :meth:`reconfigure` can change while the model stays loaded."""

    input_size: tuple[int, int] | None = None
    """(H, W) in pixels that crops are resized to; ``None``: a crop arrives at its own size. May be set in the
    constructor."""

    resize: ResizeMode = "stretch"
    """How a crop gets to ``input_size``: stretched, padded with grey to keep its shape, or cut to its centre."""

    crop_padding: float = 0.0
    """Share of the box's width and height that is added on each side of it before it is cut, 0..1."""

    frame_size: tuple[int, int] | None = None
    """(H, W) in pixels that suffice for a whole image, set in the constructor. It allows ``decode: reduced`` in the
    pipeline file: a larger JPEG then arrives at 1/2, 1/4 or 1/8 of its size, and every ``bbox``, ``mask``,
    ``keypoints`` and ``corners`` of ``detections`` is converted to pixels of the full image. Nothing else is: a
    class whose results have other coordinates leaves it ``None``."""

    weights_digest: str = ""
    """Hash of the weights that the constructor loaded; a part of the identity of every result. Empty: no weights."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name for people, for example ``"tshirt_color"``."""

    @abstractmethod
    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        """Process one image.

        Args:
            image: (H, W, 3) RGB uint8, read-only: the crop, or the whole image for a step without ``crops``.
            context: the results of the steps that this one depends on, by name; for a crop also
                ``context["detection"]``, the detection that it was cut from.

        Returns:
            What was found, as values that JSON knows (NumPy values are converted): ``detections``, a list of dicts with
            ``bbox`` ([x1, y1, x2, y2] in pixels), ``class_name``, ``confidence`` (0..1) and ``class_id`` (an integer),
            and optionally ``mask`` (a list of polygons of [x, y]), ``keypoints`` ([x, y] or [x, y, confidence] each) or
            ``corners`` (four [x, y]), all in pixels;
            or ``label``, ``confidence``, and ``labels``, a list of dicts with these two; and any further keys except
            ``objects``. A result of another shape is an error of the step.
        """

    def process_batch(self, images: Sequence[Image], contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Process N images at once, which may come from different requests. Override it for speed.

        Args:
            images: N arrays as in :meth:`process`, all of ``input_size`` where that is set and the step has ``crops``.
            contexts: N contexts as in :meth:`process`.

        Returns:
            N results, in the order of ``images``.
        """
        return [self.process(image, context) for image, context in zip(images, contexts, strict=True)]

    def reconfigure(self, **tunables: Any) -> None:
        """Change arguments named in ``tunables`` while the model stays loaded. Called between batches, never during
        one."""
        if tunables:
            raise NotImplementedError(
                f"{type(self).__name__} names tunables {sorted(self.tunables)} but does not override reconfigure"
            )

    def warm_up(self, batch_size: int) -> None:  # noqa: B027 - optional by design
        """Called once before the first request, which then does not wait for compilation. ``batch_size``: of the
        largest batch."""
