"""Where the weights of a model are, and what they are."""

from classifiers.weights.catalogue import CATALOGUE, KnownModel
from classifiers.weights.checkpoints import CODE, TOKENIZER, Checkpoint, Runtime, find_checkpoint
from classifiers.weights.finding import LocalPath, ModelRef, cache_folder, digest_weights, find_model, model_not_found

__all__ = [
    "CATALOGUE",
    "CODE",
    "TOKENIZER",
    "Checkpoint",
    "KnownModel",
    "LocalPath",
    "ModelRef",
    "Runtime",
    "cache_folder",
    "digest_weights",
    "find_checkpoint",
    "find_model",
    "model_not_found",
]
