"""Creates the folder of a new classifier: a class, its test, a pipeline file, a photo and a README."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from classifiers import SetupError

__all__ = ["write_classifier"]

_CLASS = '''"""Replace the rule in `process_batch` with your model."""

from typing import Annotated

import numpy as np
from pydantic import Field

from classifiers import BaseClassifier


class CLASS(BaseClassifier):
    """Tells bright images from dark ones."""

    # To look at each car instead of the whole image:
    # default_crops = "detection['class_name'] == 'car'"
    # input_size = (224, 224)  # (height, width): crops arrive resized
    tunables = frozenset({"threshold"})  # can change while the model stays loaded

    def __init__(self, threshold: Annotated[float, Field(ge=0, le=255)] = 128) -> None:
        self.threshold = threshold  # load your model here: this runs once per process

    @property
    def name(self) -> str:
        return "NAME"

    def process(self, image, context):  # image: (H, W, 3) RGB uint8
        return self.process_batch([image], [context])[0]

    def process_batch(self, images, contexts):  # of many requests at once
        brightness = [float(np.mean(image)) for image in images]
        return [{"label": "bright" if b >= self.threshold else "dark", "confidence": 1.0} for b in brightness]

    def reconfigure(self, *, threshold: float) -> None:
        self.threshold = threshold
'''

_TEST = """from pathlib import Path

import numpy as np

from graph import VisionPipeline
from NAME import CLASS

HERE = Path(__file__).parent


def test_bright_and_dark():
    dark, bright = (np.full((8, 8, 3), value, np.uint8) for value in (10, 250))
    results = CLASS().process_batch([dark, bright], [{}, {}])
    assert [result["label"] for result in results] == ["dark", "bright"]


def test_pipeline():
    with VisionPipeline(HERE / "pipeline.yaml") as pipeline:
        result = pipeline.run(HERE / "photo.jpg")
    assert result["context"]["NAME"]["label"] == "bright"
"""

_PIPELINE = """pipeline:
  - name: NAME
    class: NAME.CLASS
    params: {threshold: 100}

# With a detector in front of it, for one call per car instead of one per image:
#   - name: object_detection
#     class: classifiers.objects.ObjectClassifier
#     params: {model: centernet_mobilenetv3_coco}
#   - name: NAME
#     class: NAME.CLASS
#     depends_on: object_detection
#     crops: "detection['class_name'] == 'car'"
"""

_README = """# NAME

| file | what it is |
|---|---|
| `NAME.py` | the class: replace the rule in `process_batch` with your model |
| `test_NAME.py` | its tests |
| `pipeline.yaml` | the pipeline that runs it |
| `photo.jpg` | an image to try it with |

```bash
pytest
visiongraph validate pipeline.yaml
visiongraph run pipeline.yaml photo.jpg
visiongraph serve pipeline.yaml            # its own Ray Serve deployment, on this machine
```

To use the class in a pipeline file elsewhere, put this folder on `PYTHONPATH`, or install it as a package.
"""


def write_classifier(name: str, parent: Path) -> Path:
    """Write the folder.

    Args:
        name: of the module and the folder, for example ``wheel_count``.

    Returns:
        The folder.

    Raises:
        SetupError: the name cannot be a module's, or the folder already exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        fixed = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_0123456789")
        hint = f"; use {fixed!r}" if fixed and not keyword.iskeyword(fixed) else ""
        raise SetupError(f"{name!r} cannot be the name of a Python module: lower-case letters, digits and _{hint}")
    if importlib.util.find_spec(name) is not None:
        raise SetupError(f"the new module would hide the Python module {name!r}; choose another name")
    folder = parent / name
    try:
        folder.mkdir()
    except FileExistsError:
        raise SetupError(f"{folder} already exists; choose another name, or delete it") from None
    class_name = "".join(part.capitalize() for part in name.split("_"))
    files = {f"{name}.py": _CLASS, f"test_{name}.py": _TEST, "pipeline.yaml": _PIPELINE, "README.md": _README}
    for file, text in files.items():
        (folder / file).write_text(text.replace("NAME", name).replace("CLASS", class_name))
    picture = PIL.Image.linear_gradient("L").resize((320, 240)).point(lambda value: 100 + value // 2).convert("RGB")
    PIL.ImageDraw.Draw(picture).ellipse((110, 70, 210, 170), fill=(200, 60, 40))
    picture.save(folder / "photo.jpg")
    return folder
