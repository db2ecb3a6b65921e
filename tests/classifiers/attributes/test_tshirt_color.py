from __future__ import annotations

import csv
from pathlib import Path
from typing import get_type_hints

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PilImage
from PIL import ImageDraw
from pydantic import TypeAdapter, ValidationError

from classifiers import Image, SetupError
from classifiers.attributes import TShirtColorClassifier
from classifiers.attributes.colour_names import COLOUR_NAMES, name_memberships, skin_likeness
from classifiers.imaging.crops import crop

Colour = tuple[int, int, int]

GARMENTS: dict[str, Colour] = {
    "black": (24, 24, 26),
    "white": (236, 236, 232),
    "grey": (128, 129, 130),
    "red": (190, 25, 35),
    "orange": (232, 110, 25),
    "yellow": (240, 205, 45),
    "green": (35, 120, 60),
    "blue": (40, 75, 165),
    "purple": (105, 50, 135),
    "pink": (235, 130, 170),
    "brown": (105, 65, 35),
}
BACKGROUNDS: dict[str, Colour] = {
    "grass": (96, 128, 64),
    "sky": (150, 190, 230),
    "wall": (205, 200, 190),
    "night": (30, 32, 40),
    "brick": (140, 80, 65),
}
SKINS: dict[str, Colour] = {"light": (224, 180, 155), "medium": (190, 135, 100), "dark": (95, 62, 45)}
HAIR, JEANS = (60, 45, 35), (45, 55, 85)


def person(garment: Colour, background: Colour, skin: Colour, *, upper_part: bool = False) -> Image:
    """A person from head to foot, or to the waist, lit from the left, with noise."""
    size = (160, 200) if upper_part else (120, 300)
    picture = PilImage.new("RGB", size, background)
    draw = ImageDraw.Draw(picture)
    if upper_part:
        draw.rounded_rectangle((20, 110, 140, 215), 25, fill=garment)
        draw.rectangle((65, 90, 95, 118), fill=skin)
        draw.ellipse((48, 12, 112, 102), fill=skin)
        draw.pieslice((46, 8, 114, 80), 180, 360, fill=HAIR)
    else:
        for left in (40, 62):
            draw.rectangle((left, 150, left + 18, 290), fill=JEANS)
        for left in (20, 86):
            draw.rectangle((left, 62, left + 14, 150), fill=skin)
        draw.rounded_rectangle((30, 52, 90, 155), 10, fill=garment)
        draw.rectangle((18, 55, 102, 90), fill=garment)
        draw.rectangle((52, 40, 68, 56), fill=skin)
        draw.ellipse((42, 4, 78, 48), fill=skin)
        draw.pieslice((42, 2, 78, 40), 180, 360, fill=HAIR)
    lit = np.asarray(picture) * np.linspace(1.08, 0.86, size[0])[np.newaxis, :, np.newaxis]
    noisy = lit + np.random.default_rng(0).normal(0, 6, lit.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier() -> TShirtColorClassifier:
    return TShirtColorClassifier()


def label(classifier: TShirtColorClassifier, image: Image) -> str:
    found: str = classifier.process(image, {})["label"]
    return found


@pytest.mark.parametrize("upper_part", [False, True], ids=["full", "upper"])
@pytest.mark.parametrize("colour", [colour for colour in GARMENTS if colour != "brown"])
def test_garments_of_drawn_persons(classifier: TShirtColorClassifier, colour: str, upper_part: bool) -> None:
    scenes = [
        person(GARMENTS[colour], background, skin, upper_part=upper_part)
        for background in BACKGROUNDS.values()
        for skin in SKINS.values()
    ]
    wrong = [name for name in (label(classifier, scene) for scene in scenes) if name != colour]
    # One of the 15 at most: a grey garment at night is hard to tell from a white one.
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize("upper_part", [False, True], ids=["full", "upper"])
def test_brown_garments_are_not_taken_for_skin(classifier: TShirtColorClassifier, upper_part: bool) -> None:
    scenes = [
        person(GARMENTS["brown"], background, skin, upper_part=upper_part)
        for where, background in BACKGROUNDS.items()
        for skin in SKINS.values()
        if where != "night"  # nor would a human be sure
    ]
    assert sum(label(classifier, scene) == "brown" for scene in scenes) >= len(scenes) - 1


@pytest.mark.parametrize("colour", COLOUR_NAMES)
def test_a_crop_of_one_colour_has_it(classifier: TShirtColorClassifier, colour: str) -> None:
    assert label(classifier, np.full((64, 32, 3), GARMENTS[colour], np.uint8)) == colour


def test_result_has_the_shape_of_the_contract(classifier: TShirtColorClassifier) -> None:
    result = classifier.process(person(GARMENTS["red"], BACKGROUNDS["wall"], SKINS["light"]), {})
    assert set(result) == {"label", "confidence", "labels"}
    assert {"label": result["label"], "confidence": result["confidence"]} == result["labels"][0]
    assert len(result["labels"]) == 3
    confidences = [entry["confidence"] for entry in result["labels"]]
    assert confidences == sorted(confidences, reverse=True)
    assert all(0 <= confidence <= 1 and confidence == round(confidence, 4) for confidence in confidences)


def test_confidences_of_all_names_sum_to_one() -> None:
    result = TShirtColorClassifier(top_k=11).process(person(GARMENTS["pink"], BACKGROUNDS["sky"], SKINS["dark"]), {})
    assert {entry["label"] for entry in result["labels"]} == set(COLOUR_NAMES)
    assert sum(entry["confidence"] for entry in result["labels"]) == pytest.approx(1, abs=1e-3)


def test_clear_garments_are_answered_with_more_confidence(classifier: TShirtColorClassifier) -> None:
    def confidence(garment: Colour) -> float:
        return float(classifier.process(person(garment, BACKGROUNDS["wall"], SKINS["light"]), {})["confidence"])

    assert confidence((190, 25, 35)) > 0.9
    assert confidence((170, 70, 90)) < 0.7  # between red and pink


@pytest.mark.parametrize("light", [(1.12, 1, 0.7), (0.85, 1, 1.15)], ids=["lamp", "shade"])
@pytest.mark.parametrize("colour", ["white", "grey", "black", "red", "blue"])
def test_coloured_light_is_evened_out(
    classifier: TShirtColorClassifier, colour: str, light: tuple[float, float, float]
) -> None:
    scene = person(GARMENTS[colour], BACKGROUNDS["wall"], SKINS["light"])
    assert label(classifier, np.clip(scene * np.array(light), 0, 255).astype(np.uint8)) == colour


def test_batch_gives_what_single_calls_give(classifier: TShirtColorClassifier) -> None:
    scenes = [person(garment, BACKGROUNDS["brick"], SKINS["medium"]) for garment in GARMENTS.values()]
    for got, alone in zip(
        classifier.process_batch(scenes, [{}] * len(scenes)), [classifier.process(s, {}) for s in scenes], strict=True
    ):
        assert got["label"] == alone["label"]
        assert got["confidence"] == pytest.approx(alone["confidence"], abs=1e-3)
    assert classifier.process_batch([], []) == []


def test_crop_in_its_own_size_and_in_input_size_give_the_same(classifier: TShirtColorClassifier) -> None:
    scene = person(GARMENTS["green"], BACKGROUNDS["wall"], SKINS["light"])
    height, width = scene.shape[:2]
    assert classifier.input_size is not None
    resized = crop(scene, (0, 0, width, height), classifier.input_size)
    assert classifier.process(scene, {}) == classifier.process(resized, {})


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (64, 32)])
@pytest.mark.parametrize("value", [0, 255])
def test_degenerate_crops_have_an_answer(classifier: TShirtColorClassifier, shape: tuple[int, int], value: int) -> None:
    image = np.full((*shape, 3), value, np.uint8)
    image.setflags(write=False)
    assert label(classifier, image) == ("white" if value else "black")


def close_up(skin: Colour) -> Image:
    """A face from the hair to the chin, in front of a wall."""
    picture = PilImage.new("RGB", (160, 160), BACKGROUNDS["wall"])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((20, 0, 140, 160), fill=HAIR)
    draw.ellipse((45, 5, 115, 150), fill=skin)
    return np.asarray(picture)


@pytest.mark.parametrize("skin", SKINS)
def test_where_no_garment_is_visible_it_says_so(classifier: TShirtColorClassifier, skin: str) -> None:
    scenes = [close_up(SKINS[skin]), person(GARMENTS["red"], BACKGROUNDS["wall"], SKINS[skin])]

    unknown, red = classifier.process_batch(scenes, [{}, {}])

    assert unknown == {"label": "unknown", "confidence": 0.0, "labels": [], "reason": "a face fills the crop"}
    assert red["label"] == "red"


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([10, 10, 60, 160], None),
        ([10, 10, 30, 40], "the person is too small: 20x30 pixels"),
        ([10, 10, 20, 60], "the person is too small: 10x50 pixels"),
        ([0, 10, 20, 160], "only an edge of the person is visible: 20x150 pixels"),
    ],
)
def test_too_little_of_a_person_is_not_named(
    classifier: TShirtColorClassifier, bbox: list[float], reason: str | None
) -> None:
    scene = person(GARMENTS["red"], BACKGROUNDS["wall"], SKINS["light"])

    result = classifier.process(scene, {"detection": {"bbox": bbox}})

    assert result.get("reason") == reason
    assert result["label"] == ("red" if reason is None else "unknown")


@pytest.mark.parametrize("tunables", [{"skin_suppression": 1.0}, {"background_suppression": 100.0}])
def test_crop_of_skin_all_over_has_an_answer(tunables: dict[str, float]) -> None:
    result = TShirtColorClassifier(**tunables).process(np.full((64, 32, 3), SKINS["medium"], np.uint8), {})  # type: ignore[arg-type]
    assert 0 < result["confidence"] <= 1


def test_default_crops_are_persons() -> None:
    assert TShirtColorClassifier.default_crops == "detection['class_name'] == 'person'"
    assert TShirtColorClassifier().name == "tshirt_color"


def test_suppressions_do_what_they_say() -> None:
    background, skin = BACKGROUNDS["brick"], SKINS["medium"]
    scene = np.full((64, 32, 3), background, np.uint8)
    scene[18:28, 12:20] = GARMENTS["blue"]
    assert label(TShirtColorClassifier(background_suppression=10), scene) == "blue"
    assert label(TShirtColorClassifier(background_suppression=0), scene) != "blue"

    scene = np.full((64, 32, 3), BACKGROUNDS["sky"], np.uint8)
    scene[10:40, 6:26] = skin
    scene[20:30, 9:23] = GARMENTS["purple"]
    assert label(TShirtColorClassifier(skin_suppression=1), scene) == "purple"
    assert label(TShirtColorClassifier(skin_suppression=0), scene) != "purple"


def test_reconfigure_changes_the_next_answer() -> None:
    classifier = TShirtColorClassifier()
    scene = person(GARMENTS["blue"], BACKGROUNDS["grass"], SKINS["dark"])
    before = classifier.process(scene, {})
    classifier.reconfigure(top_k=1)
    after = classifier.process(scene, {})
    assert after == {**before, "labels": before["labels"][:1]}
    classifier.reconfigure()
    assert classifier.process(scene, {}) == after


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "TShirtColorClassifier: top_k"),
        ({"top_k": 12}, "top_k"),
        ({"skin_suppression": 1.5}, "skin_suppression"),
        ({"background_suppression": -1}, "background_suppression"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        TShirtColorClassifier(**arguments)  # type: ignore[arg-type]
    classifier = TShirtColorClassifier()
    with pytest.raises(SetupError, match=message):
        classifier.reconfigure(**arguments)
    hints = get_type_hints(TShirtColorClassifier.__init__, include_extras=True)
    for name, value in arguments.items():
        with pytest.raises(ValidationError):
            TypeAdapter(hints[name]).validate_python(value)


def test_unknown_tunable() -> None:
    with pytest.raises(SetupError, match="threshold"):
        TShirtColorClassifier().reconfigure(threshold=1)


@pytest.mark.parametrize(
    ("name", "colours"),
    [
        ("red", "ff0000 e50000 b22222 dc143c 8b0000 a01020"),
        ("pink", "ff81c0 ffc0cb ff69b4 ff1493 c2185b"),
        ("orange", "ff7f00 f97306 ff8c00 e06010"),
        ("yellow", "ffff14 ffd700 f0e040 e0c020"),
        ("green", "008000 15b01a 228b22 006400 3cb371 90ee90 6b8e23 00ff00"),
        ("blue", "0000ff 0343df 000080 4169e1 87ceeb add8e6 1e3a5f 4682b4"),
        ("purple", "7e1e9c 800080 9370db 4b0082 6a0dad"),
        ("brown", "653700 5c4033 6f4e37 8b4513 a0784f"),
        ("black", "000000 1a1a1a 202024"),
        ("white", "ffffff f0f0f0 dcdcdc f5e9c8 fff5d6 c8ccd0"),
        ("grey", "808080 696969 707880 606468"),
    ],
)
def test_names_of_well_known_colours(name: str, colours: str) -> None:
    rgb = np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.uint8)
    found = [COLOUR_NAMES[i] for i in name_memberships(rgb).argmax(axis=1)]
    assert found == [name] * len(rgb)


def test_memberships_are_shares() -> None:
    rgb: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5000, 3), dtype=np.uint8)
    memberships = name_memberships(rgb)
    assert memberships.shape == (5000, 11)
    assert memberships.min() >= -1e-12
    assert memberships.sum(axis=1) == pytest.approx(1)


def test_skin_is_told_from_cloth() -> None:
    # The last three are tones 6 to 8 of the Monk scale.
    skins = np.array([*SKINS.values(), (160, 126, 86), (130, 92, 67), (96, 65, 52)], np.uint8)
    cloth = np.array([GARMENTS[name] for name in GARMENTS if name != "brown"], np.uint8)
    assert skin_likeness(skins).min() > 0.5
    assert skin_likeness(cloth).max() < 0.35


def test_real_crops(shared_data: Path, classifier: TShirtColorClassifier) -> None:
    with (shared_data / "tshirt" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [np.asarray(PilImage.open(shared_data / "tshirt" / "crops" / row["crop"]).convert("RGB")) for row in rows]
    labels = ["grey" if row["colour"] == "gray" else row["colour"] for row in rows]

    results = classifier.process_batch(images, [{}] * len(images))

    right = np.array([result["label"] == label for result, label in zip(results, labels, strict=True)])
    confidences = np.array([result["confidence"] for result in results])
    assert len(right) >= 37
    assert right.mean() >= 0.85
    assert confidences[right].mean() > confidences[~right].mean() + 0.1
    named = [{entry["label"] for entry in result["labels"]} for result in results]
    assert np.mean([label in names for label, names in zip(labels, named, strict=True)]) >= 0.9
