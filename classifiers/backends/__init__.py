"""What runs a model: OpenVINO, torch, ultralytics, transformers."""

from classifiers.backends.batch_model import BatchModel
from classifiers.backends.devices import Half, choose_device, choose_half
from classifiers.backends.openvino_model import OpenVinoModel, read_model
from classifiers.backends.preprocessing import Preprocessing, read_preprocessing
from classifiers.backends.threads import core_count, limit_threads, thread_count
from classifiers.backends.torch_runner import TorchRunner, compiled
from classifiers.backends.transformers_loading import load_classifier
from classifiers.backends.ultralytics_networks import download
from classifiers.backends.yolo import Candidates, load_detector

__all__ = [
    "BatchModel",
    "Candidates",
    "Half",
    "OpenVinoModel",
    "Preprocessing",
    "TorchRunner",
    "choose_device",
    "choose_half",
    "compiled",
    "core_count",
    "download",
    "limit_threads",
    "load_classifier",
    "load_detector",
    "read_model",
    "read_preprocessing",
    "thread_count",
]
