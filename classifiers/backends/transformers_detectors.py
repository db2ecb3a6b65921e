"""Object detectors of ``transformers``: with fixed classes (DETR and similar), and with labels given as text (OWL-ViT,
Grounding DINO)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from classifiers.backends.batch_model import BatchModel
from classifiers.backends.checkpoint_model import RunOptions, load_network
from classifiers.backends.detector import Detector, Layout
from classifiers.backends.openvino_model import import_openvino
from classifiers.backends.preprocessing import Preprocessing
from classifiers.backends.text_encoder import tokenize
from classifiers.backends.transformers_loading import load_image_processor, load_model, load_tokenizer
from classifiers.errors import SetupError
from classifiers.weights import Checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["TransformersDetectors"]

_OWL = ("owlvit", "owlv2")
_GROUNDING = ("grounding-dino", "mm-grounding-dino")


class TransformersDetectors:
    """Makes detectors from one checkpoint, which is loaded once.

    Args:
        checkpoint: where it is, and what runs it.
        config: its config.json.
        options: device, precision, compilation.
        image_size: side of the canvas in pixels; ``None``: what the checkpoint's image processor says.
        trust_remote_code: run Python code that the checkpoint brings.

    Attributes:
        needs_labels: it looks for labels given as text, and has no fixed classes.

    Raises:
        SetupError: the checkpoint cannot be used so.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Mapping[str, Any],
        options: RunOptions,
        image_size: int | None,
        trust_remote_code: bool,
    ) -> None:
        self._checkpoint, self._options, self._trust = checkpoint, options, trust_remote_code
        self._names = {int(index): str(name) for index, name in config.get("id2label", {}).items()}
        self._type = config.get("model_type")
        self.needs_labels = self._type in _OWL + _GROUNDING
        if self.needs_labels and checkpoint.file is not None:
            raise SetupError(f"{checkpoint.file}: detectors that look for labels run in torch; use runtime: torch")
        self._seen, self._stretch = _preprocessing(
            load_image_processor(checkpoint.folder, trust_remote_code), image_size
        )

    def open(self, labels: Mapping[str, str]) -> Detector:
        """A detector.

        Args:
            labels: the prompt of each label to look for; empty for a checkpoint with fixed classes.

        Raises:
            SetupError: the labels do not fit the checkpoint.
        """
        if self.needs_labels != bool(labels):
            folder = self._checkpoint.folder
            raise SetupError(
                f"{folder} looks for labels that are given as text; give `labels`"
                if self.needs_labels
                else f"{folder} has fixed classes and takes no `labels`; choose among them with `classes`"
            )
        names = dict(enumerate(labels)) if labels else self._names
        return Detector(_Network(names, self._seen, self._stretch, self._load(labels), bool(labels)))

    def _load(self, labels: Mapping[str, str]) -> BatchModel:
        def load(device: torch.device, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
            model = self._model.to(device=device, dtype=dtype)
            if self._type in _OWL:
                return _owl(model, self._tokenizer, labels, self._seen.model_size)
            if self._type in _GROUNDING:
                return _grounding(model, self._tokenizer, labels, self._seen.model_size)
            return _detr(model, len(self._names), self._seen.model_size)

        select = functools.partial(_exported, labels=len(self._names), size=self._seen.model_size)
        return load_network(self._checkpoint, self._seen, self._options, load, select)

    @functools.cached_property
    def _model(self) -> Any:
        kind = "AutoModelForZeroShotObjectDetection" if self.needs_labels else "AutoModelForObjectDetection"
        return load_model(self._checkpoint.folder, kind, "object detector", self._trust)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._checkpoint.folder, self._trust)


class _Network:
    """A :class:`.detector.Network`."""

    task = "detect"
    keypoint_shape = (0, 0)
    antialias = True

    def __init__(
        self, names: dict[int, str], seen: Preprocessing, stretch: float, model: BatchModel, overlapping: bool
    ) -> None:
        self.names, self.size, self.stretch, self.model = names, seen.model_size, stretch, model
        self._overlapping = overlapping

    def layout(self, shape: tuple[int, ...]) -> Layout:
        if len(shape) != 3 or shape[2] != 4 + len(self.names):
            raise SetupError(f"an output of shape {shape} is not that of a detector with {len(self.names)} classes")
        return Layout(False, labelled=False, corners=True, normalised=False, overlapping=self._overlapping)


def _preprocessing(processor: Any, image_size: int | None) -> tuple[Preprocessing, float]:
    """Size and normalization of the canvas, and how far images are stretched to it.

    A processor that keeps the aspect ratio makes images of different sizes. They get a square canvas instead, padded
    with grey, so that any of them fit in a batch, and none depends on the others.
    """
    size = processor.size
    height, width, shortest = (size.get(key) for key in ("height", "width", "shortest_edge"))
    kind = type(processor).__name__
    if image_size or shortest:
        height = width = image_size or shortest
    if not height or not width:
        raise SetupError(f"{kind} does not declare the size of images ({size}); give image_size")
    pads = bool(shortest) or kind.startswith("Owlv2")
    factor = processor.rescale_factor if processor.do_rescale else 1
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0] * 3, [1] * 3)
    mean, scale = (tuple(value / factor for value in values) for values in (mean, std))
    return Preprocessing((height, width), "stretch", (slice(0, height), slice(0, width)), mean, scale), float(not pads)


def _rows(boxes: torch.Tensor, scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, Q, 4 + C): corners in pixels of the canvas, and scores, from centers and sizes in shares of the canvas."""
    import torch

    boxes = boxes.float()
    centers, halves = boxes[..., :2], boxes[..., 2:] / 2
    scale = torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype, device=boxes.device)
    return torch.cat([torch.cat([centers - halves, centers + halves], -1) * scale, scores.float()], -1)


def _detr(model: Any, classes: int, size: tuple[int, int]) -> Callable[[torch.Tensor], torch.Tensor]:
    def answer(pixels: torch.Tensor) -> torch.Tensor:
        output = model(pixel_values=pixels)
        logits = output.logits
        # With one more, for "no object", they exclude each other.
        scores = logits.softmax(-1)[..., :-1] if logits.shape[-1] == classes + 1 else logits.sigmoid()
        return _rows(output.pred_boxes, scores, size)

    return answer


def _exported(model: Any, labels: int, size: tuple[int, int]) -> Any:
    """The ``openvino.Model`` with the output of :func:`_detr`."""
    openvino = import_openvino()
    ops = openvino.opset13
    outputs = {name: output for output in model.outputs for name in output.get_names()}
    if not {"logits", "pred_boxes"} <= outputs.keys():
        raise SetupError(f"an exported detector must have the outputs logits and pred_boxes, but has {sorted(outputs)}")
    logits, boxes = (outputs[name].get_node().input_value(0) for name in ("logits", "pred_boxes"))
    axis, steps = np.array([2]), np.array([1])

    def columns(source: Any, start: int, stop: int) -> Any:
        return ops.slice(source, np.array([start]), np.array([stop]), steps, axis)

    if logits.get_partial_shape()[2].get_length() == labels + 1:
        scores = columns(ops.softmax(logits, 2), 0, labels)
    else:
        scores = ops.sigmoid(logits)
    centers, halves = columns(boxes, 0, 2), ops.divide(columns(boxes, 2, 4), np.float32(2))
    corners = ops.concat([ops.subtract(centers, halves), ops.add(centers, halves)], 2)
    scaled = ops.multiply(corners, np.array([size[1], size[0]] * 2, np.float32))
    return openvino.Model([ops.concat([scaled, scores], 2)], model.get_parameters(), model.get_friendly_name())


def _owl(
    model: Any, tokenizer: Any, labels: Mapping[str, str], size: tuple[int, int]
) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    limit = model.config.text_config.max_position_embeddings
    with torch.inference_mode():
        parts = [tokenize(tokenizer, [prompt], limit, "max_length", label) for label, prompt in labels.items()]
        tokens = {name: torch.cat([part[name] for part in parts]).to(model.device) for name in parts[0]}
        base = getattr(model, model.base_model_prefix)
        queries = base.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output[None]
    queries = queries.clone()  # out of the inference mode

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        features = model.image_embedder(pixel_values=pixels)[0]
        patches = features.flatten(1, 2)
        mask = torch.ones((len(pixels), queries.shape[1]), dtype=torch.bool, device=pixels.device)
        logits, _ = model.class_predictor(patches, queries.expand(len(pixels), -1, -1), mask)
        return _rows(model.box_predictor(patches, features), logits.sigmoid(), size)

    return answer


def _grounding(
    model: Any, tokenizer: Any, labels: Mapping[str, str], size: tuple[int, int]
) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    prompts = [prompt.lower().strip(" .") for prompt in labels.values()]
    found = tokenizer(". ".join(prompts) + ".", return_tensors="pt", return_offsets_mapping=True)
    limit = model.config.max_text_len
    if found["input_ids"].shape[1] > limit:
        raise SetupError(f"labels: together they have {found['input_ids'].shape[1]} tokens, the model reads {limit}")
    # The score of a label is the best of its tokens.
    spans, start = [], 0
    for prompt in prompts:
        inside = [
            index
            for index, (first, last) in enumerate(found["offset_mapping"][0].tolist())
            if start <= first < last <= start + len(prompt)
        ]
        spans.append(torch.tensor(inside, device=model.device))
        start += len(prompt) + 2
    ids, mask = (found[name].to(model.device) for name in ("input_ids", "attention_mask"))

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        output = model(pixel_values=pixels, input_ids=ids.expand(count, -1), attention_mask=mask.expand(count, -1))
        scores = output.logits.sigmoid()
        best = [scores.index_select(2, span).amax(-1) for span in spans]
        return _rows(output.pred_boxes, torch.stack(best, -1), size)

    return answer
