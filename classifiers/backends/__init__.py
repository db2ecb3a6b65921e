"""What runs a model: OpenVINO, torch, ultralytics, transformers."""

from classifiers.backends.batch_model import BatchModel
from classifiers.backends.checkpoint_model import RunOptions, load_network, open_checkpoint, read_config
from classifiers.backends.detector import Candidates, Detector, Labeller
from classifiers.backends.devices import Half, choose_device, choose_half
from classifiers.backends.openvino_model import OpenVinoModel, read_model, select_output
from classifiers.backends.preprocessing import Preprocessing, read_preprocessing
from classifiers.backends.text_encoder import ImageTextModel, unit
from classifiers.backends.threads import core_count, limit_threads, thread_count
from classifiers.backends.torch_runner import TorchRunner, compiled
from classifiers.backends.transformers_detectors import TransformersDetectors
from classifiers.backends.transformers_loading import load_model
from classifiers.backends.ultralytics_networks import download
from classifiers.backends.yolo import load_detector

__all__ = [
    "BatchModel",
    "Candidates",
    "Detector",
    "Half",
    "ImageTextModel",
    "Labeller",
    "OpenVinoModel",
    "Preprocessing",
    "RunOptions",
    "TorchRunner",
    "TransformersDetectors",
    "choose_device",
    "choose_half",
    "compiled",
    "core_count",
    "download",
    "limit_threads",
    "load_detector",
    "load_model",
    "load_network",
    "open_checkpoint",
    "read_config",
    "read_model",
    "read_preprocessing",
    "select_output",
    "thread_count",
    "unit",
]
