"""The demo's car-make model: a public ViT-S/14 backbone with the linear head that this project trained on top.

The backbone has the structure of DINOv2's ViT-S/14 and comes as ONNX inside a larger network. It is cut out of that
without torch, and put together with the head as OpenVINO, in a folder that ``StanfordViT`` loads like any checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.errors import SetupError

__all__ = ["HEAD", "SIDE", "assemble", "features"]

HEAD = Path(__file__).parent / "heads" / "vit_s14_car_make20"
"""``head.npz`` (``weight`` (2304, 20), ``bias`` (20,)), ``config.json`` with the makes, its image processor."""

SIDE = 140
"""Pixels, 10 patches of 14. At 224 an image takes 2.6 times as long."""

_LAST = "/backbone/layernorm/Add_1"
_EARLIER = ("/backbone/encoder/layer.10/Add_1", "/backbone/encoder/layer.8/Add_1")


def features(backbone: Path) -> Any:
    """An ``openvino.Model`` that turns images (N, 3, SIDE, SIDE), normalised, into vectors (N, 2304).

    These are the class token and the mean of the patch tokens, after the last layer and after two earlier ones: the
    backbone was trained further for another task, and the earlier layers still know more of what tells cars apart.

    Raises:
        SetupError: the file is not that backbone.
    """
    import openvino
    from openvino import opset13 as ops

    try:
        network = openvino.Core().read_model(backbone)
        network.reshape([-1, 3, SIDE, SIDE])
        nodes = {node.get_friendly_name(): node for node in network.get_ops()}
        layers = [nodes[name].output(0) for name in (_LAST, *_EARLIER)]
    except (RuntimeError, KeyError) as error:
        raise SetupError(f"{backbone} is not the backbone of the car-make model: {error}") from error
    parts = []
    for tokens in layers:
        class_token = ops.gather(tokens, np.int64(0), np.int64(1))
        patches = ops.slice(tokens, np.array([1]), np.array([2**31]), np.array([1]), np.array([1]))
        parts += [class_token, ops.reduce_mean(patches, np.array([1]), keep_dims=False)]
    unit = [ops.mvn(part, np.array([1]), normalize_variance=True, eps=1e-6, eps_mode="outside_sqrt") for part in parts]
    return openvino.Model([ops.concat(unit, 1)], network.get_parameters(), "features")


def assemble(backbone: Path, folder: Path) -> None:
    """Put backbone and head together, into ``model.xml`` and ``model.bin`` with the head's settings beside them.

    Args:
        backbone: the ONNX file.
        folder: exists, and is empty.

    Raises:
        SetupError: the file is not that backbone.
    """
    import openvino
    from openvino import opset13 as ops

    model = features(backbone)
    head = np.load(HEAD / "head.npz")
    vectors = model.outputs[0].get_node().input_value(0)
    logits = ops.add(
        ops.matmul(vectors, head["weight"].astype(np.float32), False, False), head["bias"].astype(np.float32)
    )
    classifier = openvino.Model([logits], model.get_parameters(), HEAD.name)
    openvino.save_model(classifier, folder / "model.xml", compress_to_fp16=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(HEAD / name, folder / name)
