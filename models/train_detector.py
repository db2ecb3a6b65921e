"""Train a small YOLO from scratch on the CPU, and export it with a dynamic batch for ``ObjectClassifier``.

    python models/train_detector.py train --data FOLDER --out /tmp/yolo-train --hours 2
    python models/train_detector.py train --data FOLDER --out /tmp/yolo-train --hours 1 --resume    # it was interrupted
    python models/train_detector.py export /tmp/yolo-train/run/weights/best.pt --out classifiers/weights/NAME

FOLDER is a data set in ultralytics' layout: ``data.yaml``, ``train/{images,labels}``, ``val/{images,labels}``. Nothing
is written to it. Everything that training writes goes to ``--out``, which belongs outside the repository.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Data set folder with data.yaml.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Where checkpoints go; outside the repository.")],
    hours: Annotated[
        float, typer.Option(help="Wall-clock budget. The cosine schedule is fitted to it.", min=0.01)
    ] = 2.0,
    architecture: Annotated[
        str, typer.Option(help="An ultralytics architecture file; no weights are fetched.")
    ] = "yolo11n.yaml",
    image_size: Annotated[
        int, typer.Option(help="Side of the square that photos are trained at, a multiple of 32.")
    ] = 192,
    batch: Annotated[int, typer.Option(min=2)] = 32,
    threads: Annotated[int, typer.Option(help="Threads of the arithmetic.", min=1)] = 2,
    start_from: Annotated[
        Path | None, typer.Option(help="Weights to begin with, for example those of a run that has ended.", exists=True)
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where a run in OUT was interrupted, with HOURS more.")] = False,
) -> None:
    """Train; the checkpoints end up in OUT/run/weights, the figures of each epoch in OUT/run/results.csv."""
    out = out.resolve()
    _prepare_environment(out)
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel

    torch.set_num_threads(threads)

    class Bfloat16Model(DetectionModel):
        """Forward and backward in bfloat16, the loss in float32: 1.8 times as fast where the CPU has AVX512-BF16."""

        def loss(self, batch: dict[str, Any], preds: Any = None) -> Any:
            if preds is None:
                with torch.autocast("cpu", torch.bfloat16):
                    preds = self.forward(batch["img"])
                preds = _to_float32(preds)
            return super().loss(batch, preds)

    def compute_in_bfloat16(trainer: DetectionTrainer) -> None:
        # after the EMA copy was made, so that what is pickled into checkpoints is ultralytics' own class
        trainer.model.__class__ = Bfloat16Model
        trainer.model.to(memory_format=torch.channels_last)

    def validate_now_and_then(trainer: DetectionTrainer) -> None:
        last_epochs = trainer.epoch >= trainer.epochs - trainer.args.close_mosaic
        trainer.args.val = last_epochs or trainer.epoch % 5 == 0

    checkpoint = out / "run" / "weights" / "last.pt"
    if resume and not checkpoint.exists():
        raise typer.BadParameter(f"there is no {checkpoint} to go on from", param_hint="--resume")
    trainer = DetectionTrainer(
        overrides={
            "model": architecture,
            "data": str(_link_data_set(data.resolve(), out)),
            "project": str(out),
            "name": "run",
            "exist_ok": True,
            "resume": str(checkpoint) if resume else False,
            "pretrained": str(start_from.resolve()) if start_from else False,
            "device": "cpu",
            "amp": False,  # ultralytics' own mixed precision knows CUDA only
            "imgsz": image_size,
            "batch": batch,
            "nbs": batch,  # a step for every batch: there are few of them in the time that there is
            "time": hours,
            "epochs": 1000,  # replaced by what fits into `time` after the first epoch
            "patience": 1000,
            "cache": "ram",
            "optimizer": "MuSGD",
            "lr0": 0.01,
            "momentum": 0.9,
            "cos_lr": True,
            "warmup_epochs": 2.0,
            "warmup_bias_lr": 0.0,
            "close_mosaic": 10,
            "deterministic": False,
            "plots": False,
        }
    )
    trainer.add_callback("on_pretrain_routine_end", compute_in_bfloat16)
    trainer.add_callback("on_train_epoch_start", validate_now_and_then)
    trainer.train()


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of `train`.", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="The folder to write; its name must end in _openvino_model.")],
    image_size: Annotated[int, typer.Option(help="Side that photos are detected at, a multiple of 32.")] = 256,
) -> None:
    """Export to an OpenVINO folder with float16 weights and a dynamic batch, which ``ObjectClassifier`` loads."""
    if not out.name.endswith("_openvino_model"):
        raise typer.BadParameter(
            f"{out.name} must end in _openvino_model: that is how ultralytics knows the format", param_hint="--out"
        )
    _prepare_environment(out.resolve().parent)
    import openvino
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as folder:  # ultralytics writes beside the checkpoint
        copy = Path(shutil.copy(checkpoint, folder))
        arguments = {"format": "openvino", "imgsz": image_size, "dynamic": False, "batch": 1, "quantize": 16}
        exported = Path(YOLO(str(copy)).export(**arguments))
        model = openvino.Core().read_model(next(exported.glob("*.xml")))
        about = yaml.safe_load((exported / "metadata.yaml").read_text())
        # dynamic in the batch only: with `dynamic=True` ultralytics also feeds sides that differ from photo to photo
        model.reshape([-1, 3, image_size, image_size])
        out.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, out / "model.xml", compress_to_fp16=True)
    kept = {key: about[key] for key in ("license", "task", "head", "end2end", "stride", "batch", "imgsz", "names")}
    (out / "metadata.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    typer.echo(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.2f} MB")


def _prepare_environment(out: Path) -> None:
    """Before ultralytics is imported: it reads these once, and would write settings into the home folder."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_CONFIG_DIR"] = str(out)


def _link_data_set(data: Path, out: Path) -> Path:
    """A view of the data set under ``out``, because ultralytics writes its label caches beside the labels.

    Every file is linked, not the folders: ultralytics resolves folders.
    """
    view = out / "dataset"
    shutil.rmtree(view, ignore_errors=True)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            source, links = data / split / kind, view / split / kind
            if not source.is_dir():
                raise typer.BadParameter(f"{source} is missing", param_hint="--data")
            links.mkdir(parents=True)
            for file in source.iterdir():
                (links / file.name).symlink_to(file)
    names = yaml.safe_load((data / "data.yaml").read_text())["names"]
    file = view / "data.yaml"
    file.write_text(yaml.safe_dump({"path": str(view), "train": "train/images", "val": "val/images", "names": names}))
    return file


def _to_float32(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_float32(item) for item in value]
    return value.float()


if __name__ == "__main__":
    app()
