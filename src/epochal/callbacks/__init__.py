"""Callbacks by Keras's names."""

from epochal.callbacks.averages import SwapEMAWeights
from epochal.callbacks.backup import BackupAndRestore
from epochal.callbacks.base import Callback
from epochal.callbacks.batch_size import BatchSizeSchedule
from epochal.callbacks.files import CSVLogger, ModelCheckpoint
from epochal.callbacks.functions import LambdaCallback
from epochal.callbacks.history import History
from epochal.callbacks.lists import CallbackList
from epochal.callbacks.noise import NoiseScale
from epochal.callbacks.progress import ProgbarLogger
from epochal.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from epochal.callbacks.remote import RemoteMonitor
from epochal.callbacks.stopping import EarlyStopping, TerminateOnNaN
from epochal.callbacks.tensorboard import TensorBoard

__all__ = [
    "BackupAndRestore",
    "BatchSizeSchedule",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "NoiseScale",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
