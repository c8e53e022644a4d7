"""Callbacks by Keras's names."""

from epochal.callbacks.backup import BackupAndRestore
from epochal.callbacks.base import Callback, CallbackList
from epochal.callbacks.files import CSVLogger, ModelCheckpoint
from epochal.callbacks.functions import LambdaCallback
from epochal.callbacks.history import History
from epochal.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from epochal.callbacks.stopping import EarlyStopping, TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
